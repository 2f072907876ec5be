"""Bytes read by position from files of the local disk, by many threads and processes at once."""

import os
import threading
from collections import OrderedDict
from typing import BinaryIO, NamedTuple, Protocol

from torchflava.transforms.image import CorruptSample


class Span(NamedTuple):
    """Where bytes lie in a file."""

    offset: int
    """In bytes from the start."""
    size: int
    """In bytes."""


class Storage(Protocol):
    """Where shards are."""

    def read(self, path: str, span: Span, num_bytes: int) -> bytes:
        """The bytes at `span` of a shard of `num_bytes` bytes in all.

        Raises:
            CorruptSample: if it cannot be read or ends before them.
        """

    def open_whole(self, path: str, num_bytes: int | None = None) -> BinaryIO:
        """A whole file, opened on the local disk.

        Raises:
            OSError: if it cannot be read.
        """


class LocalFiles:
    """Files of this machine, the descriptors of those read last kept open.

    A descriptor has no position that threads or forked processes would have to share (pread), and is closed when the last
    reader lets go of it: never under another's hands. A pickled copy opens its own.

    Args:
        num_open: descriptors that are kept at most.
    """

    def __init__(self, num_open: int = 32) -> None:
        if num_open < 1:
            raise ValueError(f"{num_open} files kept open are too few; 1 or more are due")
        self.num_open = num_open
        self._kept = _Kept()

    def __reduce__(self) -> tuple[type["LocalFiles"], tuple[int]]:
        return LocalFiles, (self.num_open,)

    def read(self, path: str, span: Span, num_bytes: int) -> bytes:
        """The bytes at `span`.

        Raises:
            CorruptSample: if the file is gone, cannot be read, or ends before them.
        """
        try:
            held = self._descriptor(path)  # until it is read: the last reference closes the file
            return exactly(held.number, span, path)
        except OSError as error:
            raise CorruptSample(f"shard {path} cannot be read any more ({error})") from error

    def open_whole(self, path: str, num_bytes: int | None = None) -> BinaryIO:
        """The file itself.

        Raises:
            OSError: if it cannot be read.
        """
        return open(path, "rb")

    def _descriptor(self, path: str) -> "_Descriptor":
        kept = self._kept
        if kept.process != os.getpid():  # forked: another thread may have held the lock, which nobody here lets go
            kept = self._kept = _Kept()
        with kept.lock:
            if (found := kept.files.get(path)) is not None:
                kept.files.move_to_end(path)
                return found
        opened = _Descriptor(path)
        with kept.lock:
            opened = kept.files.setdefault(path, opened)  # another thread may have been quicker
            kept.files.move_to_end(path)
            while len(kept.files) > self.num_open:
                kept.files.popitem(last=False)
        return opened


class _Kept:
    """A process's open files, the one read last at the end."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.files: OrderedDict[str, _Descriptor] = OrderedDict()


class _Descriptor:
    """An open file, closed with the last reference to it."""

    def __init__(self, path: str) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


def exactly(descriptor: int, span: Span, path: str) -> bytes:
    """The bytes at `span` of an open file.

    Raises:
        CorruptSample: if it ends before them.
        OSError: if it cannot be read.
    """
    found = os.pread(descriptor, span.size, span.offset)
    if len(found) == span.size:
        return found
    parts = [found]
    offset, missing = span.offset + len(found), span.size - len(found)
    while missing and (part := os.pread(descriptor, missing, offset)):  # one call reads 2 GiB at most
        parts.append(part)
        offset, missing = offset + len(part), missing - len(part)
    if missing:
        raise CorruptSample(f"shard {path} has become shorter since it was indexed, at byte {offset}")
    return b"".join(parts)
