"""Weights from one library's names to another's: `python -m torchflava.convert facebook/flava-full out --to torchflava`.

It prints what the source was recognised as, what was written, what was left out and what begins anew.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:  # what takes seconds to import waits until the flags are known to be right
    from torchflava.codebooks import DalleCodebook, PatchCodebook
    from torchflava.models import Loaded, Written

Target = Literal["torchflava", "transformers", "torchmultimodal", "open_clip", "openai"]
_FILES = {"torchflava": "model.safetensors", "torchmultimodal": "model.pt", "openai": "encoder.safetensors"}


@dataclass(frozen=True)
class Convert:
    """Write weights of any library that torchflava reads as another one's."""

    source: Annotated[str, tyro.conf.Positional]
    """A file or folder of weights, or the name of a model on the Hugging Face Hub, such as facebook/flava-full."""
    dest: Annotated[Path, tyro.conf.Positional]
    """The folder to write; for all but transformers also a file: out.safetensors or, for torchmultimodal, out.pt."""
    to: Target = "transformers"
    """Whose weights to write; open_clip is for CLIP, openai for a dVAE by itself, under the names of OpenAI's encoder.pkl."""
    codebook: str = ""
    """A dVAE that goes into a model for pretraining, a file or its name on the Hub; by default the one in the source, if it has
    one; none leaves it out."""
    vocab: str = ""
    """A vocabulary, vocab.txt or tokenizer.json, that goes with the model; by default the one beside the source."""
    revision: str = ""
    """Branch, tag or commit of a source on the Hub."""
    part: str = ""
    """Of a file that holds several state dicts, which one; of DINO's student and teacher the teacher by default."""
    num_heads: tuple[int, ...] = ()
    """Heads of attention, one number for all encoders or one for each, where the source does not say."""
    image_size: int = 0
    """Side of the images, to which the positions are resized; 0 leaves them."""
    reads: Literal["", "image", "text", "pair"] = ""
    """What a classifier looks at, where the source does not say."""
    overwrite: bool = False
    """Write into a folder that has files in it, or over a file."""


def main(words: Sequence[str]) -> None:
    """Convert, and say what was done."""
    asked = tyro.cli(Convert, args=list(words), prog="python -m torchflava.convert")
    try:
        print(convert(asked))
    except (ValueError, OSError) as error:
        sys.exit(f"torchflava.convert: {error}")


def convert(asked: Convert) -> str:
    """Write the weights; what was done, in lines.

    Raises:
        ValueError: for a source or a model that cannot be converted, or a destination that is not empty.
        OSError: if something cannot be read or written.
    """
    from torchflava.models import load_pretrained
    from torchflava.models.hub import find_or_fetch

    _check_dest(asked)
    source = find_or_fetch(asked.source, asked.revision or None)
    heads = asked.num_heads[0] if len(asked.num_heads) == 1 else asked.num_heads or None
    size = asked.image_size or None
    loaded = load_pretrained(source, part=asked.part or None, num_heads=heads, image_size=size)
    if asked.reads:
        _let_read(loaded.model, asked.reads, f"{asked.source} is {loaded.layout}")
    written = _written(asked, loaded, source)
    lines = [
        f"{asked.source} is {loaded.layout}",
        "",
        f"written as {written.layout}:",
        *(f"  {x}" for x in written.files),
    ]
    lines += _listed("left out of the source", loaded.unused)
    lines += _listed("not in the source, begins anew", loaded.made)
    lines += _listed("not in this model, written as it begins", written.made)
    lines += _listed("what the other library cannot be told", written.differs, whole=True)
    return "\n".join([*lines, "", "load it by:", *(f"  {line}" for line in written.load.splitlines())])


