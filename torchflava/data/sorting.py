"""The members of a shard sorted into samples: those with an image alone, with both, with a caption alone, and the rest.

Within each of the three the order is the tar's, and they follow each other, so that images, captioned images and captions are
each one run of samples.
"""

import json
import os
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from torchflava.data.headers import BLOCK, DamagedTarError, Member, read_headers

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif")
REASONS = ("no image and no caption", "hostile path", "link or device", "sparse file", "empty file", "too large")
"""Why a sample (the first) or a member is in no source; beside them stand "no image" and "no caption"."""

_MOST = 1 << 32  # what an index's numbers hold: bytes of a member, blocks of a shard (2 TiB)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Endings(NamedTuple):
    """Which members count, by what stands after the name's first dot, in lower case; the first that is there is taken."""

    image: tuple[str, ...] = IMAGE_ENDINGS
    caption: tuple[str, ...] = ("txt",)
    meta: tuple[str, ...] = ("json",)

    def told(self) -> str:
        """As text."""
        return json.dumps(self)

    @classmethod
    def of(cls, told: str) -> "Endings":
        """From text."""
        return cls(*(tuple(part) for part in json.loads(told)))


DEFAULT = Endings()


class Sorted(NamedTuple):
    """The samples of a shard as arrays."""

    groups: tuple[int, int, int]
    """Samples with an image alone, with both, with a caption alone."""
    members: NDArray[np.uint32]
    """(n, 3, 3): image, caption and meta, of each the block of its content (0: none), its bytes, its check."""
    key_ends: NDArray[np.uint32]
    """Into `keys`."""
    keys: NDArray[np.uint8]
    passed_ends: NDArray[np.uint32]
    """Into `passed_names`."""
    reasons: NDArray[np.uint8]
    """Into REASONS."""
    passed_names: NDArray[np.uint8]


def sort_members(file: BinaryIO, path: str | Path, endings: Endings) -> Sorted:
    """Sort the members of an open tar; `path` names it in errors.

    Raises:
        ValueError: if it is damaged.
    """
    sorter = _Sorter(endings)
    try:
        for member in read_headers(file, os.fstat(file.fileno()).st_size):
            sorter.add(member)
    except DamagedTarError as error:
        raise ValueError(f"shard {path} cannot be read ({error}); it must be a whole, uncompressed tar") from error
    return sorter.finish()


class _Sorter:
    def __init__(self, endings: Endings) -> None:
        self.places = {ending: (part, rank) for part, of in enumerate(endings) for rank, ending in enumerate(of)}
        self.groups = tuple((list[tuple[int, int, int]](), list[bytes]()) for _ in range(3))
        self.passed: list[tuple[int, bytes]] = []
        self.key: str | None = None
        self.parts: dict[int, tuple[int, Member]] = {}
        self.files: dict[str, Member] = {}

    def add(self, member: Member) -> None:
        """Put a member into the sample at hand, or into a new one where its name differs.

        A hard link to a file before it stands for that file: so an image with several captions is stored once.
        """
        if member.kind == "file":
            self.files[member.name] = member
        if member.kind == "hard link" and member.target in self.files:
            member = self.files[member.target]._replace(name=member.name)
        reason = _unfit(member)
        if reason or member.kind == "folder":
            self._pass_over(reason, member.name) if reason else None
            return
        folder, _, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        if key != self.key:
            self._close()
            self.key = key
        part, rank = self.places.get(ending.lower(), (-1, 0))
        if part >= 0 and (part not in self.parts or rank <= self.parts[part][0]):
            self.parts[part] = rank, member

    def _close(self) -> None:
        if self.key is None:
            return
        if 0 in self.parts or 1 in self.parts:
            members, keys = self.groups[1 if {0, 1} <= self.parts.keys() else 0 if 0 in self.parts else 2]
            for part in range(3):
                found = self.parts[part][1] if part in self.parts else None
                members.append((found.offset // BLOCK, found.size, found.check) if found else (0, 0, 0))
            keys.append(_bytes(self.key))
        else:
            self._pass_over(REASONS[0], self.key)
        self.key, self.parts = None, {}

    def _pass_over(self, reason: str, name: str) -> None:
        self.passed.append((REASONS.index(reason), _bytes(name)))

    def finish(self) -> Sorted:
        """All that was added, as arrays."""
        self._close()
        members = np.array([member for of, _ in self.groups for member in of], np.uint32).reshape(-1, 3, 3)
        keys = [key for _, of in self.groups for key in of]
        alone, both, texts = (len(of) for _, of in self.groups)
        names = [name for _, name in self.passed]
        reasons = np.array([reason for reason, _ in self.passed], np.uint8)
        return Sorted((alone, both, texts), members, _ends(keys), _joined(keys), _ends(names), reasons, _joined(names))


def _unfit(member: Member) -> str:
    """Why a member belongs to no sample; empty if it does, or is a folder."""
    parts = member.name.replace("\\", "/").split("/")
    if ".." in parts or not parts[0] or parts[0].endswith(":") or _CONTROL.search(member.name):
        return "hostile path"
    if member.kind in ("hard link", "link or device", "sparse file"):
        return "link or device" if member.kind == "hard link" else member.kind
    if member.kind == "file" and not member.size:
        return "empty file"
    return "too large" if member.size >= _MOST or member.offset // BLOCK >= _MOST else ""


def _bytes(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def _ends(names: list[bytes]) -> NDArray[np.uint32]:
    return np.cumsum([len(name) for name in names], dtype=np.uint32)


def _joined(names: list[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(names), np.uint8)
