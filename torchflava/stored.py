"""The tensors of a parsed pickle: views of records that lie beside it, in a zip or, in torch's older files, behind it."""

import math
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any, BinaryIO

import torch
from torch import Tensor

from torchflava import pickled
from torchflava.pickled import Stored, View
from torchflava.zipped import entries_of


def from_zip(file: BinaryIO, allow: Collection[str]) -> tuple[Any, Callable[[Stored], bytes]]:
    """torch.save's files: a zip, uncompressed, of `data.pkl` and `data/KEY`, under a folder of any name."""
    archive, entries = entries_of(file)
    if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
        raise pickled.UnreadableError("its bytes are in big-endian order; convert it where it was written")
    root = pickled.parse(archive.read(entries["data.pkl"]), allow).root
    return root, lambda stored: archive.read(entries[f"data/{stored.key}"])


def from_legacy(file: BinaryIO, allow: Collection[str]) -> tuple[Any, Callable[[Stored], bytes]]:
    """torch.save's files before 1.6: five pickles (magic, version, machine, object, keys), then the records."""
    _, version, machine = (pickled.parse(file, ()).root for _ in range(3))
    if version != 1001 or type(machine) is not dict or machine.get("little_endian") is not True:
        raise pickled.UnreadableError(
            "it is of another version or in big-endian order; convert it where it was written"
        )
    root, stored = pickled.parse(file, allow)
    places: dict[str, tuple[int, int]] = {}
    size = os.fstat(file.fileno()).st_size
    for key in pickled.parse(file, ()).root:
        length = int.from_bytes(file.read(8), "little") * _dtype(stored[key]).itemsize
        places[key] = (file.tell(), length)
        if sum(places[key]) > size:
            raise pickled.UnreadableError("a record reaches beyond the file's end")
        file.seek(length, os.SEEK_CUR)

    def read(record: Stored) -> bytes:
        place, length = places[record.key]
        file.seek(place)
        return file.read(length)

    return root, read


def tensors_of(views: Mapping[str, View], read: Callable[[Stored], bytes]) -> dict[str, Tensor]:
    """Each view's tensor; views of one record share its memory, as they did when they were saved."""
    records: dict[str, Tensor] = {}
    tensors: dict[str, Tensor] = {}
    for name, (stored, offset, size, stride) in views.items():
        if stored.key not in records:
            records[stored.key] = _record(read(stored), stored)
        last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
        if math.prod(size) > 0 and (last >= stored.length or math.prod(size) > stored.length):
            raise pickled.UnreadableError(f"{name} reaches beyond its record")
        tensors[name] = records[stored.key].as_strided(size, stride, offset) if math.prod(size) else torch.empty(size)
    return tensors


def _record(data: bytes, stored: Stored) -> Tensor:
    dtype = _dtype(stored)
    if len(data) != stored.length * dtype.itemsize:
        raise pickled.UnreadableError(f"a record has {len(data)} bytes instead of {stored.length * dtype.itemsize}")
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _dtype(stored: Stored) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, stored.dtype)
    return dtype
