"""Where a run's checkpoints lie: what they need of such a place, and the nearest, a folder on a disk that all ranks share.

What makes a checkpoint one is a small file that is written last, and deleted first; for object stores cannot rename.
"""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from torchflava.distributed import rank

STATE = "state.json"
"""The file of a checkpoint that is written last and deleted first."""
STEP = re.compile(r"step-\d{8,}")
"""Names of folders of checkpoints."""
_LATE = 10.0  # seconds


class Place(Protocol):
    """What checkpoints need of where they lie. Names are relative, and have slashes between their parts."""

    def check(self) -> None:
        """Write a file and delete it. Raises OSError if that cannot be, ValueError if a package is missing."""

    def steps(self) -> list[str]:
        """Names of the folders of checkpoints and of halves of them, by step."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of the files in a folder, by name; none if it is not there."""

    def read(self, name: str) -> bytes:
        """A small file. Raises FileNotFoundError if it is not there."""

    def write(self, name: str, data: bytes) -> None:
        """Put a small file there, whole or not at all; what has its name is replaced."""

    def delete(self, folder: str) -> None:
        """Delete a folder, and first what makes it a checkpoint."""

    def prepare(self, folder: str) -> Path:
        """An empty local folder for this rank to write files into. For every rank, between two steps, so it is quick."""

    def make_way(self, folder: str) -> None:
        """Delete what lies where the files will be. For the first rank, before any rank publishes."""

    def publish(self, folder: str, written: Path) -> dict[str, int]:
        """Bytes of the files of this rank by name, which are there for good now. For every rank."""

    def see(self, folder: str, files: Mapping[str, int]) -> None:
        """Look for what all ranks published. For the first rank. Raises OSError if it does not see all of it."""

    def discard(self, written: Path) -> None:
        """Be done with a local folder that was prepared."""

    def fetched(self, folder: str, files: Mapping[str, int]) -> AbstractContextManager[Path]:
        """A context in which the files lie in a local folder, whose path it gives. For every rank."""


class Local:
    """A folder on a disk that all ranks share; files are written where they stay."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def check(self) -> None:
        """Make the folder and a file without a name in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder):
            pass

    def steps(self) -> list[str]:
        """Names of the folders of checkpoints and of halves of them, by step."""
        return sorted(path.name for path in self.folder.glob("step-*") if STEP.fullmatch(path.name))

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of the files in a folder, by name; none if it is not there."""
        found = {}
        for path in (self.folder / folder).glob("*"):
            with suppress(FileNotFoundError):  # deleted meanwhile, by the run that it belongs to
                found[path.name] = path.stat().st_size
        return found

    def read(self, name: str) -> bytes:
        """A small file."""
        return (self.folder / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Put a small file there, whole or not at all; what has its name is replaced."""
        path = self.folder / name
        part = path.with_name(f".{path.name}.part")
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        above = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(above)  # or the name could be lost where the power is
        finally:
            os.close(above)

    def delete(self, folder: str) -> None:
        """Delete a folder, and first what makes it a checkpoint."""
        (self.folder / folder / STATE).unlink(missing_ok=True)
        shutil.rmtree(self.folder / folder)

    def prepare(self, folder: str) -> Path:
        """The folder itself, which the first rank empties."""
        path = self.folder / folder
        if rank() == 0:
            (path / STATE).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
        return path

    def make_way(self, folder: str) -> None:
        """Done already: files are written where they stay."""

    def publish(self, folder: str, written: Path) -> dict[str, int]:
        """Have this rank's files brought onto the disk; torch numbers them by rank, from 1."""
        files = {}
        for path in sorted(written.glob(f"shard-{rank() + 1:05d}-*.safetensors")):
            with path.open("rb") as file:
                os.fsync(file.fileno())
            files[path.name] = path.stat().st_size
        if not files:
            raise OSError(f"{written} has no file of rank {rank()}")
        return files

    def see(self, folder: str, files: Mapping[str, int]) -> None:
        """Look for each file by its name, for some seconds: a network's disk may show another machine's late."""
        end = time.monotonic() + _LATE
        while missing := [name for name, size in files.items() if _size(self.folder / folder / name) != size]:
            if time.monotonic() > end:
                raise OSError(
                    f"{', '.join(missing)} of another rank is not in {self.folder / folder}, or not whole; give a folder on a "
                    "disk that all ranks share, or an object store's URL (--checkpoints)"
                )
            time.sleep(_LATE / 20)

    def discard(self, written: Path) -> None:
        """Files stay where they are; halves are deleted by a later save."""

    @contextmanager
    def fetched(self, folder: str, files: Mapping[str, int]) -> Iterator[Path]:
        """The folder itself."""
        yield self.folder / folder


def _size(path: Path) -> int:
    """In bytes; -1 if it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1
