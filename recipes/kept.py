"""A run whose checkpoints lie elsewhere than its folder (`--checkpoints`): what of the folder lies beside them, so that any
machine can go on.
"""

import os
import tempfile
import uuid
from pathlib import Path

from keeping import Keeping

from torchflava.distributed import rank, world_size
from torchflava.training import local_folder, local_rank, place_of, together

FILES = (
    "config.json",
    "data.json",
    "vocab.txt",
    "tokenizer.json",
    "codebook.safetensors",
    "log.jsonl",
    "spikes.jsonl",
)
"""Settings, the order of the data, what captions and images are read with, and what was logged."""


def where_checkpoints_lie(config: Keeping, folder: Path) -> Path | str:
    """`--checkpoints`, or the run's own folder."""
    return config.checkpoints or folder


def beside(config: Keeping, folder: Path) -> list[Path]:
    """The files of a run's folder that checkpoints elsewhere need beside them."""
    return [folder / name for name in FILES] if config.checkpoints else []


def check_place(config: Keeping, folder: Path) -> None:
    """Refuse to train what could not be saved, on each machine. Called by every rank.

    Raises:
        OSError: if nothing can be written there, or it is a folder that not all ranks see.
        ValueError: if a package for such URLs is missing.
    """
    together(lambda: _check(config.checkpoints) if config.checkpoints and local_rank() == 0 else None)
    where = local_folder(where_checkpoints_lie(config, folder))
    if where is not None and world_size() > 1:
        _check_shared(where)


def fetch_kept(config: Keeping, folder: Path) -> None:
    """Copy into the run's folder, on each machine, what lies beside its checkpoints, over what is there. Called by every rank.

    Raises:
        OSError: if it cannot be read.
    """
    together(lambda: _fetch(config.checkpoints, folder) if config.checkpoints and local_rank() == 0 else None)


def local_disk(config: Keeping, folder: Path) -> Path:
    """Where a checkpoint's files are written first."""
    return local_folder(where_checkpoints_lie(config, folder)) or Path(tempfile.gettempdir())


def _check(place: str) -> None:
    try:
        place_of(place).check()
    except OSError as error:
        told = f"{type(error).__name__}: {error}"
        raise OSError(f"{place} cannot be written to ({told}); choose another place by --checkpoints") from error


def _check_shared(folder: Path) -> None:
    """A small file for each rank, which all of them look for."""
    token = together(lambda: uuid.uuid4().hex)[0]
    mine, *others = (folder / f".shared-{token}-{(rank() + n) % world_size()}" for n in range(world_size()))
    try:
        together(lambda: _touch(mine))
        together(lambda: _see(folder, others))
    finally:
        mine.unlink(missing_ok=True)


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def _see(folder: Path, others: list[Path]) -> None:
    missing = [path.name.rpartition("-")[2] for path in others if not path.exists()]
    if missing:
        raise OSError(
            f"{folder} is not shared by all ranks: rank {rank()} does not see what rank {', '.join(missing)} wrote there; name a "
            "folder on a disk that all share, or use --checkpoints URL"
        )


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
