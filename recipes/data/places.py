"""Where the entries of large annotation files lie, so that a slice reads its own and nothing else.

JSON lines: an entry a line. JSON arrays: an entry an element of the outermost array, found without keeping the others.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_PIECE = 1 << 20  # bytes read at a time
_MOST = 1 << 28  # bytes of one element


class Place(NamedTuple):
    """An entry's place."""

    file: int
    """Into the paths."""
    offset: int
    """In bytes."""
    size: int
    """In bytes."""


class Entries:
    """Entries of files, read by position; what it holds is three numbers each.

    Args:
        paths: of the files.
        places: of the entries.
    """

    def __init__(self, paths: Iterable[Path], places: Iterable[Place]) -> None:
        self.paths = list(paths)
        self.places: NDArray[np.int64] = np.array([*places], np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self.places)

    def key(self, index: int) -> str:
        """The file and where in it."""
        file, offset, _ = self.places[index]
        return f"{self.paths[file].name}@{offset}"

    def __getitem__(self, index: int) -> bytes:
        """The bytes of entry `index`."""
        file, offset, size = (int(number) for number in self.places[index])
        with open(self.paths[file], "rb") as opened:
            opened.seek(offset)
            return opened.read(size)


def need_folder(path: Path, remedy: str) -> Path:
    """`path`; raises ValueError with the remedy unless it is a folder."""
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}; {remedy}")
    return path


def need_file(path: Path, remedy: str) -> Path:
    """`path`; raises ValueError with the remedy unless it is a file."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}; {remedy}")
    return path


def first_file(folders: Iterable[Path], name: str) -> Path:
    """The first file of that name in the folders; in the last of them, if it is in none."""
    path = Path(name)
    for folder in folders:
        path = folder / name
        if path.is_file():
            break
    return path


def read_json(path: Path, remedy: str) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: if it is missing or no JSON.
    """
    try:
        return json.loads(need_file(path, remedy).read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}); {remedy}") from error


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each line that holds more than blanks, and where it begins, in bytes."""
    with open(path, "rb") as file:
        offset = 0
        for line in file:
            if line.strip():
                yield offset, line
            offset += len(line)


def elements_of(path: Path, remedy: str) -> Iterator[tuple[int, int, Any]]:
    """Each element of the array that a JSON file is: where it begins, its size, both in bytes, and itself.

    Bytes beyond ASCII are taken for Latin-1 here, so that positions are counted in bytes: read the element anew for its texts.

    Raises:
        ValueError: if the file is no whole JSON array.
    """
    decoder, blanks = json.JSONDecoder(), " \t\r\n"
    with open(need_file(path, remedy), encoding="latin-1", newline="") as file:
        text, base = file.read(_PIECE), 0
        at = len(text) - len(text.lstrip(blanks))
        if text[at : at + 1] != "[":
            raise ValueError(f"{path} is no JSON array (it begins with {text[:20]!r}); {remedy}")
        at += 1
        while True:
            while text[at : at + 1] and text[at] in blanks + ",":
                at += 1
            if text[at : at + 1] == "]":
                return
            try:
                element, end = decoder.raw_decode(text, at)
                if end == len(text):  # a number might go on
                    raise ValueError("it ends in the middle")
                yield base + at, end - at, element
                at = end
            except ValueError as error:
                more = file.read(_PIECE)
                if not more or len(text) - at > _MOST:
                    raise ValueError(f"{path} is damaged at byte {base + at} ({error}); {remedy}") from error
                base, text, at = base + at, text[at:] + more, 0
