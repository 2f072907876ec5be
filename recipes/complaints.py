"""What cannot be, among the settings that are known to be so before anything is loaded."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation_settings import may_be_on_the_hub
from keeping import RANGES
from own import complaints_of_own
from presets import Config, needs_codes

_RANGES = (
    ("mask_rate", 0, 1),
    ("patch_mask_rate", 0, 1),
    ("mismatch_rate", 0, 1),
    ("max_length", 3, 513),
    ("text_length", 0, 513),
    ("num_codes", 2, 65537),
    ("measure_every", 0, math.inf),
    ("max_corrupt_fraction", 0, 1.0001),
    ("micro_batch", 0, math.inf),
    ("peak_tflops", 0, math.inf),
    *RANGES,
)
"""Setting, least, and what it must stay below."""
_OPTIMIZER = (
    ("lr", 1e-12, math.inf),
    ("weight_decay", 0, math.inf),
    ("eps", 1e-30, math.inf),  # with 0 a weight whose gradient is 0 becomes nan
    ("clip", 0, math.inf),
)
"""The same of AdamW."""


def complaints(config: Config) -> Iterator[str]:
    """What cannot be, among the settings that are known to be so before anything is loaded."""
    for name in ("image_size", "patch_size", "code_size", "steps", "batch_size", "threads"):
        if getattr(config, name) < 1:
            yield f"--{name.replace('_', '-')} {getattr(config, name)} must be 1 or more"
    yield from complaints_of_ranges(config, _RANGES)
    yield from complaints_of_optimizer(config)
    if not all(0 <= weight < math.inf for weight in asdict(config.weights).values()):
        yield f"the weights {asdict(config.weights)} must be numbers of 0 or more"
    if config.image_size % config.patch_size:
        yield f"--image-size {config.image_size} is no multiple of --patch-size {config.patch_size}"
    if config.code_size % (config.image_size // config.patch_size):
        yield f"--code-size {config.code_size} is no multiple of the {config.image_size // config.patch_size} patches a side"
    if not 0 <= config.warmup_steps < config.steps:
        yield f"--warmup-steps {config.warmup_steps} must be below --steps {config.steps}"
    if 0 < config.text_length < 3:
        yield f"--text-length {config.text_length} leaves no room for a word; give 3 or more, or 0 for --max-length"
    if not any(asdict(config.weights).values()):
        yield "every loss has weight 0; there is nothing to train"
    if config.select and not config.measure_every:
        yield f"--select {config.select!r} needs measurements; say by --measure-every how often"
    if config.resume and config.name:
        yield f"--resume {config.resume} and --name {config.name} are two ways to name a run's folder; give one"
    yield from complaints_of_name(config.name, config.folder)
    yield from _complaints_of_checkpoints(config.checkpoints)
    yield from _complaints_of_kinds(config)
    yield from _complaints_of_clip(config)
    asked, measures = config.corpus == "own", bool(config.measure_every)
    yield from complaints_of_own(config.own, asked=asked, shares=asdict(config.shares), measures=measures)


def complaints_of_ranges(config: Any, ranges: Iterable[tuple[str, float, float]]) -> Iterator[str]:
    """Settings that are out of their range: name, least, and what it must stay below."""
    for name, least, below in ranges:
        value = getattr(config, name)
        if not least <= value < below:
            yield f"--{name.replace('_', '-')} {value} must be at least {least} and below {below}"


def complaints_of_optimizer(config: Any) -> Iterator[str]:
    """Settings of AdamW with which nothing can be learnt."""
    yield from complaints_of_ranges(config, _OPTIMIZER)
    if not all(0 <= beta < 1 for beta in config.betas):
        yield f"--betas {config.betas[0]} {config.betas[1]} must both be at least 0 and below 1, such as 0.9 0.999"


def complaints_of_name(name: str, folder: str) -> Iterator[str]:
    """A run's name that is none of a folder in `folder`."""
    if name and (name in (".", "..") or Path(name).name != name):
        yield f"--name {name} must be the name of a folder in --folder {folder}, without a slash"


def complaints_of_ranks(batch_size: int, ranks: Sequence[int]) -> Iterator[str]:
    """What cannot be with so many processes; several numbers are those that a job may have which goes on when it loses nodes."""
    unable = [count for count in ranks if batch_size % count]
    if not unable:
        return
    unit = math.lcm(*ranks)
    below = batch_size // unit * unit
    nearest = " or ".join(str(size) for size in (below, below + unit) if size)
    given = f"--batch-size {batch_size} is no multiple of {_listed(unable)}"
    if len(ranks) == 1:
        yield f"{given}, the number of ranks, which share it evenly; --batch-size {nearest} is"
    else:
        yield f"{given} ranks, and the job may have {_listed(ranks)}, which share it evenly; --batch-size {nearest} suits all"


