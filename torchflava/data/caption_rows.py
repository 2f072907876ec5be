"""Captions by position: where a caption file's rows lie, which of them are left out, and names packed end to end."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

_PLACE = np.dtype([("start", "<i8"), ("size", "<u4"), ("number", "<u4")])
_LONGEST = 1 << 26  # bytes of a row


class Row(NamedTuple):
    """What a row says."""

    image: str
    """The path of the image, as written."""
    captions: Sequence[str]
    """One for a table; in JSON as many as there are."""


class Rejected:
    """The rows left out: how many for which reason, and where the first of each stands."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def add(self, reason: str, where: str) -> None:
        """One more."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self._first.setdefault(reason, where)

    def __str__(self) -> str:
        return "; ".join(f"{reason}: {n} (first: {self._first[reason]})" for reason, n in self.counts.items())


Refuse = Callable[[str, str], str | None]
"""(image, caption) -> why a sample of them is left out, or None."""


class Captions(Protocol):
    """(image, caption) by position."""

    rejected: Rejected

    def __len__(self) -> int:
        """The number of captions."""

    def __getitem__(self, index: int) -> tuple[str, str]:
        """The path of the image, as written, and the caption, stripped."""


class Scanned(NamedTuple):
    """A row met while a file is gone through."""

    start: int
    size: int
    line: int
    """Of its end, from 1."""
    row: Row | str
    """Or why there is none."""


class RowFormat(Protocol):
    """How a file of captions is read: once through, and then one row at a time."""

    def scan(self) -> Iterator[Scanned]:
        """All rows."""

    def parse(self, record: bytes) -> Row:
        """The row that lies at one place; ValueError (UnicodeDecodeError is one) if it is none."""


class CaptionRows:
    """Rows read where they lie; 16 bytes of memory a caption. No file stays open, so threads and processes share it."""

    def __init__(self, path: Path, form: RowFormat, refuse: Refuse) -> None:
        self.path, self.rejected, self._form = path, Rejected(), form
        columns = array("q"), array("I"), array("I")
        for start, size, line, row in form.scan():
            for number, why in enumerate(reasons(row if size <= _LONGEST else "malformed", refuse)):
                if why:
                    self.rejected.add(why, f"line {line}")
                else:
                    for column, value in zip(columns, (start, size, number), strict=True):
                        column.append(value)
        self._places: NDArray[np.void] = np.empty(len(columns[0]), dtype=_PLACE)
        for field, column in zip(("start", "size", "number"), columns, strict=True):
            self._places[field] = np.frombuffer(column, dtype=_PLACE[field]) if column else 0

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[str, str]:
        start, size, number = (int(value) for value in self._places[index])
        with self.path.open("rb") as file:
            file.seek(start)
            record = file.read(size)
        try:
            row = self._form.parse(record)
            return row.image, row.captions[number].strip()
        except (ValueError, IndexError) as error:
            raise ValueError(f"captions {self.path} have changed since they were opened; open them anew") from error


def reasons(row: Row | str, refuse: Refuse) -> list[str | None]:
    """For each caption of a row, why it is left out, or None."""
    if isinstance(row, str):
        return [row]
    return [_reason(row.image, caption, refuse) for caption in row.captions] or ["empty caption"]


def _reason(image: str, caption: str, refuse: Refuse) -> str | None:
    try:
        caption.encode()  # JSON can hold half of a surrogate pair
    except UnicodeEncodeError:
        return "not UTF-8"
    return refuse(image, caption) if caption.strip() else "empty caption"


class Packed:
    """Byte strings end to end: 8 bytes of memory beside their own, where a Python object has 33."""

    def __init__(self, strings: Iterable[bytes]) -> None:
        buffer, ends = bytearray(), array("q", [0])
        for string in strings:
            buffer += string
            ends.append(len(buffer))
        self._bytes = bytes(buffer)
        self._ends: NDArray[np.int64] = np.frombuffer(ends, dtype=np.int64).copy()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> bytes:
        return self._bytes[self._ends[index] : self._ends[index + 1]]
