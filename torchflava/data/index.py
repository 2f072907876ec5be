"""Where the samples of tar shards lie: an index of offsets, one file for a folder of shards, mapped instead of read.

A sample is the members that stand together and share a name up to the first dot: `0001.jpg 0001.txt 0001.json`, the layout
of webdataset's tars as rom1504/img2dataset writes them. Letters: S shards, n samples.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from torchflava.data.columns import Array, Column, map_columns, write_columns
from torchflava.data.sorting import DEFAULT, REASONS, Endings, sort_members

INDEX_NAME = "index.safetensors"
"""What the index of a folder is called; it stands beside the shards."""
IMAGE, CAPTION, META = 0, 1, 2
"""A sample's members, in the order of `Index.members`."""
REMEDY = "bring the index up to date with recipes/data/index.py"

_FORMAT = "torchflava shards 1"
_SHAPES: dict[str, tuple[str, tuple[int, ...]]] = {
    "num_bytes": ("I64", ()),  # by shard
    "modified": ("I64", ()),  # when, in nanoseconds: whether a shard must be scanned anew
    "groups": ("I64", (3,)),  # samples with an image alone, with both, with a caption alone: they follow each other
    "name_bytes": ("I64", ()),
    "key_bytes": ("I64", ()),
    "passed": ("I64", (2,)),  # members and samples that were passed over: their number, and their names' bytes
    "members": ("U32", (3, 3)),  # by sample: image, caption, meta; block of the content (0: none), bytes, check
    "key_ends": ("U32", ()),  # in the shard's keys
    "passed_ends": ("U32", ()),  # by what was passed over: in the shard's names of those
    "reasons": ("U8", ()),  # into REASONS
    "keys": ("U8", ()),
    "names": ("U8", ()),  # of the shards
    "passed_names": ("U8", ()),
}


class PassedOver(NamedTuple):
    """A sample or member that some source or every source leaves out."""

    shard: str
    name: str
    """The sample's key or the member's name."""
    reason: str


class Starts(NamedTuple):
    """(S + 1,) each: where a shard's part of a column begins."""

    rows: NDArray[np.int64]
    keys: NDArray[np.int64]
    passed: NDArray[np.int64]
    passed_names: NDArray[np.int64]
    names: NDArray[np.int64]


class Index:
    """The index of one or more shards; arrays that are mapped from a file, or in memory.

    Args:
        columns: as `scan`, `join` and `open_index` make them.
        endings: which members count as image, caption and meta.
        again: how another process gets it (a function and its arguments) without the arrays being sent there.
    """

    def __init__(
        self, columns: Mapping[str, Array], endings: Endings, again: tuple[Callable[..., "Index"], Any] | None = None
    ) -> None:
        self.columns = dict(columns)
        self.endings = endings
        self._again = again

    def __reduce__(self) -> tuple[Any, ...]:
        if self._again is None:
            return Index, (self.columns, self.endings)
        reopen, of = self._again
        return _the_same, (reopen, of, self.fingerprint)

    def __len__(self) -> int:
        """Samples with an image or a caption."""
        return len(self.columns["members"])

    @property
    def num_shards(self) -> int:
        """S."""
        return len(self.columns["num_bytes"])

    @cached_property
    def starts(self) -> Starts:
        """Where each shard's parts begin."""
        of = self.columns
        counts = (of["groups"].sum(1), of["key_bytes"], of["passed"][:, 0], of["passed"][:, 1], of["name_bytes"])
        return Starts(*(np.concatenate([np.zeros(1, np.int64), np.cumsum(count)]) for count in counts))

    @cached_property
    def names(self) -> list[str]:
        """The shards' file names."""
        ends, blob = self.starts.names, self.columns["names"].tobytes()
        return [blob[start:end].decode() for start, end in pairwise(ends)]

    @property
    def fingerprint(self) -> str:
        """Tells indexes of other shards apart, by what is known of each shard as a whole."""
        told = [self.columns[name].tobytes() for name, (dtype, _) in _SHAPES.items() if dtype == "I64"]
        return hashlib.blake2b(b"".join([*told, self.columns["names"].tobytes()]), digest_size=16).hexdigest()

    def shard_of(self, row: int) -> int:
        """The shard in which sample `row` lies."""
        return int(self.starts.rows.searchsorted(row, "right")) - 1

    def key(self, row: int) -> str:
        """What the names of the members of sample `row` have in common."""
        shard = self.shard_of(row)
        start = 0 if row == self.starts.rows[shard] else int(self.columns["key_ends"][row - 1])
        first = int(self.starts.keys[shard])
        return _text(self.columns["keys"][first + start : first + int(self.columns["key_ends"][row])])

    def incomplete(self, shard: int) -> Iterator[PassedOver]:
        """What of a shard some source leaves out, and why."""
        name, first = self.names[shard], int(self.starts.rows[shard])
        alone, both, texts = (int(count) for count in self.columns["groups"][shard])
        yield from (PassedOver(name, self.key(first + i), "no caption") for i in range(alone))
        yield from (PassedOver(name, self.key(first + alone + both + i), "no image") for i in range(texts))
        start, blob = 0, int(self.starts.passed_names[shard])
        for at in range(self.starts.passed[shard], self.starts.passed[shard + 1]):
            end = int(self.columns["passed_ends"][at])
            told = _text(self.columns["passed_names"][blob + start : blob + end])
            yield PassedOver(name, told, REASONS[self.columns["reasons"][at]])
            start = end

    def counts(self) -> Counter[str]:
        """What was passed over, by reason."""
        alone, _, texts = (int(count) for count in self.columns["groups"].sum(0))
        told = np.bincount(self.columns["reasons"], minlength=len(REASONS))
        found = Counter({"no caption": alone, "no image": texts})
        found.update({reason: int(count) for reason, count in zip(REASONS, told, strict=False)})
        return +found

    def part(self, shard: int) -> "Index":
        """The index of one of its shards."""
        of, starts = self.columns, self.starts
        per_shard = {name: of[name][shard : shard + 1] for name, (dtype, _) in _SHAPES.items() if dtype == "I64"}
        where = {
            "members": starts.rows,
            "key_ends": starts.rows,
            "passed_ends": starts.passed,
            "reasons": starts.passed,
        }
        where |= {"keys": starts.keys, "names": starts.names, "passed_names": starts.passed_names}
        return Index(
            per_shard | {name: of[name][at[shard] : at[shard + 1]] for name, at in where.items()}, self.endings
        )

    def same_as(self, other: "Index") -> bool:
        """Whether another index says the same about the same shards, however old these are."""
        return self.endings == other.endings and all(
            np.array_equal(self.columns[name], other.columns[name]) for name in _SHAPES if name != "modified"
        )

    def refuse_changed(self, shard: int, path: str | Path) -> None:
        """Make sure that the shard at `path` is as long as it was when it was indexed.

        Raises:
            ValueError: if it is missing or of another length.
        """
        try:
            found = os.stat(path).st_size
        except OSError as error:
            raise ValueError(f"shard {path} cannot be read ({error}); fetch it again, or {REMEDY}") from error
        told = int(self.columns["num_bytes"][shard])
        if found != told:
            raise ValueError(f"shard {path} has {found} bytes, {told} when it was indexed; fetch it again, or {REMEDY}")


