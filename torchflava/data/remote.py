"""Shards in object stores and on web servers (`s3://`, `gs://`, `https://` ...), through fsspec: copied whole into a bounded
cache on the local disk, or read range by range.

A failed read is tried again with growing pauses. What still fails is a CorruptSample, which the loader replaces.
"""

import copy
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from torchflava.data.storage import Span, exactly
from torchflava.stores import Retries, patiently
from torchflava.transforms.image import CorruptSample

T = TypeVar("T")

_PIECE = 1 << 24  # bytes fetched by one request
_LOCKS = 64  # shards that processes of one machine can fetch at a time, about
_ANEW = ("index.safetensors", "codes.json")  # written again in place, which their length need not show
_WAIT = 0.05  # seconds between two looks whether there is room


class _Remote:
    """What both ways share: one request after another, each tried again if it fails."""

    def __init__(self, retries: Retries) -> None:
        if retries.tries < 1 or retries.first_pause < 0:
            raise ValueError(f"{retries} cannot be kept; 1 try or more and a pause of 0 or more seconds are due")
        self.retries = retries

    def _range(self, url: str, start: int, end: int) -> bytes:
        """Bytes `start` to `end` - 1; fewer where the file ends before.

        Raises:
            OSError: if it cannot be read.
        """
        return self._patiently(url, lambda system, path: system.cat_file(path, start=start, end=end))

    def _size(self, url: str) -> int:
        size = self._patiently(url, lambda system, path: system.size(path))
        if size is None:
            raise OSError(f"its server does not tell how long {url} is; copy it to the local disk")
        return int(size)

    def _patiently(self, url: str, ask: Callable[[Any, str], T]) -> T:
        return patiently(url, ask, self.retries)

    def _copy(self, url: str, file: BinaryIO, size: int) -> None:
        """Write all of a file of `size` bytes.

        Raises:
            OSError: if it cannot be read whole.
        """
        for start in range(0, size, _PIECE):
            piece = self._range(url, start, min(start + _PIECE, size))
            if len(piece) == size:  # all at once, as from web servers that know no ranges
                file.write(piece)
                return
            if len(piece) != min(_PIECE, size - start):
                raise OSError(f"{start + len(piece)} bytes were got of {size}")
            file.write(piece)


class Ranged(_Remote):
    """Every sample by a request of its own, nothing kept: for a few samples, or for a store that is near.

    Args:
        retries: how failed reads are tried again.
    """

    def __init__(self, retries: Retries = Retries()) -> None:  # noqa: B008  # it cannot be changed
        super().__init__(retries)

    def read(self, path: str, span: Span, num_bytes: int) -> bytes:
        """The bytes at `span` of the shard at the URL `path`.

        Raises:
            CorruptSample: if they cannot be fetched.
        """
        try:
            found = self._range(path, span.offset, span.offset + span.size)
        except OSError as error:
            raise CorruptSample(f"shard {path} cannot be fetched ({type(error).__name__}: {error})") from error
        if len(found) != span.size:
            told = f"{len(found)} bytes for {span.size} at byte {span.offset}"
            raise CorruptSample(f"shard {path} gave {told}: it has become shorter, or its server knows no ranges")
        return found

    def open_whole(self, path: str, num_bytes: int | None = None) -> BinaryIO:
        """A copy of a whole file, gone once it is closed.

        Raises:
            OSError: if it cannot be fetched.
        """
        file = tempfile.TemporaryFile()  # noqa: SIM115  # the caller closes it
        try:
            self._copy(path, file, self._size(path) if num_bytes is None else num_bytes)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file


