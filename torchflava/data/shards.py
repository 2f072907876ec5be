"""Samples read by position from tar shards in webdataset's layout (as rom1504/img2dataset writes them) and from text files.

A sample is the members that stand together and share a name up to the first dot: `0001.jpg 0001.txt 0001.json`.
"""

import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from torchflava.data.samples import ImageSample, PairSample, TextSample
from torchflava.transforms.image import CorruptSample

IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")
_END_OF_ARCHIVE = bytes(tarfile.BLOCKSIZE)


class Span(NamedTuple):
    """Where a member's bytes lie in its file."""

    offset: int
    """In bytes from the start."""
    size: int
    """In bytes."""


class Located(NamedTuple):
    """A sample's place in the shards."""

    shard: int
    """Into the paths."""
    key: str
    """What its members' names have in common."""
    parts: dict[str, Span]
    """Its members by ending (in lower case): what stands after the name's first dot."""

    @property
    def image(self) -> Span | None:
        """The first of its members that is an image, by the order of `IMAGE_ENDINGS`."""
        return next((self.parts[ending] for ending in IMAGE_ENDINGS if ending in self.parts), None)


def scan(path: str | Path, shard: int = 0) -> list[Located]:
    """The samples of one uncompressed tar, by its headers alone; links, folders and devices are passed over.

    Raises:
        ValueError: if the file is missing, is no tar, is compressed, or ends before its end-of-archive mark.
    """
    samples: list[Located] = []
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isfile() and not member.issparse():
                    _place(samples, shard, member)
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != _END_OF_ARCHIVE:  # tarfile takes a broken header for the end
                raise tarfile.ReadError(f"no header and no end-of-archive mark at byte {tar.offset}")
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"shard {path} cannot be read ({error}); it must be a whole, uncompressed tar") from error
    return samples


def _place(samples: list[Located], shard: int, member: tarfile.TarInfo) -> None:
    """Put a member into the last sample, or into a new one where its name differs."""
    folder, _, name = member.name.rpartition("/")
    stem, _, ending = name.partition(".")
    key = f"{folder}/{stem}" if folder else stem
    if not samples or samples[-1].key != key:
        samples.append(Located(shard, key, {}))
    samples[-1].parts[ending.lower()] = Span(member.offset_data, member.size)


class _Shards:
    """Tars on the local disk, the index of their samples in memory. Nothing stays open, so threads and processes share it."""

    def __init__(self, paths: Iterable[str | Path], name: str, needed: Sequence[str]) -> None:
        self.paths = [Path(path) for path in paths]
        self.name = name
        if not self.paths:
            raise ValueError(f"{name}: no shards were given; pass the paths of one or more tars")
        found = [sample for shard, path in enumerate(self.paths) for sample in scan(path, shard)]
        self._samples = [sample for sample in found if sample.image and all(part in sample.parts for part in needed)]
        self.num_incomplete = len(found) - len(self._samples)
        if not self._samples:
            wanted = " and ".join([f"an image ({', '.join(IMAGE_ENDINGS)})", *(f"a .{part}" for part in needed)])
            raise ValueError(f"{name}: none of {len(found)} samples in {len(self.paths)} shards has {wanted}")

    def __len__(self) -> int:
        return len(self._samples)

    def key(self, index: int) -> str:
        """Shard and sample by name."""
        sample = self._at(index)
        return f"{self.paths[sample.shard].name}/{sample.key}"

    def meta(self, index: int) -> dict[str, Any]:
        """What the sample's `.json` holds; empty if it has none.

        Raises:
            ValueError: if it is not a JSON object.
        """
        sample = self._at(index)
        if "json" not in sample.parts:
            return {}
        try:
            found = json.loads(self._read(sample, sample.parts["json"]))
        except ValueError as error:
            raise ValueError(f"{self.key(index)}: its .json cannot be read ({error})") from error
        if not isinstance(found, dict):
            raise ValueError(f"{self.key(index)}: its .json holds a {type(found).__name__}; an object is due")
        return found

    def _image(self, index: int) -> bytes:
        sample = self._at(index)
        assert sample.image is not None
        return self._read(sample, sample.image)

    def _at(self, index: int) -> Located:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: index {index} lies outside [0, {len(self)})")
        return self._samples[index]

    def _read(self, sample: Located, span: Span) -> bytes:
        path = self.paths[sample.shard]
        found = _pread(path, span)
        if len(found) != span.size:
            raise ValueError(f"shard {path} has become shorter since it was opened, at byte {span.offset + len(found)}")
        return found


