"""Look at what a model does: `python recipes/look.py runs/first --pair photo.jpg "a dog on a beach" --out dog.html`.

    python recipes/look.py runs/first --pair photo.jpg "a dog on a beach" --mask dog --out dog.png
    python recipes/look.py runs/first --retrieval captions.tsv --images DIR --out found.html [--wrong-first]

One process, on the CPU or a GPU. Which classes are taken for which, and retrieval beside its numbers, are written by
recipes/zero_shot.py --page and recipes/linear_probe.py --confusion. docs/looking.md tells what is shown.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from evaluation_settings import Subject, ZeroShot, may_be_on_the_hub


@dataclass(frozen=True)
class LookAt:
    """Look at an image and a caption with a FLAVA, or at what any model retrieves."""

    model: Annotated[str, tyro.conf.Positional]
    """A run's folder, a file or folder of weights, or a model's name on the Hugging Face Hub, such as facebook/flava-full; for
    --retrieval also module:function of your own (docs/tasks.md)."""
    out: str = "look.html"
    """The file: a page (.html), or of a pair also a picture (.png)."""
    pair: tuple[str, str] | None = None
    """An image's file, and a caption."""
    mask: tuple[str, ...] = ()
    """Words of the caption to hide; by default some are drawn."""
    patches: int = -1
    """Patches to hide, in blocks; -1 for the paper's share of them, 0 for none."""
    seed: int = 0
    """Of what is hidden."""
    codebook: str = ""
    """Of the codes, a file or its name on the Hub; codebook.safetensors in the model's folder by default."""
    retrieval: str = ""
    """Karpathy's JSON, or a captions file (.tsv, .csv, .jsonl, .json)."""
    images: str = ""
    """The folder with its images."""
    split: str = ""
    """Of Karpathy's file; its test split by default."""
    queries: int = 40
    """That are shown each way."""
    wrong_first: bool = False
    """Show the queries that are answered worst, instead of some spread evenly over all."""
    vocab: str = ""
    """A vocabulary, vocab.txt or tokenizer.json; by default the one in the model's folder."""
    image_size: int = 0
    """Side of the images, to which the positions are resized; 0 is the model's own."""
    name: str = ""
    """What pages call the model; the name of its folder or file by default."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @property
    def subject(self) -> Subject:
        """The model, as evaluations name it."""
        return Subject(
            self.model, vocab=self.vocab, image_size=self.image_size, name=self.name, device=self.device, out="."
        )


def main(words: Sequence[str]) -> None:
    """Write the file."""
    asked = tyro.cli(LookAt, args=list(words), prog="look.py")
    if told := complaint(asked):
        sys.exit(f"look.py: {told}")
    try:
        told = _retrieve(asked) if asked.retrieval else _pair(asked)
    except (ValueError, OSError) as error:
        sys.exit(f"look.py: {error}")
    print(f"{told}{asked.out}", flush=True)


def complaint(asked: LookAt) -> str:
    """What cannot be meant, or nothing."""
    if bool(asked.pair) == bool(asked.retrieval):
        return "give one of --pair IMAGE CAPTION, and --retrieval FILE with --images FOLDER"
    if asked.retrieval and not asked.images:
        return f"--retrieval {asked.retrieval} names images; say by --images in which folder they lie"
    if asked.pair and (asked.images or asked.split or asked.wrong_first):
        return "--images, --split and --wrong-first are for --retrieval; leave them out"
    if asked.retrieval and (asked.mask or asked.codebook or asked.patches != -1 or asked.seed):
        return "--mask, --patches, --seed and --codebook are for --pair; leave them out"
    if Path(asked.out).suffix not in ((".html", ".png") if asked.pair else (".html",)):
        return f"--out {asked.out} ends in neither .html nor, for a pair, .png; choose one"
    if asked.patches < -1 or asked.queries < 1:
        return f"--patches {asked.patches} must be -1 or more, and --queries {asked.queries} 1 or more"
    if not asked.subject.is_code and not Path(asked.model).exists() and not may_be_on_the_hub(asked.model):
        return f"{asked.model} is neither a file or folder that is there nor module:function"
    if asked.pair and asked.subject.is_code:
        return f"--pair looks into a FLAVA of this project's, and {asked.model} is a function; give its weights"
    return ""


def _pair(asked: LookAt) -> str:
    from evaluated import length_of_run, loaded_model, tokenizer_of
    from look_drawing import draw
    from look_pair import Pair, look
    from look_pair_page import write_pair

    from torchflava.models.hub import find_or_fetch
    from torchflava.tasks import read_image
    from torchflava.training import session

    assert asked.pair is not None
    file, caption = asked.pair
    with session(0, asked.device) as run:
        subject = replace(asked.subject, model=str(find_or_fetch(asked.model)))
        tokenizer = tokenizer_of(subject)
        if tokenizer is None:
            raise ValueError(f"{asked.model} has no vocabulary beside it; give it by --vocab")
        num_patches = None if asked.patches == -1 else asked.patches
        longest = length_of_run(subject)
        pair = Pair(read_image(Path(file)), caption, asked.mask, num_patches, asked.seed, longest)
        model = loaded_model(subject).to(run.device).eval()
        found = look(model, tokenizer, pair, codebook=_codebook(asked, Path(subject.model)))
    if Path(asked.out).suffix == ".png":
        draw(found, f"{caption}  ({asked.subject.shown})", Path(asked.out))
    else:
        write_pair(Path(asked.out), found, caption, image=Path(file).name, model=asked.subject.shown)
    return ""


def _codebook(asked: LookAt, model: Path) -> Any:
    """The codebook that is named, or lies in the model's folder."""
    from torchflava.codebooks import load_codebook
    from torchflava.models.hub import find_or_fetch_codebook

    if asked.codebook:
        return load_codebook(find_or_fetch_codebook(asked.codebook))
    beside = (model if model.is_dir() else model.parent) / "codebook.safetensors"
    return load_codebook(beside) if beside.is_file() else None


def _retrieve(asked: LookAt) -> str:
    from evaluated import open_evaluated
    from features import Feeder
    from retrieving import retrieved

    from torchflava.training import session

    config = ZeroShot(
        asked.subject,
        images=asked.images,
        retrieval=asked.retrieval,
        split=asked.split,
        page=asked.out,
        page_queries=asked.queries,
        wrong_first=asked.wrong_first,
    )
    with session(0, asked.device) as run:
        (outcome,) = retrieved(config, Feeder(open_evaluated(asked.subject, run.device), asked.subject, run))
    return "".join(f"{task}: {metric} {value:.4f}\n" for task, metric, value in outcome[0])


if __name__ == "__main__":
    main(sys.argv[1:])
