"""What codes.py can be told."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Config:
    """Compute the codes of a shard set's images once, for many runs."""

    places: tyro.conf.Positional[tuple[str, ...]]
    """Shards: folders of tars, patterns, or URLs (s3://bucket/cc/{00000..01241}.tar) beside which files can be written."""
    codebook: str
    """A run's codebook.safetensors, or the weights of DALL-E's dVAE."""
    code_size: int = 0
    """Side of the codebook's images, in pixels; 0 takes the codebook's own."""
    crops: int = 1
    """Crops of each image that get codes; training draws one of them each time. A crop takes 2 bytes a patch."""
    batch_size: int = 64
    """Images that the codebook sees at once."""
    threads: int = os.cpu_count() or 1
    """That decode images, on each rank."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cache: str = ""
    """A folder of this machine's disk for shards that are fetched from URLs."""
    cache_gb: float = 100.0
    """The most that the cache may hold."""


def parse(words: Sequence[str]) -> Config:
    """The settings that command-line `words` ask for; ends the program where one cannot be."""
    config = tyro.cli(Config, args=list(words), prog="codes.py")
    for name in ("crops", "batch_size", "threads"):
        if getattr(config, name) < 1:
            sys.exit(f"codes.py: --{name.replace('_', '-')} {getattr(config, name)} must be 1 or more")
    if not config.places:
        sys.exit("codes.py: no shards were given; name one or more folders of tars")
    if not Path(config.codebook).exists():
        sys.exit(f"codes.py: --codebook {config.codebook} is not there")
    return config
