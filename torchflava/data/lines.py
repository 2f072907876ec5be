"""The lines of a text file as texts, read by position from an index beside it, or one that is made at the start.

The index is two numbers a line in a mapped safetensors file (recipes/data/index.py builds it).
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from torchflava.data.columns import Column, map_columns, write_columns
from torchflava.data.samples import TextSample
from torchflava.data.storage import LocalFiles, Span
from torchflava.transforms.image import CorruptSample

_FORMAT = "torchflava lines 1"
_MOST = 1 << 24  # bytes of a line; what is longer is corrupt, not read
_PIECE = 1 << 22  # bytes looked at at a time
_NO_TEXT = np.zeros(256, bool)
_NO_TEXT[list(b" \t\n\r\x0b\x0c")] = True


class Lines(NamedTuple):
    """(m,) each: the lines of a file that hold more than blanks."""

    starts: NDArray[np.int64]
    """In bytes."""
    sizes: NDArray[np.uint32]
    """In bytes, with the line's end."""


class TextLines:
    """The lines of a text file as texts, empty ones left out. Threads and processes may read at once.

    Args:
        path: UTF-8.
        name: enters the key of every sample's randomness.

    Raises:
        ValueError: if the file cannot be read or has no line with a text, or if its index is damaged.
    """

    def __init__(self, path: str | Path, name: str = "texts") -> None:
        self.path = Path(path)
        self.name = name
        self._files = LocalFiles(1)
        self._lines = self._opened()
        if not len(self):
            raise ValueError(f"texts {path} has no line with a text")

    def _opened(self) -> Lines:
        try:
            return open_lines(self.path) or scan_lines(self.path)
        except OSError as error:
            raise ValueError(f"texts {self.path} cannot be read ({error})") from error

    def __reduce__(self) -> tuple[type["TextLines"], tuple[Path, str]]:
        return TextLines, (self.path.absolute(), self.name)

    def __len__(self) -> int:
        return len(self._lines.starts)

    def __getitem__(self, index: int) -> TextSample:
        """The text at `index`, counted without the empty lines; bytes that are not UTF-8 become U+FFFD.

        Raises:
            IndexError: if `index` is negative or too great.
            CorruptSample: if the line is endless or holds no letter, or the file has changed or cannot be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: index {index} lies outside [0, {len(self)})")
        key = f"{self.path.name}/{index}"
        start, size = int(self._lines.starts[index]), int(self._lines.sizes[index])
        if size > _MOST:
            raise CorruptSample(f"{key}: a line of {size} bytes; at most {_MOST} are read")
        before = min(start, 1)
        data = self._files.read(str(self.path), Span(start - before, before + size), 0)
        if (before and data[:1] != b"\n") or b"\n" in data[before:-1]:
            raise CorruptSample(f"{self.path} is not the file that was indexed, at line {index}; index it anew")
        text = data[before:].decode(errors="replace").strip()
        if not text:
            raise CorruptSample(f"{key}: a line of blanks")
        return TextSample(text, key)


def lines_index(path: Path) -> Path:
    """Where the index of a text file stands."""
    return path.with_name(f"{path.name}.index.safetensors")


def open_lines(path: Path) -> Lines | None:
    """The lines as the index beside the file has them; None if there is none, or the file's length has changed since.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the index is damaged.
    """
    beside = lines_index(path)
    num_bytes = os.stat(path).st_size
    try:
        with open(beside, "rb") as file:
            columns, metadata = map_columns(file, beside)
    except FileNotFoundError:
        return None
    if metadata.get("format") != _FORMAT or columns.keys() != {"starts", "sizes"}:
        raise ValueError(f"{beside} is no index of lines of this version; delete it and build it again")
    if metadata.get("num_bytes") != str(num_bytes):
        return None
    return Lines(columns["starts"], columns["sizes"])


def write_lines(file: IO[bytes], lines: Lines, num_bytes: int) -> None:
    """Write the index of a text file that has `num_bytes` bytes."""
    columns = {
        "starts": Column("I64", lines.starts.shape, [lines.starts]),
        "sizes": Column("U32", lines.sizes.shape, [lines.sizes]),
    }
    write_columns(file, columns, {"format": _FORMAT, "num_bytes": str(num_bytes)})


def scan_lines(path: Path) -> Lines:
    """The lines of a text file, 12 bytes of memory each.

    Raises:
        OSError: if it cannot be read.
    """
    found = list(_pieces(path))
    starts = np.concatenate([np.zeros(0, np.int64), *(start for start, _ in found)])
    sizes = np.concatenate([np.zeros(0, np.uint32), *(size for _, size in found)])
    return Lines(starts, sizes)


def _pieces(path: Path) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint32]]]:
    """Starts and sizes of the lines that end in each piece of the file, blank ones left out."""
    start, told, offset = 0, 0, 0  # of the line that is not over: where it began, how much of it is no blank
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            letters = np.frombuffer(piece, np.uint8)
            ends = np.flatnonzero(letters == ord("\n")).astype(np.int64)
            so_far = np.cumsum(~_NO_TEXT[letters])
            marks = told + so_far[ends]
            starts = np.concatenate([[start], offset + ends + 1])
            full = np.diff(marks, prepend=0) > 0
            sizes = np.diff(starts).clip(max=np.iinfo(np.uint32).max).astype(np.uint32)
            yield starts[:-1][full], sizes[full]
            start, told = int(starts[-1]), told + int(so_far[-1]) - (int(marks[-1]) if len(ends) else 0)
            offset += len(piece)
    if told:
        yield np.array([start], np.int64), np.array([min(offset - start, (1 << 32) - 1)], np.uint32)