class DiskCache(_Remote):
    """Whole shards on the local disk, for all processes of a machine; those not read for longest make room for others.

    A shard has its name only once it is whole, and is fetched by one process while others wait for it. What is being fetched
    counts as if it were there, so that `limit` holds all the time.

    Args:
        folder: of this machine's own disk; nothing else may be in it.
        limit: bytes of shards that are kept at most; at least those of the processes that read at a time.
        retries: how failed reads are tried again.
    """

    def __init__(self, folder: str | Path, limit: int, *, retries: Retries = Retries()) -> None:  # noqa: B008
        super().__init__(retries)
        if limit < 1:
            raise ValueError(f"a cache of {limit} bytes holds no shard; give it room for some")
        self.folder = Path(folder)
        self.limit = limit
        self.version = ""

    def at_version(self, version: str) -> "DiskCache":
        """The same cache for a file of which it is known what it holds: copies of other versions of it are not taken."""
        made = copy.copy(self)
        made.version = version
        return made

    def read(self, path: str, span: Span, num_bytes: int) -> bytes:
        """The bytes at `span` of the shard at the URL `path`, which has `num_bytes` bytes and is fetched if need be.

        Raises:
            CorruptSample: if it cannot be fetched, or ends before them.
        """
        try:
            with self.open_whole(path, num_bytes) as file:
                return exactly(file.fileno(), span, path)
        except OSError as error:
            told = f"{type(error).__name__}: {error}"
            raise CorruptSample(f"shard {path} cannot be fetched into {self.folder} ({told})") from error

    def open_whole(self, path: str, num_bytes: int | None = None) -> BinaryIO:
        """The copy of a whole file; it can be read to its end even if it has to make room meanwhile.

        Indexes and lists of codes are fetched each time, and not kept: they say what else is up to date.

        Raises:
            OSError: if it cannot be fetched, or is of another length than `num_bytes`.
        """
        if path.rpartition("/")[2] in _ANEW:
            return Ranged(self.retries).open_whole(path, num_bytes)
        size = self._size(path) if num_bytes is None else num_bytes
        told = f"{size} {path}" + (f" {self.version}" if self.version else "")
        digest = hashlib.blake2b(told.encode(), digest_size=12).hexdigest()
        kept = self.folder / f"{digest}.shard"
        while True:
            try:
                file = open(kept, "rb")  # noqa: SIM115  # the caller closes it
            except FileNotFoundError:
                self._fetch(path, kept, size)
                continue  # another process may have deleted it since
            now = time.time_ns()  # finer than the clock that the file system would take
            os.utime(file.fileno(), ns=(now, now))
            return file

    def _fetch(self, url: str, kept: Path, size: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked(f"{int(kept.stem, 16) % _LOCKS:02}.lock"):
            if kept.exists():
                return
            if (found := self._size(url)) != size:
                raise OSError(f"it has {found} bytes, {size} when it was indexed")
            while (part := self._room(kept, size)) is None:
                time.sleep(_WAIT)
            with part:
                try:
                    self._copy(url, part, size)
                    part.flush()
                    with self._locked("room.lock"):  # or it would be counted neither here nor there
                        os.replace(part.name, kept)
                except BaseException:
                    Path(part.name).unlink(missing_ok=True)
                    raise

    def _room(self, kept: Path, size: int) -> BinaryIO | None:
        """An open file for what is fetched, as long as it will be; shards that were not read for longest are deleted for it.

        None while others are fetching so much that there is no room.
        """
        if size > self.limit:
            raise OSError(f"{size} bytes do not fit into a cache of {self.limit}; raise its limit")
        with self._locked("room.lock"):
            self._drop_leftovers()
            there = sorted((state.st_mtime_ns, path, state.st_size) for path, state in self._states("*.shard"))
            used = sum(length for _, _, length in there) + sum(state.st_size for _, state in self._states("*.part"))
            for _, path, length in there:
                if used + size > self.limit:
                    path.unlink(missing_ok=True)
                    used -= length
            if used + size > self.limit:
                return None
            part = open(kept.with_suffix(f".{os.getpid()}.part"), "w+b")  # noqa: SIM115  # the caller closes it
            fcntl.flock(part, fcntl.LOCK_EX)  # says that its writer lives
            part.truncate(size)
            return part

    def _states(self, pattern: str) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.glob(pattern):
            try:
                yield path, path.stat()
            except FileNotFoundError:
                continue  # renamed by another process

    def _drop_leftovers(self) -> None:
        """Delete what processes that are gone had begun to fetch."""
        for path, _ in self._states("*.part"):
            try:
                with open(path, "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink(missing_ok=True)
            except (BlockingIOError, FileNotFoundError):
                continue

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with open(self.folder / name, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough where a forked process has it too