def scan(path: str | Path, endings: Endings = DEFAULT) -> Index:
    """The index of one uncompressed tar, by its headers alone.

    Raises:
        ValueError: if the file is missing, is no tar, is compressed, or ends before its end-of-archive mark.
    """
    try:
        with open(path, "rb") as file:
            return scan_file(file, path, endings)
    except OSError as error:
        raise ValueError(f"shard {path} cannot be read ({error}); it must be a whole, uncompressed tar") from error


def scan_file(file: BinaryIO, path: str | Path, endings: Endings = DEFAULT) -> Index:
    """As `scan`, of an open file; `path` gives the shard's name.

    Raises:
        ValueError: as `scan`.
    """
    found, state = sort_members(file, path, endings), os.fstat(file.fileno())
    name = os.fspath(path).rpartition("/")[2].encode()
    single = {
        "num_bytes": [state.st_size],
        "modified": [state.st_mtime_ns],
        "groups": [found.groups],
        "name_bytes": [len(name)],
        "key_bytes": [len(found.keys)],
        "passed": [(len(found.reasons), len(found.passed_names))],
        "names": np.frombuffer(name, np.uint8),
    }
    columns = found._asdict()
    return Index(
        {part: np.array(single[part] if part in single else columns[part], _dtype(part)) for part in _SHAPES}, endings
    )


def join(parts: Sequence[Index]) -> Index:
    """One index of several, in memory."""
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in _SHAPES}
    return Index(columns, parts[0].endings)


def write_index(file: IO[bytes], parts: Sequence[Callable[[], Index]], endings: Endings = DEFAULT) -> None:
    """Write the index of several parts, each got once for every column and never all at once."""
    lengths = Counter[str]()
    for part in parts:
        lengths.update({name: len(column) for name, column in part().columns.items()})
    columns = {
        name: Column(dtype, (lengths[name], *shape), _column(parts, name)) for name, (dtype, shape) in _SHAPES.items()
    }
    write_columns(file, columns, {"format": _FORMAT, "endings": endings.told()})


def _column(parts: Sequence[Callable[[], Index]], name: str) -> Iterator[Array]:
    return (part().columns[name] for part in parts)


def open_index(path: str | Path) -> Index:
    """The index in a file, mapped: opening takes as long for a million samples as for a hundred.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged or no index.
    """
    with open(path, "rb") as file:
        return map_index(file, path, (open_index, os.path.abspath(path)))


def map_index(file: BinaryIO, path: str | Path, again: tuple[Callable[..., Index], Any] | None = None) -> Index:
    """As `open_index`, of an open file; `path` names it in errors.

    Raises:
        ValueError: if it is damaged or no index.
    """
    columns, metadata = map_columns(file, path)
    shapes = {name: columns[name].shape[1:] if name in columns else None for name in _SHAPES}
    if (
        metadata.get("format") != _FORMAT
        or "endings" not in metadata
        or shapes != {name: shape for name, (_, shape) in _SHAPES.items()}
    ):
        raise ValueError(f"{path} is no index of shards of this version; delete it and build it again")
    index = Index(columns, Endings.of(metadata["endings"]), again)
    ends = {name: int(column[-1]) for name, column in zip(Starts._fields, index.starts, strict=True)}
    due = {"rows": "members", "keys": "keys", "passed": "reasons", "passed_names": "passed_names", "names": "names"}
    if any(ends[name] != len(columns[column]) for name, column in due.items()):
        raise ValueError(f"{path} is damaged (its parts are not of one length); delete it and build it again")
    return index


def _the_same(reopen: Callable[..., Index], of: Any, fingerprint: str) -> Index:
    index = reopen(of)
    if index.fingerprint != fingerprint:
        raise ValueError(f"the index {of} has been built anew since it was opened; start again")
    return index


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype({"I64": np.int64, "U32": np.uint32, "U8": np.uint8}[_SHAPES[name][0]])


def _text(letters: NDArray[np.uint8]) -> str:
    return letters.tobytes().decode(errors="backslashreplace")
