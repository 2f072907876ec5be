"""A run whose checkpoints lie elsewhere than its folder (`--checkpoints`): what of the folder lies beside them, so that any
machine can go on.
"""

import os
import tempfile
from pathlib import Path

from presets import Config

from torchflava.training import local_rank, place_of, together

FILES = (
    "config.json",
    "data.json",
    "vocab.txt",
    "codebook.safetensors",
    "log.jsonl",
    "spikes.jsonl",
)
"""Settings, the order of the data, what captions and images are read with, and what was logged."""


def where_checkpoints_lie(config: Config, folder: Path) -> Path | str:
    """`--checkpoints`, or the run's own folder."""
    return config.checkpoints or folder


def beside(config: Config, folder: Path) -> list[Path]:
    """The files of a run's folder that checkpoints elsewhere need beside them."""
    return [folder / name for name in FILES] if config.checkpoints else []


def check_place(config: Config) -> None:
    """Refuse to train what could not be saved, once on each machine. Called by every rank.

    Raises:
        OSError: if nothing can be written there.
        ValueError: if a package for such URLs is missing.
    """
    together(lambda: _check(config.checkpoints) if config.checkpoints and local_rank() == 0 else None)


def fetch_kept(config: Config, folder: Path) -> None:
    """Copy into the run's folder, on each machine, what lies beside its checkpoints, over what is there. Called by every rank.

    Raises:
        OSError: if it cannot be read.
    """
    together(lambda: _fetch(config.checkpoints, folder) if config.checkpoints and local_rank() == 0 else None)


def local_disk(config: Config, folder: Path) -> Path:
    """Where a checkpoint's files are written first."""
    return Path(tempfile.gettempdir()) if "://" in config.checkpoints else Path(config.checkpoints or folder)


def _check(place: str) -> None:
    try:
        place_of(place).check()
    except OSError as error:
        told = f"{type(error).__name__}: {error}"
        raise OSError(f"{place} cannot be written to ({told}); choose another place by --checkpoints") from error


def _fetch(place: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        try:
            data = place_of(place).read(name)
        except FileNotFoundError:
            continue  # not every run has each
        part = folder / f".{name}.{os.getpid()}.part"
        part.write_bytes(data)
        os.replace(part, folder / name)
