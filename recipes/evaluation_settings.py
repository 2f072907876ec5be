"""What linear_probe.py and zero_shot.py can be told. It imports no torch: a login node looks at the words too."""

import importlib.util
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro
from results import name_of

CODE = re.compile(r"[\w.]+:\w+")
"""A user's own model: module:function."""


def kind_of(folder: Path) -> Literal["pretraining", "fine-tuning", "other"]:
    """Whose folder it is: a run's config.json has a preset, where transformers' has none, and of fine-tuning a task."""
    try:
        told = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return "other"
    if not isinstance(told, dict) or "preset" not in told:
        return "other"
    return "fine-tuning" if "task" in told else "pretraining"


@dataclass(frozen=True)
class Subject:
    """The model that is evaluated, and how it is fed."""

    model: str
    """A run's folder, a file or folder of weights that torchflava.models.from_pretrained reads, or a model's name on the Hugging
    Face Hub, such as facebook/flava-full; or module:function of your own, which takes a device and returns an Evaluated
    (docs/tasks.md)."""
    vocab: str = ""
    """A vocabulary, vocab.txt or tokenizer.json; by default the one in the model's folder."""
    image_size: int = 0
    """Side of the images, to which the positions are resized; 0 is the model's own."""
    max_length: int = 0
    """The longest text in tokens; 0 is the run's, or 77, or the most that the model can read."""
    name: str = ""
    """What results call the model; the name of its folder or file by default."""
    out: str = ""
    """The folder for results.json; the run's own by default, else runs/NAME."""
    batch_size: int = 64
    """Images, or texts, that the model sees at once on a rank."""
    threads: int = 4
    """That decode images, on each rank."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """In which the model computes; a model of your own decides that itself."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @property
    def shown(self) -> str:
        """What results call the model."""
        return self.name or (self.model if self.is_code else name_of(Path(self.model)))

    @property
    def is_code(self) -> bool:
        """Whether the model is a function of the user's."""
        return bool(CODE.fullmatch(self.model)) and not Path(self.model).exists()

    @property
    def place(self) -> Path:
        """Where results go."""
        own = Path(self.model)
        here = own if kind_of(own) != "other" else Path("runs") / self.shown.replace(":", "-")
        return Path(self.out) if self.out else here


@dataclass(frozen=True)
class Probe:
    """Linear probes of image tasks: logistic regression on the features of the image encoder's last layer."""

    subject: Annotated[Subject, tyro.conf.arg(name="")]
    task: tuple[str, ...] = ("all",)
    """Names of tasks (docs/tasks.md), or all: those whose data are there."""
    root: str = "data/tasks"
    """The folder with the tasks' data, laid out as docs/tasks.md says."""
    train: str = ""
    """Images of your own to learn from, instead of --task's: a folder that holds a folder for each class, or a .jsonl, or .tsv
    with a head, of rows with image and label. --task then names them; by default the folder of --test does."""
    valid: str = ""
    """Of your own: to choose λ on; without it a fifth of each class of --train."""
    test: str = ""
    """Of your own: to measure on once."""
    images: str = ""
    """The folder that rows of your own name their images from; that of each file by default."""
    backend: Literal["torch", "sklearn"] = "torch"
    """Who fits: torch, on the GPU too, or scikit-learn."""
    max_iter: int = 1000
    """Iterations of L-BFGS at most, for each fit."""
    features: str = ""
    """The folder in which features are kept; features in the folder for results by default."""
    confusion: str = ""
    """A page (.html) to write which classes are taken for which; of several tasks one each, NAME-task.html."""


@dataclass(frozen=True)
class ZeroShot:
    """Zero-shot classification of tasks or of a folder of classes, or retrieval of images and captions."""

    subject: Annotated[Subject, tyro.conf.arg(name="")]
    task: tuple[str, ...] = ()
    """Names of tasks (docs/tasks.md) to classify, such as imagenet; or all: those whose data are there."""
    root: str = "data/tasks"
    """The folder with the tasks' data."""
    images: str = ""
    """A folder that holds a folder for each class; or with --retrieval the folder with its images."""
    names: str = ""
    """A text file with what each class is called, one a line, in the order of the classes."""
    templates: str = ""
    """A text file with prompts, one a line, {} for the class; by default the task's own, or "a photo of a {}."."""
    retrieval: str = ""
    """Karpathy's JSON, or a captions file (.tsv, .csv, .jsonl, .json), for retrieval both ways."""
    pairs: str = ""
    """Rows of image, text and label, 1 where they belong together and 0 where not (.jsonl, or .tsv with a head): how well they
    are told apart. --images is the folder that they name images from, the file's by default."""
    split: str = ""
    """Of Karpathy's file; its test split by default."""
    captions: int = 5
    """Captions of an image that count, the first ones."""
    rerank: int = 0
    """How many of the nearest are put in order once more by the matching head; 0 for none."""
    page: str = ""
    """A page (.html) to write: of retrieval queries with what is found for them, of classes which are taken for which; of several
    tasks one each, NAME-task.html."""
    page_queries: int = 40
    """Queries of retrieval that the page shows each way."""
    wrong_first: bool = False
    """Show the queries that are answered worst, instead of some spread evenly over all."""


Config = TypeVar("Config", Probe, ZeroShot)


