"""Settings of a codebook's training, and the runs that have a name. It imports no torch: a login node looks at the words too."""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Annotated, Literal

import tyro
from complaints import (
    complaints_of_name,
    complaints_of_optimizer,
    complaints_of_places,
    complaints_of_ranges,
    complaints_of_ranks,
)
from keeping import RANGES, Keeping
from own import Own, complaints_of_own
from presets import preset_of


@dataclass(frozen=True)
class Dvae(Keeping):
    """Train a discrete VAE, whose encoder is a codebook. Every setting is a flag; `--preset NAME` first chooses a start."""

    preset: str = "scenes"
    """Where the other settings start from: scenes, emoji, tiny, or paper, DALL-E's own numbers (docs/codebook.md)."""
    corpus: Literal["scenes", "emoji", "own"] = "scenes"
    """What to train on: scenes drawn on the fly, emoji from `--data`, or your own `--images`."""
    data: str = "data/emoji"
    """The folder that recipes/data/emoji.py wrote; the others need none."""
    own: Annotated[Own, tyro.conf.arg(name="")] = field(default_factory=Own)
    image_size: int = 48
    """Side that scenes are drawn at, in pixels, before they are resized: pretrain.py's --image-size."""
    code_size: int = 32
    """Side of the images that are encoded, in pixels, a multiple of 8: a code stands for 8 x 8 of them."""
    crop: tuple[float, float] = (1.0, 1.0)
    """Least and greatest share of an image's area that a square crop has; 1 is the largest square."""
    flip: float = 0.0
    """Probability of mirroring an image."""

    num_codes: int = 128
    """K."""
    width: int = 24
    """Of the encoder's first group of blocks and the decoder's last, a multiple of 4; the other groups are 2, 4 and 8 times as
    wide."""
    blocks: int = 1
    """In each of the four groups."""
    first_width: int = 64
    """Of the decoder's first convolution, which reads codes."""

    steps: int = 1500
    batch_size: int = 32
    """Images in a step, over all ranks."""
    lr: float = 6e-3
    """Peak learning rate."""
    encoder_lr: float = 0.06
    """Share of the learning rate that the encoder has, so that the decoder learns what codes say before they change; 1 is the
    paper's."""
    first_spread: float = 15.0
    """Training begins with codes that stand for clusters of what the encoder sees, and logits with this standard deviation over
    codes; 0 begins with all as drawn, as the paper does."""
    final_lr: float = 0.0
    """What it falls to along half a cosine, and stays at."""
    lr_share: float = 1.0
    """Share of the steps over which it falls."""
    warmup_steps: int = 20
    weight_decay: float = 1e-4
    clip: float = 1.0
    """Greatest norm of the gradients; 0 clips none."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    """Of AdamW."""
    average: float = 0.99
    """Decay of the running average of the weights, which is what is measured and kept; 0 keeps the last weights."""
    temperature: float = 1 / 16
    """What the relaxation's temperature falls to from 1, along half a cosine."""
    temperature_share: float = 0.4
    """Share of the steps over which it falls."""
    kl_weight: float = 2.0
    """β: weight of the KL divergence from uniform codes, beside the sum over all values of all pixels; rises from 0."""
    kl_share: float = 0.0
    """Share of the steps over which it rises, along half a cosine."""
    least_scale: float = 0.01
    """Least scale of the logit-Laplace distribution; 0 is the paper's, and lets flat colours become infinitely likely."""

    max_corrupt_fraction: float = 0.01
    """Share of a source's images that may be unreadable, hence replaced by others, before the run stops."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of blocks; weights are kept in fp32. In fp16 the loss is scaled, and steps that overflow are left out."""
    micro_batch: int = 0
    """Images that a rank computes at a time, for batches that do not fit; same losses and gradients. 0 means all of them."""
    spread: Literal["all", "node", "copies"] = "all"
    """Weights lie on all ranks in shards, on those of a node with a copy on each node, or as a copy on each rank."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Inner states of blocks that backward computes again instead of keeping: none, all but linear layers' results, or all."""
    compiled: bool = False
    """Compile each block."""
    offload: bool = False
    """Keep weights, gradients and moments in main memory."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1
    """That make batches, on each rank."""
    seed: int = 0
    save_every: int = 500
    """Steps between two checkpoints; the last step is always saved."""
    measure_every: int = 250
    """Steps between two measurements on held-out images, with pictures for TensorBoard; 0 measures at the end alone."""
    measured: int = 256
    """Held-out images that are measured on, at most."""
    folder: str = "runs/codebooks"
    """Where the run's own folder is made."""


def scenes() -> Dvae:
    """The default: a codebook of captioned scenes, in a few minutes on two CPU cores."""
    return Dvae()


def tiny() -> Dvae:
    """For tests: a few steps in a few seconds, through the same code."""
    return Dvae(
        preset="tiny", image_size=32, code_size=16, num_codes=16, width=8, first_width=8, steps=4, batch_size=8,
        warmup_steps=1, log_every=1, save_every=4, measure_every=0, measured=8,
    )  # fmt: skip


def emoji() -> Dvae:
    """Emoji of two vendors, measured on a third's."""
    return Dvae(
        preset="emoji",
        corpus="emoji",
        num_codes=256,
        width=32,
        steps=3_000,
        batch_size=64,
        save_every=1000,
        measure_every=500,
    )