def _check_dest(asked: Convert) -> None:
    dest = asked.dest
    if asked.to == "transformers" and (dest.is_file() or dest.suffix in (".safetensors", ".pt", ".pth", ".bin")):
        raise ValueError(f"{dest} is a file's name; transformers loads a folder, name one")
    wrong = {".pt", ".pth", ".bin", ".pkl", ".ckpt"} - (
        {".pt", ".pth", ".bin"} if asked.to == "torchmultimodal" else set()
    )
    if dest.suffix in wrong and not dest.is_dir():
        raise ValueError(f"{dest}: --to {asked.to} writes no {dest.suffix}; name a .safetensors file, or a folder")
    there = dest.is_file() or (dest.is_dir() and any(dest.iterdir()))
    if there and not asked.overwrite:
        raise ValueError(f"{dest} is there and not empty; name another, or say --overwrite")


def _let_read(model: object, reads: 'Literal["image", "text", "pair"]', told: str) -> None:
    """Let a classifier over a class token look at what the user says."""
    from torchflava.models import FlavaForClassification

    if not isinstance(model, FlavaForClassification):
        raise ValueError(f"{told}, no classifier over a class token; leave --reads out")
    parts: dict[str, Any] = {
        "image": model.flava.image_encoder,
        "text": model.flava.text_encoder,
        "pair": model.flava.fusion_encoder,
    }
    width, wide = parts[reads].width, len(model.classifier.get_parameter("dense.weight")[0])
    if width != wide:
        raise ValueError(f"{told}, whose classifier is {wide} wide and cannot read {reads!r}, states of {width}")
    model.reads = reads


def _written(asked: Convert, loaded: "Loaded", source: Path) -> "Written":
    from torchflava.codebooks import DalleCodebook, PatchCodebook
    from torchflava.encoders import FusionEncoder, ImageEncoder, TextEncoder
    from torchflava.models import Written, to_torchmultimodal, to_transformers
    from torchflava.transforms.tokenizer import tokenizer_beside

    model = loaded.model
    file = _file(asked)
    _check_used(asked, alone=isinstance(model, DalleCodebook | PatchCodebook))
    if asked.to == "openai" and not isinstance(model, DalleCodebook):
        raise ValueError(f"{asked.source} is {loaded.layout}; --to openai is for a dVAE by itself")
    if asked.to in ("torchflava", "openai"):
        files = _own_files(asked, loaded, source)
        call = "DalleCodebook.from_file" if isinstance(model, DalleCodebook) else "torchflava.from_pretrained"
        return Written(f"torchflava's {type(model).__name__}", files, {}, {}, f"model = {call}({str(file)!r})")
    if asked.to == "open_clip":
        return _for_open_clip(asked, loaded, source)
    if isinstance(model, ImageEncoder | TextEncoder | FusionEncoder | PatchCodebook):
        raise ValueError(
            f"{asked.source} is {loaded.layout}; {asked.to} takes a whole FLAVA or a dVAE, --to torchflava writes it as it is"
        )
    codebook = None if isinstance(model, DalleCodebook) else _codebook(asked, loaded, source)
    if asked.to == "torchmultimodal":
        return to_torchmultimodal(model, file, codebook=codebook)
    tokenizer = None if isinstance(model, DalleCodebook) else tokenizer_beside(source, asked.vocab)
    return to_transformers(model, asked.dest, codebook=codebook, tokenizer=tokenizer)


def _check_used(asked: Convert, *, alone: bool) -> None:
    """See that a codebook and a vocabulary that are named go somewhere; `alone` says that the source is a codebook itself."""
    beside = asked.to == "torchflava" and _file(asked).parent == asked.dest
    takers = {"codebook": ("transformers", "torchmultimodal"), "vocab": ("transformers", "open_clip")}
    for name, libraries in takers.items():
        given = getattr(asked, name)
        if given and given != "none" and (alone or not (beside or asked.to in libraries)):
            where = "a codebook by itself" if alone else f"--to {asked.to} {asked.dest}"
            raise ValueError(f"--{name} {given} has no place in {where}; leave it out")