class ShardPairs(_Shards):
    """Captioned images from shards: those samples that have an image and a `.txt`; `num_incomplete` counts the others.

    Args:
        paths: local, uncompressed tars.
        name: enters the key of every sample's randomness.

    Raises:
        ValueError: if a shard is damaged (it is named), or no sample is complete.
    """

    def __init__(self, paths: Iterable[str | Path], name: str = "pairs") -> None:
        super().__init__(paths, name, ("txt",))

    def __getitem__(self, index: int) -> PairSample:
        """The sample at `index`: the image file's bytes and its caption.

        Raises:
            IndexError: if `index` is negative or too great.
            CorruptSample: if the caption is not UTF-8.
        """
        return PairSample(self._image(index), self.caption(index), self.key(index))

    def caption(self, index: int) -> str:
        """The caption at `index`, without reading its image.

        Raises:
            CorruptSample: if it is not UTF-8.
        """
        sample = self._at(index)
        try:
            return self._read(sample, sample.parts["txt"]).decode().strip()
        except UnicodeDecodeError as error:
            raise CorruptSample(f"{self.key(index)}: its caption is not UTF-8 ({error})") from error


class ShardImages(_Shards):
    """Images from shards, captioned or not, without their captions; otherwise as `ShardPairs`."""

    def __init__(self, paths: Iterable[str | Path], name: str = "images") -> None:
        super().__init__(paths, name, ())

    def __getitem__(self, index: int) -> ImageSample:
        """The sample at `index`: the image file's bytes.

        Raises:
            IndexError: if `index` is negative or too great.
        """
        return ImageSample(self._image(index), self.key(index))


class TextLines:
    """The lines of a text file as texts, empty ones left out; only where they start is kept in memory.

    Args:
        path: UTF-8.
        name: enters the key of every sample's randomness.

    Raises:
        ValueError: if the file cannot be read or has no line with a text.
    """

    def __init__(self, path: str | Path, name: str = "texts") -> None:
        self.path = Path(path)
        self.name = name
        try:
            spans = list(_lines(self.path))
        except OSError as error:
            raise ValueError(f"texts {path} cannot be read ({error})") from error
        if not spans:
            raise ValueError(f"texts {path} has no line with a text")
        self._spans: NDArray[np.int64] = np.array(spans, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> TextSample:
        """The text at `index`, counted without the empty lines; bytes that are not UTF-8 become U+FFFD.

        Raises:
            IndexError: if `index` is negative or too great.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: index {index} lies outside [0, {len(self)})")
        offset, size = (int(number) for number in self._spans[index])
        text = _pread(self.path, Span(offset, size)).decode(errors="replace").strip()
        return TextSample(text, f"{self.path.name}/{index}")


def _lines(path: Path) -> Iterator[Span]:
    """Where the lines lie that hold more than blanks."""
    with open(path, "rb") as file:
        offset = 0
        for line in file:
            if line.strip():
                yield Span(offset, len(line))
            offset += len(line)


def _pread(path: Path, span: Span) -> bytes:
    """The bytes at `span`, without a position that threads would have to share."""
    file = os.open(path, os.O_RDONLY)
    try:
        parts: list[bytes] = []
        offset, missing = span
        while missing and (part := os.pread(file, missing, offset)):  # one call reads 2 GiB at most
            parts.append(part)
            offset, missing = offset + len(part), missing - len(part)
        return b"".join(parts)
    finally:
        os.close(file)
