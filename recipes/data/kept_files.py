"""The files of codes.py beside the shards, on the local disk or afar: what there is of them, and writing them."""

import os
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from torchflava.data.codes import HEAD, CodesOf, Kept, KeptList, hashed, kept_in, read_list


def local(place: str) -> str | None:
    """The path of a file of the local disk, which a file:// URL may name; None for one afar."""
    if "://" not in place:
        return place
    if place.startswith("file://"):
        return str(_system(place)[1])
    return None


def real(place: str) -> str:
    """The same for all names of a file's folder."""
    path = local(place)
    return place if path is None else os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def read(place: str, end: int | None = None) -> bytes:
    """A whole file, or its first `end` bytes.

    Raises:
        FileNotFoundError: if there is none.
    """
    if (path := local(place)) is None:
        system, there = _system(place)
        return bytes(system.cat_file(there, start=0, end=end))
    with open(path, "rb") as file:
        return file.read(-1 if end is None else end)


def exists(place: str) -> bool:
    """Whether there is a file; what a store listed before does not count."""
    if (path := local(place)) is not None:
        return os.path.exists(path)
    system, there = _system(place)
    system.invalidate_cache()
    return bool(system.exists(there))


def remove(place: str) -> None:
    """Delete a file, if there is one."""
    if (path := local(place)) is not None:
        Path(path).unlink(missing_ok=True)
    elif exists(place):
        system, there = _system(place)
        system.rm_file(there)


def write(place: str, content: Callable[[IO[bytes]], None]) -> None:
    """Write a file that has its name only once it is whole, in place of what is there; its folder is made."""
    if (path := local(place)) is None:
        system, there = _system(place)
        system.makedirs(there.rpartition("/")[0], exist_ok=True)
        with tempfile.NamedTemporaryFile() as file:
            content(file)
            file.flush()
            system.put_file(file.name, there)
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    aside = Path(path).with_name(f".{Path(path).name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with open(aside, "wb") as part:
            content(part)
            part.flush()
            os.fsync(part.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def kept_at(place: str, of: CodesOf, crops: int, *, whole: bool) -> Kept | None:
    """What there is of a file of codes; None if it is missing, of other codes, or cut short.

    Args:
        place: the file.
        of: which codes.
        crops: C.
        whole: read all of it, and make sure that its codes have the hash that its header tells.
    """
    try:
        if whole:
            data = read(place)
            kept = kept_in(data[:HEAD], len(data), of, crops=crops)
            return kept if kept is not None and hashed(memoryview(data)[kept.first :]) == kept.codes else None
        return kept_in(read(place, HEAD), _size(place), of, crops=crops)
    except FileNotFoundError:
        return None


def listed_at(place: str, of: CodesOf, crops: int) -> KeptList:
    """What a folder's `codes.json` says so far: it may have other shards than those asked for now."""
    try:
        listed = read_list(read(place), place, of)
    except (FileNotFoundError, ValueError):  # a damaged one is written anew
        return KeptList(crops, {})
    return listed if listed.crops == crops else KeptList(crops, {})


def _size(place: str) -> int:
    if (path := local(place)) is not None:
        return os.stat(path).st_size
    system, there = _system(place)
    system.invalidate_cache()  # another rank may have written it since it was listed
    return int(system.size(there))


def _system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # slow to import, and few read from afar

    return url_to_fs(url)