def parse_probe(words: Sequence[str], *, places: bool = True) -> Probe:
    """The settings that command-line `words` ask for; ends the program where one cannot be.

    Args:
        words: of the command line.
        places: whether to look for the files and folders that they name, which may lie where only the job sees them.
    """
    config = tyro.cli(Probe, args=list(words), prog="linear_probe.py")
    found = [*_of_subject(config.subject, places=places), *_of_probe(config)]
    if places:
        found += [
            f"--{flag} {given} is not there"
            for flag in ("train", "valid", "test", "images")
            if (given := getattr(config, flag)) and not Path(given).exists()
        ]
    return _or_exit(config, found, "linear_probe.py")


def parse_zero_shot(words: Sequence[str], *, places: bool = True) -> ZeroShot:
    """As `parse_probe`, for zero_shot.py."""
    config = tyro.cli(ZeroShot, args=list(words), prog="zero_shot.py")
    found = [*_of_subject(config.subject, places=places), *_of_zero_shot(config)]
    if places:
        found += [
            f"--{flag} {given} is not there"
            for flag in ("images", "names", "templates", "retrieval", "pairs")
            if (given := getattr(config, flag)) and not Path(given).exists()
        ]
    return _or_exit(config, found, "zero_shot.py")


def _or_exit(config: Config, complaints: Sequence[str], recipe: str) -> Config:
    if complaints:
        sys.exit(f"{recipe}: {complaints[0]}")
    return config


def may_be_on_the_hub(name: str) -> bool:
    """Whether something that is not here has the form of a model's name on the Hugging Face Hub."""
    from torchflava.models.hub import is_hub_name  # it imports torch

    return is_hub_name(name)


def _of_subject(subject: Subject, *, places: bool) -> Iterator[str]:
    for name in ("batch_size", "threads"):
        if getattr(subject, name) < 1:
            yield f"--{name.replace('_', '-')} {getattr(subject, name)} must be 1 or more"
    if subject.image_size < 0:
        yield f"--image-size {subject.image_size} must be above 0, or 0 for the model's own"
    if subject.max_length and not 3 <= subject.max_length <= 512:
        yield f"--max-length {subject.max_length} must be from 3 to 512, or 0 for the model's own"
    if subject.is_code:
        given = {"--vocab": subject.vocab, "--image-size": subject.image_size, "--max-length": subject.max_length}
        given["--precision"] = subject.precision != "fp32"
        for flag, value in given.items():
            if value:
                yield f"{flag} is for models that this project builds; {subject.model} decides it itself, leave it out"
    elif places and not Path(subject.model).exists() and not may_be_on_the_hub(subject.model):
        yield f"--model {subject.model} is neither a file or folder that is there nor module:function"
    if places and subject.vocab and not Path(subject.vocab).exists():
        yield f"--vocab {subject.vocab} is not there"


def _of_probe(config: Probe) -> Iterator[str]:
    if config.max_iter < 1:
        yield f"--max-iter {config.max_iter} must be 1 or more"
    if config.backend == "sklearn" and config.subject.device == "cuda":
        yield "--backend sklearn fits on the CPU; leave --device out, or choose --backend torch"
    if config.backend == "sklearn" and importlib.util.find_spec("sklearn") is None:
        yield "--backend sklearn needs scikit-learn: pip install 'torchflava[eval]'"
    yield from _of_page("confusion", config.confusion)
    yield from _of_tasks(config.task)
    if not config.task:
        yield "--task names no task; give names, or all"
    if bool(config.train) != bool(config.test) or ((config.valid or config.images) and not config.train):
        yield "images of your own need --train and --test, and may have --valid and --images"
    if config.train and len(config.task) > 1:
        yield f"--task {' '.join(config.task)}: images of your own are one task; give one name"


def _of_tasks(names: Sequence[str]) -> Iterator[str]:
    if "all" in names and len(names) > 1:
        yield f"--task {' '.join(names)}: all stands alone"


def _of_page(flag: str, file: str) -> Iterator[str]:
    if file and Path(file).suffix != ".html":
        yield f"--{flag} {file} is a page; give it a name that ends in .html"


def _of_zero_shot(config: ZeroShot) -> Iterator[str]:
    yield from _of_page("page", config.page)
    if config.page_queries < 1:
        yield f"--page-queries {config.page_queries} must be 1 or more"
    if (config.wrong_first or config.page_queries != 40) and not (config.page and config.retrieval):
        yield "--wrong-first and --page-queries are for the --page of a --retrieval; leave them out"
    yield from _of_tasks(config.task)
    of_files = bool(config.retrieval) + bool(config.pairs)
    if of_files + bool(config.task) + (bool(config.images) and not of_files) != 1:
        yield (
            "give one of --task NAMES, --images FOLDER (of classes), --retrieval FILE with --images FOLDER, and --pairs FILE"
        )
    if config.retrieval and not config.images:
        yield f"--retrieval {config.retrieval} names images; say by --images in which folder they lie"
    if of_files and (config.names or config.templates):
        yield "--names and --templates are for classification; leave them out with --retrieval and --pairs"
    if config.pairs and config.page:
        yield "--page shows retrieval and classes; leave it out with --pairs"
    if not config.retrieval and (config.rerank or config.split or config.captions != 5):
        yield "--rerank, --split and --captions are for --retrieval; leave them out"
    if config.names and config.task and (len(config.task) > 1 or config.task == ("all",)):
        yield "--names are those of one task's classes; give one --task"
    if config.captions < 1:
        yield f"--captions {config.captions} must be 1 or more"
    if config.rerank and config.rerank < 10:
        yield f"--rerank {config.rerank} is below recall@10; score 10 or more"
