"""Arrays in a safetensors file that are mapped instead of read, and written piece by piece.

Source: the safetensors format (8 bytes of length, a JSON header, the arrays without gaps). The package itself copies what it
reads into memory and wants all of what it writes there.
"""

import json
import math
import mmap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_TYPES: dict[str, np.dtype[Any]] = {
    "I64": np.dtype("<i8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
}
_MOST_HEADER = 100 << 20  # bytes, as in safetensors


class Column(NamedTuple):
    """An array to be written."""

    dtype: str
    """I64, U32, U16 or U8."""
    shape: tuple[int, ...]
    """Of the whole."""
    pieces: Iterable[Array]
    """Its rows, some at a time; read once."""


def write_columns(file: IO[bytes], columns: Mapping[str, Column], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; those columns that have wider numbers should come first, so that all are aligned.

    Raises:
        ValueError: if a column's pieces are not what its shape says.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, column in columns.items():
        start, end = end, end + math.prod(column.shape) * _TYPES[column.dtype].itemsize
        header[name] = {"dtype": column.dtype, "shape": list(column.shape), "data_offsets": [start, end]}
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    file.write(len(told).to_bytes(8, "little") + told)
    for name, column in columns.items():
        written = 0
        for piece in column.pieces:
            data = np.ascontiguousarray(piece, dtype=_TYPES[column.dtype])
            file.write(data.data if data.size else b"")
            written += data.nbytes
        start, end = header[name]["data_offsets"]
        if written != end - start:
            raise ValueError(f"{name}: {written} bytes were given for a shape of {column.shape}; {end - start} are due")


def map_columns(file: BinaryIO, path: str | Path) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays of a safetensors file, mapped and read-only, and its metadata; `path` names it in errors.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if hasattr(mapped, "madvise"):  # one sample here, one there: reading ahead would fill the memory
            mapped.madvise(mmap.MADV_RANDOM)
        size = int.from_bytes(mapped[:8], "little")
        if size > min(_MOST_HEADER, len(mapped) - 8):
            raise ValueError(f"its header would have {size} bytes")
        header = json.loads(mapped[8 : 8 + size])
        metadata = header.pop("__metadata__", {})
        return dict(_arrays(mapped, header, 8 + size)), {str(key): str(value) for key, value in metadata.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and build it again") from error


def _arrays(mapped: mmap.mmap, header: Mapping[str, Any], first: int) -> Iterator[tuple[str, Array]]:
    for name, told in header.items():
        dtype, shape = _TYPES[told["dtype"]], tuple(told["shape"])
        start, end = told["data_offsets"]
        count = math.prod(shape)
        if min(shape, default=0) < 0 or start < 0 or end - start != count * dtype.itemsize or first + end > len(mapped):
            raise ValueError(f"{name} does not fit into {len(mapped)} bytes")
        yield name, np.frombuffer(mapped, dtype, count, first + start if count else 0).reshape(shape)