def paper() -> Dvae:
    """DALL-E's dVAE on your own images (Ramesh et al. 2021, appendix A.2), for a cluster.

    Crops are squares of 2/3 to 8/9 of the shorter side, mirrored half of the time. FLAVA reads the same network at 112 px.
    """
    return Dvae(
        preset="paper", corpus="own", code_size=256, crop=(4 / 9, 64 / 81), flip=0.5,
        num_codes=8192, width=256, blocks=2, first_width=128,
        steps=3_000_000, batch_size=512, lr=1e-4, encoder_lr=1, first_spread=0,
        final_lr=1.25e-6, lr_share=0.4, warmup_steps=0, weight_decay=1e-4, clip=0,
        average=0.999, temperature_share=0.05, kl_weight=6.6, kl_share=1 / 600, least_scale=0,
        precision="fp16", threads=8, log_every=100, save_every=10_000, measure_every=10_000,
    )  # fmt: skip


PRESETS: dict[str, Callable[[], Dvae]] = {"scenes": scenes, "emoji": emoji, "tiny": tiny, "paper": paper}
"""All runs that have a name."""
_RANGES = (
    ("image_size", 8, math.inf), ("code_size", 8, math.inf), ("flip", 0, 1.0001), ("num_codes", 2, 65537), ("width", 4, math.inf),
    ("blocks", 1, math.inf), ("first_width", 1, math.inf), ("steps", 1, math.inf), ("batch_size", 1, math.inf),
    ("encoder_lr", 1e-6, 1.0001), ("first_spread", 0, math.inf), ("final_lr", 0, math.inf),
    ("lr_share", 1e-9, 1.0001), ("warmup_steps", 0, math.inf),
    ("average", 0, 1),
    ("temperature", 1e-6, math.inf), ("temperature_share", 0, 1.0001), ("kl_weight", 0, math.inf), ("kl_share", 0, 1.0001),
    ("least_scale", 0, math.inf), ("max_corrupt_fraction", 0, 1.0001), ("micro_batch", 0, math.inf), ("threads", 1, math.inf),
    ("measure_every", 0, math.inf), ("measured", 1, math.inf),
    *RANGES,
)  # fmt: skip
"""Setting, least, and what it must stay below."""


def parse(words: Sequence[str], *, places: bool = True, ranks: Sequence[int] = ()) -> Dvae:
    """The settings that command-line `words` ask for; ends the program with the nearest flag where one is unknown.

    Args:
        words: of the command line.
        places: whether to look for the files and folders that they name, which may lie where only the job sees them.
        ranks: how many processes the job may have, where that is known.
    """
    name = preset_of(words)
    if name not in PRESETS:
        sys.exit(f"no preset is called {name!r}; there are {', '.join(PRESETS)}")
    config = tyro.cli(Dvae, args=list(words), default=replace(PRESETS[name](), preset=name), prog="codebook.py")
    found = chain(
        complaints(config),
        complaints_of_ranks(config.batch_size, ranks),
        complaints_of_places(config, files=()) if places else (),
    )
    if complaint := next(found, None):
        sys.exit(f"codebook.py: {complaint}")
    return config


def complaints(config: Dvae) -> Iterator[str]:
    """What cannot be, among the settings that are known to be so before anything is loaded."""
    yield from complaints_of_ranges(config, _RANGES)
    yield from complaints_of_optimizer(config)
    if config.final_lr > config.lr:
        yield f"--final-lr {config.final_lr} must be at most --lr {config.lr}, from which the rate falls to it"
    if config.code_size % 8:
        below = config.code_size // 8 * 8
        yield f"--code-size {config.code_size} is no multiple of 8, the pixels of a code; {below} and {below + 8} are"
    if config.width % 4:
        yield f"--width {config.width} is no multiple of 4"
    if not 0 < config.crop[0] <= config.crop[1] <= 1:
        yield f"--crop {config.crop[0]} {config.crop[1]} must rise from above 0 to at most 1"
    if config.corpus != "scenes" and config.image_size != PRESETS[config.preset]().image_size:
        yield f"--image-size {config.image_size} is that of drawn scenes; other images have their own, leave it out"
    if config.warmup_steps >= round(config.lr_share * config.steps):
        told = f"{config.lr_share:g} of --steps {config.steps}"
        yield f"--warmup-steps {config.warmup_steps} must be below the {told} over which the rate falls"
    if config.resume and config.name:
        yield f"--resume {config.resume} and --name {config.name} are two ways to name a run's folder; give one"
    yield from complaints_of_name(config.name, config.folder)
    yield from _of_images(config)


def _of_images(config: Dvae) -> Iterator[str]:
    """A codebook reads images alone; the same places as for pairs may be given for them."""
    own, asked = config.own, config.corpus == "own"
    for flag in ("pairs", "texts"):
        if getattr(own, flag):
            yield f"--{flag} {getattr(own, flag)[0]} is for pretraining; name the images by --images, captioned or not"
    if asked and not own.images:
        yield "--images names no place; give one or more"
    if own.codes != "auto":
        yield f"--codes {own.codes} is for pretraining, which reads codes; leave it out"
    shares = {"pair": 0.0, "image": 1.0, "text": 0.0}
    yield from complaints_of_own(own, asked=asked, shares=shares, measures=False)
    for place in own.held_out:
        if place in own.images:
            yield f"--held-out {place} is among --images; hold out images of their own"
