"""What codes.py can be told."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

MOST_CROPS = 64


@dataclass(frozen=True)
class Config:
    """Compute the codes of a shard set's images once, for many runs."""

    places: tyro.conf.Positional[tuple[str, ...]]
    """Shards: folders of tars, patterns, or URLs (s3://bucket/cc/{00000..01241}.tar) beside which files can be written."""
    codebook: str
    """A run's codebook.safetensors, the weights of DALL-E's dVAE, or the name of either on the Hugging Face Hub."""
    code_size: int = 0
    """Side of the codebook's images, in pixels; 0 takes the codebook's own."""
    crops: int = 1
    """Crops of each image that get codes, at most 64; training draws one of them each time. A crop takes 2 bytes a patch."""
    batch_size: int = 64
    """Crops that the codebook sees at once; about as many more are decoded ahead."""
    max_corrupt_fraction: float = 0.05
    """Of the images, the share that cannot be decoded above which a rank stops, once it has looked at 500."""
    threads: int = os.cpu_count() or 1
    """That decode images, on each rank."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cache: str = ""
    """A folder of this machine's disk for shards that are fetched from URLs."""
    cache_gb: float = 100.0
    """The most that the cache may hold."""


def parse(words: Sequence[str], *, places: bool = True) -> Config:
    """The settings that command-line `words` ask for; ends the program where one cannot be.

    Args:
        words: of the command line.
        places: whether to look for the codebook, which may lie where only the job sees it.
    """
    config = tyro.cli(Config, args=list(words), prog="codes.py")
    for name in ("crops", "batch_size", "threads"):
        if getattr(config, name) < 1:
            sys.exit(f"codes.py: --{name.replace('_', '-')} {getattr(config, name)} must be 1 or more")
    if config.crops > MOST_CROPS:
        sys.exit(f"codes.py: --crops {config.crops} is above {MOST_CROPS}: all crops of an image are held at once")
    if not 0 <= config.max_corrupt_fraction <= 1:
        sys.exit(f"codes.py: --max-corrupt-fraction {config.max_corrupt_fraction} is no share; give 0 to 1")
    if not config.places:
        sys.exit("codes.py: no shards were given; name one or more folders of tars")
    if places and not Path(config.codebook).exists() and not _may_be_on_the_hub(config.codebook):
        sys.exit(f"codes.py: --codebook {config.codebook} is not there")
    return config


def _may_be_on_the_hub(name: str) -> bool:
    from torchflava.models.hub import is_hub_name  # it imports torch

    return is_hub_name(name)
