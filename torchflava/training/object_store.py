"""Checkpoints in an object store (`s3://`, `gs://` ...), through fsspec: it shows a file whole or not at all, and cannot rename.

Files for a store, and those from it, lie on the machine's own disk (`TMPDIR`) only while they travel.
"""

import fcntl
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from torchflava.stores import Retries, patiently
from torchflava.training.places import STATE, STEP
from torchflava.training.together import WAIT, first_of_machine, local_rank, together

_PREFIX = "torchflava-checkpoint-"  # of folders on the machine's own disk
_FRESH = 60.0  # seconds in which such a folder may have no owner yet
_AT_A_TIME = 8  # files that are fetched at a time
_PATIENT = Retries(7, 1.0)  # a minute, in which training goes on


class Remote:
    """A folder of an object store. What fails is tried again for about a minute.

    Args:
        url: of the folder.
        retries: how often, and after which pauses.
    """

    def __init__(self, url: str, *, retries: Retries = _PATIENT) -> None:
        self.url, self.retries = url.rstrip("/"), retries
        self._locks: dict[Path, int] = {}

    def check(self) -> None:
        """Write a small file, read it and delete it."""
        name = f".writable-{uuid.uuid4().hex}"
        self.write(name, b"1")
        if self.read(name) != b"1":
            raise OSError("it does not give back what was written")
        self._ask(name, lambda system, path: system.rm_file(path))

    def steps(self) -> list[str]:
        """Names of the folders of checkpoints and of halves of them, by step."""
        return sorted(name for name in self._listed("") if STEP.fullmatch(name))

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of the files in a folder, by name; none if it is not there."""
        return {name: entry["size"] for name, entry in self._listed(folder).items() if entry["type"] == "file"}

    def read(self, name: str) -> bytes:
        """A small file."""
        found: bytes = self._ask(name, lambda system, path: system.cat_file(path))
        return found

    def write(self, name: str, data: bytes) -> None:
        """Put a small file there, whole or not at all; what has its name is replaced."""
        self._ask(name, lambda system, path: system.pipe_file(path, data))

    def delete(self, folder: str) -> None:
        """Delete a folder, and first what makes it a checkpoint."""
        there = self._listed(folder)
        if STATE in there:
            self._ask(f"{folder}/{STATE}", lambda system, path: system.rm_file(path))
        if there.keys() - {STATE}:
            self._ask(folder, lambda system, path: system.rm(path, recursive=True))

    def prepare(self, folder: str) -> Path:
        """A folder of the machine's own disk."""
        return self._own_folder()

    def make_way(self, folder: str) -> None:
        """Delete what lies where the files will be."""
        self.delete(folder)

    def publish(self, folder: str, written: Path) -> dict[str, int]:
        """Send this rank's files."""
        files = {path.name: path.stat().st_size for path in sorted(written.glob("*.safetensors"))}
        for name, size in files.items():
            self._put(written / name, f"{folder}/{name}", size)
        return files

    def see(self, folder: str, files: Mapping[str, int]) -> None:
        """Done already: who sends a file looks at its size there."""

    def discard(self, written: Path) -> None:
        """Delete the local folder."""
        shutil.rmtree(written, ignore_errors=True)
        os.close(self._locks.pop(written))

    @contextmanager
    def fetched(self, folder: str, files: Mapping[str, int]) -> Iterator[Path]:
        """One process of each machine fetches for all of them; the others wait."""
        group = dist.new_group(backend="gloo", timeout=WAIT) if dist.is_initialized() else None
        own: list[Path] = []
        try:
            paths = together(lambda: self._fetch(folder, files, own) if local_rank() == 0 else None, group)
            path = paths[first_of_machine() if group is not None else 0]
            if path is None:
                raise ValueError(
                    f"no process of this machine has LOCAL_RANK 0 to fetch {self.url}; start it by torchrun"
                )
            yield path
            together(lambda: None, group)  # none reads it any more
        finally:
            for path in own:
                self.discard(path)
            if group is not None:
                dist.destroy_process_group(group)

    def _fetch(self, folder: str, files: Mapping[str, int], own: list[Path]) -> Path:
        own.append(self._own_folder())

        def fetch(name: str) -> None:
            self._ask(f"{folder}/{name}", lambda system, path: system.get_file(path, str(own[0] / name)))

        with ThreadPoolExecutor(_AT_A_TIME, "fetch") as threads:
            list(threads.map(fetch, files))
        short = [name for name, size in files.items() if (own[0] / name).stat().st_size != size]
        if short:
            raise OSError(f"{', '.join(short)} did not come whole from {self.url}/{folder}")
        return own[0]

    def _put(self, file: Path, name: str, size: int) -> None:
        def put(system: Any, path: str) -> None:
            system.put_file(str(file), path)
            system.invalidate_cache()
            if (there := system.size(path)) != size:
                raise OSError(f"{there} bytes of {size} are there")

        self._ask(name, put)

    def _listed(self, folder: str) -> dict[str, dict[str, Any]]:
        def listed(system: Any, path: str) -> list[dict[str, Any]]:
            system.invalidate_cache()  # another machine may have written since
            found: list[dict[str, Any]] = system.ls(path, detail=True)
            return found

        try:
            found = self._ask(folder, listed)
        except FileNotFoundError:
            return {}
        return {entry["name"].rstrip("/").rpartition("/")[2]: entry for entry in found}

    def _ask(self, name: str, ask: Callable[[Any, str], Any]) -> Any:
        url = f"{self.url}/{name}".rstrip("/")
        try:
            return patiently(url, ask, self.retries)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise OSError(f"{url}: {error}") from error

    def _own_folder(self) -> Path:
        """An empty folder of the machine's own disk, locked as long as this process needs it."""
        _drop_leftovers(Path(tempfile.gettempdir()))
        path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._locks[path] = os.open(path, os.O_RDONLY)
        fcntl.flock(self._locks[path], fcntl.LOCK_EX)
        return path


def _drop_leftovers(folder: Path) -> None:
    """Delete what killed processes of this user have left."""
    for path in folder.glob(f"{_PREFIX}*"):
        try:
            opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # another user's, or gone
            continue
        try:
            state = os.fstat(opened)
            if state.st_uid == os.getuid() and time.time() - state.st_mtime > _FRESH:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:  # its process lives
            continue
        finally:
            os.close(opened)
