"""Settings of fine-tuning, and what each task starts from: RoBERTa's for GLUE, the paper's for the multimodal tasks."""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import tyro
from complaints import complaints_of_name, complaints_of_optimizer, complaints_of_ranges, complaints_of_ranks

GLUE_TASKS = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte")
TASKS = (*GLUE_TASKS, "vqav2", "snli_ve", "hateful_memes", "rendered_sst2", "own")


@dataclass(frozen=True)
class Tuning:
    """Fine-tune a pretrained model. Every setting is a flag; `--task NAME` first chooses where they start from."""

    task: str = "sst2"
    """cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, vqav2, snli_ve, hateful_memes, rendered_sst2; or own, with --train, --dev."""
    model: str = ""
    """What is fine-tuned: a pretraining run's folder, a folder or file of weights that `from_pretrained` reads, or a model's
    name on the Hugging Face Hub."""
    vocab: str = ""
    """Its vocabulary, a vocab.txt or tokenizer.json; without one, what lies in the model's folder."""
    data: str = "data"
    """The folder that holds glue/, vqav2/, coco/, snli_ve/ and so on (docs/finetuning.md)."""
    with_val: bool = False
    """Of --task vqav2: learn from train and val, but for 1,000 images of val to measure on; for the test server's numbers."""
    train: str = ""
    """Of --task own: rows to learn from, .jsonl or .tsv with label, and image, text or both, or text and text_b."""
    dev: str = ""
    """Of --task own: rows to choose on."""
    test: str = ""
    """Of --task own: rows to measure on at the end; without them --dev."""
    images: str = ""
    """Of --task own: the folder that images are named from; without it that of each file."""

    head: Literal["auto", "class-token", "embeddings"] = "auto"
    """What is classified: the class token of the encoder that the task reads, or the embeddings that are compared in retrieval.
    auto takes the embeddings of a model without a fusion encoder, such as CLIP, else the class token."""
    hidden: int = 1536
    """Width of the MLP that classifies (paper, appendix C)."""
    dropout: float = 0.0
    """Of its hidden units."""
    image_size: int = 0
    """Side of an image in pixels, to which positions are interpolated; 0 takes the model's own."""
    crop: float = 1.0
    """Least share of an image's area that a training view shows; 1 shows all of it, squeezed into a square, as measuring does."""
    max_length: int = 0
    """Of a text or two joined, in tokens; what is longer is cut. 0 takes what the model can."""

    epochs: float = 10.0
    """Times that the training examples are gone through, where --steps is 0."""
    steps: int = 0
    batch_size: int = 32
    """Examples in a step, over all ranks."""
    micro_batch: int = 0
    """Rows that a rank computes at a time, their gradients added up; 0 means all of them."""
    lr: float = 2e-5
    """Peak learning rate."""
    layer_decay: float = 1.0
    """What the learning rate is multiplied with at each level nearer to the input; 1 is the same everywhere."""
    weight_decay: float = 0.1
    warmup: float = 0.06
    """Steps in which the learning rate rises; below 1, the share of all steps."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How the learning rate falls to 0 after that."""
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    """Of AdamW."""
    clip: float = 0.0
    """Greatest norm of the gradients; 0 clips none."""
    freeze: tuple[Literal["image", "text", "fusion", "embeddings"], ...] = ()
    """Parts that stay as they are."""
    ema: float = 0.0
    """Decay of a running average of the weights, by which is measured and which is kept; 0 takes the weights themselves."""
    search: bool = False
    """Train with each learning rate of --search-lr and each batch size of --search-batch, and keep the best on dev."""
    search_lr: tuple[float, ...] = (1e-5, 2e-5, 3e-5)
    search_batch: tuple[int, ...] = (16, 32)

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of forward and backward; weights are kept in fp32."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Inner states of blocks that backward computes again instead of keeping: none, all but linear layers' results, or all."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 2
    """That make batches, on each rank."""
    seed: int = 0
    log_every: int = 10
    """Steps between two records in the log."""
    save_every: int = 500
    """Steps between two checkpoints; the last step is always saved."""
    keep: int = 1
    """Checkpoints that are kept, the last ones, beside the best."""
    measure_every: int = 0
    """Steps between two measurements on the dev split; 0 means once an epoch, or ten times where --steps is given."""
    measure_batch: int = 64
    """Examples that a rank measures at a time."""
    select: str = "auto"
    """A reading on the dev split by which the best weights are chosen; auto is the task's metric, "" takes the last weights."""
    label: str = ""
    """What results call the model; the name of its folder or file unless given."""
    called: str = ""
    """Of --task own: what results call the task, where own is not enough to tell several apart."""
    within_search: tyro.conf.Suppress[bool] = False
    """Whether a search makes this run, which then writes the results of the best one."""
    preset: str = ""
    """Enters the name of a run's folder; the task's unless given."""
    folder: str = "runs"
    """Where the run's own folder is made."""
    name: str = ""
    """Of the run's own folder; the same command then goes on from what is there. Without one, each start makes a new folder."""
    checkpoints: str = ""
    """Where checkpoints lie instead of the run's own folder, another folder or a URL such as s3://bucket/run."""
    resume: str = ""
    """A run's folder to go on with, under the same settings."""


_PAPER = Tuning(
    steps=24_000, batch_size=256, lr=1e-5, weight_decay=1e-2, warmup=2000, schedule="cosine", betas=(0.9, 0.999), eps=1e-8,
    save_every=1000,
)  # fmt: skip
"""Paper, appendix C: SNLI-VE and Hateful Memes."""