def _for_open_clip(asked: Convert, loaded: "Loaded", source: Path) -> "Written":
    from torchflava.models import Clip, FlavaForPreTraining, clip_to_open_clip
    from torchflava.transforms.tokenizer import tokenizer_beside

    model = loaded.model
    whole = isinstance(model, FlavaForPreTraining) and isinstance(model.flava, Clip)
    if not isinstance(model, Clip | FlavaForPreTraining) or not (whole or isinstance(model, Clip)):
        raise ValueError(f"{asked.source} is {loaded.layout}; --to open_clip is for CLIP")
    tokenizer = tokenizer_beside(source, asked.vocab)
    return clip_to_open_clip(model, asked.dest, end_id=None if tokenizer is None else tokenizer.sep_id)


def _file(asked: Convert) -> Path:
    """The file that is written, where it is one."""
    return (
        asked.dest
        if asked.dest.suffix in (".safetensors", ".pt", ".pth", ".bin")
        else asked.dest / _FILES.get(asked.to, "")
    )


def _codebook(asked: Convert, loaded: "Loaded", source: Path) -> "DalleCodebook | PatchCodebook | None":
    """The codebook that is named, or the one in the source of a model for pretraining."""
    from torchflava.codebooks import DalleCodebook, load_codebook
    from torchflava.models import FlavaForPreTraining
    from torchflava.models.hub import find_or_fetch_codebook

    if asked.codebook and asked.codebook != "none":
        return load_codebook(find_or_fetch_codebook(asked.codebook))
    inside = any(name.startswith("image_codebook.") for name in loaded.unused)
    if asked.codebook == "none" or not inside or not isinstance(loaded.model, FlavaForPreTraining):
        return None
    image: Any = loaded.model.flava.image_encoder
    size = 8 * (image.embed.image_size // image.embed.patch_size)
    return DalleCodebook.from_file(source, part=asked.part or None, image_size=size)


def _own_files(asked: Convert, loaded: "Loaded", source: Path) -> tuple[Path, ...]:
    """Write this project's own file or, together with what goes beside it, folder."""
    from torchflava.models import save_pretrained
    from torchflava.models.written_together import together

    file = _file(asked)
    if file.parent != asked.dest:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_pretrained(loaded.model, file)
        return (file,)
    with together(asked.dest, file.name) as made:
        save_pretrained(loaded.model, made / file.name)
        beside = _beside(asked, loaded, source, folder=made)
    return (file, *(asked.dest / other.name for other in beside))


def _beside(asked: Convert, loaded: "Loaded", source: Path, *, folder: Path) -> tuple[Path, ...]:
    """Write the codebook and the vocabulary of a model into a folder, where there are any."""
    from torchflava.codebooks import DalleCodebook, PatchCodebook
    from torchflava.transforms.tokenizer import tokenizer_beside

    if isinstance(loaded.model, DalleCodebook | PatchCodebook):
        return ()
    found: tuple[Path, ...] = ()
    if (codebook := _codebook(asked, loaded, source)) is not None:
        codebook.save(folder / "codebook.safetensors")
        found += (folder / "codebook.safetensors",)
    if (tokenizer := tokenizer_beside(source, asked.vocab)) is not None:
        tokenizer.save(folder / "tokenizer.json")
        found += (folder / "tokenizer.json",)
    return found


def _listed(title: str, names: Mapping[str, str], *, whole: bool = False) -> list[str]:
    """The names by reason, the first of many; or each with its own."""
    if not names:
        return []
    if whole:
        return ["", f"{title}:", *(f"  {name}: {reason}" for name, reason in names.items())]
    lines = ["", f"{title}:"]
    for reason, count in Counter(names.values()).items():
        first = min(name for name, why in names.items() if why == reason)
        lines.append(f"  {first}{f' and {count - 1} more' if count > 1 else ''}: {reason}")
    return lines


if __name__ == "__main__":
    main(sys.argv[1:])