def _listed(numbers: Sequence[int]) -> str:
    *front, last = map(str, numbers)
    return f"{', '.join(front)} or {last}" if front else last


_FILES = ("vocab", "codebook", "init_image", "init_text")
"""Settings that name files."""


def complaints_of_places(config: Any, *, files: Iterable[str] = _FILES) -> Iterator[str]:
    """What is missing among the files and folders that are named, or is something else, where the job will look for it."""
    if config.corpus == "emoji":
        for needed in ("google-*.tar", "twitter-*.tar", "microsoft-*.tar", "texts.txt"):
            if not list(Path(config.data).glob(needed)):
                yield f"{config.data}/{needed} is not there; make it by: python recipes/data/emoji.py --out {config.data}"
    for flag in files:
        named = getattr(config, flag)
        on_hub = flag == "codebook" and not Path(named).exists() and may_be_on_the_hub(named)
        if not config.resume and named and not Path(named).exists() and not on_hub:
            yield f"--{flag.replace('_', '-')} {getattr(config, flag)} is not there; docs/presets.md says where it comes from"
    if config.resume and not config.checkpoints and not list(Path(config.resume).glob("step-*/state.json")):
        yield f"{config.resume} has no checkpoint to go on from; name a run's folder, or start anew without --resume"
    folder = Path(config.folder) / config.name
    if (
        config.name
        and folder.exists()
        and not (folder / "config.json").is_file()
        and _strange(folder, config.checkpoints)
    ):
        yield f"{folder} is there and is no run's folder, for it has no config.json; choose another --name"


def _strange(folder: Path, checkpoints: str) -> bool:
    """Whether something lies in a folder that no run leaves there that died before its config.json was written."""
    place = Path(checkpoints.removeprefix("file://")).absolute()
    left = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return any(path.absolute() not in (place, *place.parents) for path in left)


def _complaints_of_checkpoints(place: str) -> Iterator[str]:
    scheme, sign, rest = place.partition("://")
    if sign and not rest.strip("/"):
        yield f"--checkpoints {place} names no folder; give one, such as {scheme}://bucket/run"
    if sign and (scheme in ("http", "https") or "::" in place or "?" in place):
        yield f"--checkpoints {place} cannot be written to; name a folder of an object store, such as s3://bucket/run"
    if not sign and ":" in place and not Path(place).exists():
        yield f"--checkpoints {place} is neither a folder nor a URL, which has :// in it"


def _complaints_of_kinds(config: Config) -> Iterator[str]:
    heads = {"pair": ("mmm_image", "mmm_text", "itm", "contrastive"), "image": ("mim",), "text": ("mlm",)}
    shares, weights = asdict(config.shares), asdict(config.weights)
    if not (min(shares.values()) >= 0 and abs(sum(shares.values()) - 1) <= 1e-6):
        yield f"the shares {shares} must be 0 or more and add up to 1"
    for kind, losses in heads.items():
        if shares[kind] and not any(weights[name] for name in losses):
            yield f"--shares.{kind} is {shares[kind]}, but {' and '.join(losses)} have weight 0; set the share to 0 too"
    if not needs_codes(config) and (config.codebook or config.own.codes != "auto"):
        given = f"--codebook {config.codebook}" if config.codebook else f"--codes {config.own.codes}"
        yield f"{given} is for losses over codes, and mim and mmm_image have no weight or no share; leave it out"
    if config.code_precision != "fp32" and not config.codebook:
        yield f"--code-precision {config.code_precision} is of the dVAE that --codebook names; name it, or leave this out"


def _complaints_of_clip(config: Config) -> Iterator[str]:
    if config.architecture == "flava":
        if config.tokenizer == "bpe":
            yield "--tokenizer bpe is CLIP's, which has no [MASK] to train with; it is for --architecture clip"
        return
    if config.tokenizer == "bpe" and not config.vocab and config.vocab_size < 514:
        yield f"--vocab-size {config.vocab_size} is too small for --tokenizer bpe, whose bytes alone need 514"
    if others := [name for name, weight in asdict(config.weights).items() if weight and name != "contrastive"]:
        yield f"--architecture clip learns by the contrastive loss alone; set --weights.{others[0].replace('_', '-')} to 0"
    if config.image_encoder != "vit":
        yield f"--image-encoder {config.image_encoder} is for FLAVA; CLIP's is a ViT of its own, leave it out"