def start_of(task: str) -> Tuning:
    """What a task's settings start from."""
    if task in GLUE_TASKS:  # Liu et al. 2019, table 10
        return Tuning(task=task)
    if task == "vqav2":
        return replace(_PAPER, task=task, image_size=480, lr=1e-4, steps=44_000)
    if task in ("snli_ve", "hateful_memes"):
        return replace(_PAPER, task=task, image_size=224)
    return Tuning(task=task, betas=(0.9, 0.999), eps=1e-8)


def parse(words: Sequence[str], *, places: bool = True, ranks: Sequence[int] = ()) -> Tuning:
    """The settings that command-line `words` ask for; ends the program where one cannot be meant.

    Args:
        words: of the command line.
        places: whether to look for the files and folders that they name, which may lie where only the job sees them.
        ranks: how many processes the job may have, where that is known.
    """
    task = _task_of(words)
    if task not in TASKS:
        sys.exit(f"no task is called {task!r}; there are {', '.join(TASKS)}")
    config = tyro.cli(Tuning, args=list(words), default=start_of(task), prog="finetune.py")
    batches = config.search_batch if config.search else [config.batch_size]
    found = chain(
        complaints(config),
        *(complaints_of_ranks(size, ranks) for size in batches),
        complaints_of_places(config) if places else (),
    )
    if complaint := next(found, None):
        sys.exit(f"finetune.py: {complaint}")
    return replace(config, preset=config.preset or config.task)


_RANGES = (
    ("epochs", 0, math.inf), ("steps", 0, math.inf), ("batch_size", 1, math.inf), ("micro_batch", 0, math.inf),
    ("layer_decay", 1e-3, 1.0001), ("warmup", 0, math.inf), ("ema", 0, 1), ("hidden", 1, math.inf), ("dropout", 0, 1),
    ("image_size", 0, math.inf), ("crop", 0.01, 1.0001), ("max_length", 0, math.inf), ("threads", 1, math.inf),
    ("log_every", 1, math.inf), ("save_every", 1, math.inf), ("keep", 1, math.inf), ("measure_every", 0, math.inf),
    ("measure_batch", 1, math.inf),
)  # fmt: skip
"""Setting, least, and what it must stay below."""


def complaints(config: Tuning) -> Iterator[str]:
    """What cannot be, among the settings that are known to be so before anything is loaded."""
    yield from complaints_of_ranges(config, _RANGES)
    yield from complaints_of_optimizer(config)
    if not config.model:
        yield "name by --model what is fine-tuned: a pretraining run's folder, or weights"
    if not config.steps and not config.epochs:
        yield "--epochs 0 and --steps 0 leave nothing to do; give one"
    given = [name for name in ("train", "dev", "test", "images") if getattr(config, name)]
    if config.task == "own" and not {"train", "dev"} <= {*given}:
        yield "--task own needs --train and --dev, files of rows"
    if config.task != "own" and given:
        yield f"--{given[0]} is for --task own, and {config.task} is read from --data; leave it out"
    if config.called and (config.task != "own" or config.called in TASKS):
        yield f"--called {config.called} names rows of your own; it is for --task own, and is none of {', '.join(TASKS)}"
    if config.with_val and config.task != "vqav2":
        yield f"--with-val is for --task vqav2, and {config.task} is learnt from its training split; leave it out"
    if config.task in GLUE_TASKS and (config.image_size or config.crop < 1):
        yield f"{config.task} has no images; leave --image-size and --crop out"
    if 1 <= config.steps <= config.warmup:
        yield f"--warmup {config.warmup:g} must be shorter than the run of {config.steps} steps; below 1 it is the share of them"
    if config.search:
        yield from _complaints_of_search(config)
    if config.resume and (config.name or config.search):
        yield "--resume names one run's folder; with --name or --search leave it out"
    yield from complaints_of_name(config.name, config.folder)


def _complaints_of_search(config: Tuning) -> Iterator[str]:
    for flag, least, values in (("lr", 1e-12, config.search_lr), ("batch", 1, config.search_batch)):
        if wrong := [value for value in values if not least <= value < math.inf]:
            yield f"--search-{flag} {wrong[0]} must be at least {least}; give others, or leave it out"
    if len(config.search_lr) * len(config.search_batch) < 2 or not config.select:
        yield "--search needs two settings at least, and --select to choose by"
    if config.checkpoints:
        yield "--search makes several runs, whose checkpoints lie in their own folders; leave --checkpoints out"


def complaints_of_places(config: Tuning) -> Iterator[str]:
    """What is missing among the files and folders that are named."""
    for flag in ("model", "vocab", "train", "dev", "test", "images"):
        if getattr(config, flag) and not Path(getattr(config, flag)).exists():
            yield f"--{flag} {getattr(config, flag)} is not there"


def _task_of(words: Sequence[str]) -> str:
    for at, word in enumerate(words):
        if word == "--task" and at + 1 < len(words):
            return words[at + 1]
        if word.startswith("--task="):
            return word.partition("=")[2]
    return Tuning.task


def shaping(config: Tuning) -> dict[str, Any]:
    """The settings that shape a run and must be the same when it goes on: all but where things lie and how it is watched."""
    lying = ("folder", "name", "checkpoints", "resume", "data", "model", "vocab", "train", "dev", "test", "images")
    computed = ("threads", "device", "recompute", "micro_batch", "measure_batch", "search", "search_lr", "search_batch")
    watched = ("log_every", "save_every", "measure_every", "keep", "select", "within_search")
    named = ("label", "called", "preset")
    return {name: value for name, value in as_json(config).items() if name not in (*lying, *computed, *watched, *named)}


def as_json(config: Tuning) -> dict[str, Any]:
    """All settings, as JSON holds them."""
    return {name: [*value] if isinstance(value, tuple) else value for name, value in asdict(config).items()}
