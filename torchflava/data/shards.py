"""Samples read by position from tar shards in webdataset's layout (as rom1504/img2dataset writes them).

A sample is the members that stand together and share a name up to the first dot: `0001.jpg 0001.txt 0001.json`. Where they
lie is read from the index beside the shards (recipes/data/index.py builds it); without one the shards are scanned at the start.
"""

import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchflava.data.catalog import Catalog, Place, look_up
from torchflava.data.headers import BLOCK
from torchflava.data.index import CAPTION, IMAGE, META
from torchflava.data.order import key
from torchflava.data.samples import ImageSample, PairSample, TextSample
from torchflava.data.sorting import DEFAULT, Endings
from torchflava.data.storage import LocalFiles, Span, Storage
from torchflava.transforms.image import CorruptSample

_MOST = (1 << 28, 1 << 16, 1 << 24)
"""Bytes of an image, a caption, a .json: what is longer is corrupt, not read."""
_GAP = 1 << 16  # bytes between two members that are read along rather than asked for twice


class TooLong(CorruptSample):
    """A member of more bytes than are read of one: no second reading mends it."""


class _Shards:
    """What all sources of shards share. Threads and processes may read at once."""

    def __init__(
        self,
        paths: Iterable[str | Path],
        name: str,
        groups: slice,
        *,
        endings: Endings,
        storage: Storage | None,
    ) -> None:
        self.paths = [os.fspath(path) for path in paths]
        self.name = name
        self.endings = endings
        if not self.paths:
            raise ValueError(f"{name}: no shards were given; pass the paths of one or more tars")
        remote = [path for path in self.paths if "://" in path]
        if remote and (storage is None or len(remote) < len(self.paths)):
            raise ValueError(
                f"{name}: {remote[0]} is not on the local disk; give storage=DiskCache(folder, limit) or Ranged() "
                "from torchflava.data.remote, and local shards to a source of their own"
            )
        self.storage: Storage = LocalFiles() if storage is None else storage
        """How the shards are read."""
        self.catalog = Catalog(look_up(self.paths, endings, self.storage, remote=bool(remote)), groups)
        self.num_incomplete = self.catalog.num_incomplete
        """Samples that lack an image or a caption, whichever is wanted here."""
        if not len(self):
            image = [f"an image ({', '.join(endings.image)})"] if groups.stop < 3 else []
            caption = [" or ".join(f"a .{ending}" for ending in endings.caption)] if groups.start > 0 else []
            told = f"{self.num_incomplete} samples in {len(self.paths)} shards has {' and '.join(image + caption)}"
            raise ValueError(f"{name}: none of {told}")

    def __len__(self) -> int:
        return len(self.catalog)

    def told(self) -> dict[str, Any]:
        """What the order depends on: name, length, and a number for the shards' names and sizes."""
        names = [path.rpartition("/")[2] for path in self.paths]
        return {"name": self.name, "length": len(self), "shards": f"{key(*names, *self.starts.tolist()):016x}"}

    @property
    def starts(self) -> NDArray[np.int64]:
        """(shards + 1,): the first sample of each shard, and the number of all."""
        return self.catalog.starts

    def key(self, index: int) -> str:
        """Shard and sample by name."""
        return self._key(self._at(index))

    def meta(self, index: int) -> dict[str, Any]:
        """What the sample's `.json` holds; empty if it has none.

        Raises:
            CorruptSample: if it cannot be read, or is not a JSON object.
        """
        place = self._at(index)
        if not place.listed.table.columns["members"][place.row, META, 0]:
            return {}
        try:
            found = json.loads(self._read(place, META)[0])
        except (ValueError, RecursionError) as error:
            raise CorruptSample(f"{self._key(place)}: its .json cannot be read ({error})") from error
        if not isinstance(found, dict):
            raise CorruptSample(f"{self._key(place)}: its .json holds a {type(found).__name__}; an object is due")
        return found

    def _key(self, place: Place) -> str:
        return f"{self.paths[place.shard].rpartition('/')[2]}/{place.listed.table.key(place.row)}"

    def _at(self, index: int) -> Place:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: index {index} lies outside [0, {len(self)})")
        return self.catalog(index)

    def _text(self, place: Place, data: bytes) -> str:
        try:
            text = data.decode().strip()
        except UnicodeDecodeError as error:
            raise CorruptSample(f"{self._key(place)}: its caption is not UTF-8 ({error})") from error
        if not text:
            raise CorruptSample(f"{self._key(place)}: its caption is empty")
        return text

    def _read(self, place: Place, *parts: int) -> list[bytes]:
        """Members of a sample, by one reading where they lie together.

        Raises:
            CorruptSample: if the shard cannot be read, or is not the one that was indexed.
        """
        where = place.listed.table.columns["members"][place.row].tolist()
        members = [(part, *where[part]) for part in parts]
        for part, _, size, _ in members:
            if size > _MOST[part]:
                told = f"its {('image', 'caption', '.json')[part]} has {size} bytes; at most {_MOST[part]} are read"
                raise TooLong(f"{self._key(place)}: {told}")
        spans = [Span((block - 1) * BLOCK, BLOCK + size) for _, block, size, _ in members]  # with the header before it
        start, end = min(span.offset for span in spans), max(span.offset + span.size for span in spans)
        if end - start <= sum(span.size for span in spans) + _GAP:
            whole = memoryview(self._bytes(place, Span(start, end - start)))
            found = [whole[span.offset - start : span.offset - start + span.size] for span in spans]
        else:
            found = [memoryview(self._bytes(place, span)) for span in spans]
        for data, (_, _, _, check) in zip(found, members, strict=True):
            if zlib.crc32(data[:BLOCK]) != check:
                raise CorruptSample(
                    f"shard {self.paths[place.shard]} is not the one that was indexed, at {self._key(place)}"
                )
        return [bytes(data[BLOCK:]) for data in found]

    def _bytes(self, place: Place, span: Span) -> bytes:
        num_bytes = int(place.listed.table.columns["num_bytes"][place.listed.shard])
        return self.storage.read(self.paths[place.shard], span, num_bytes)


class ShardPairs(_Shards):
    """Captioned images from shards: those samples that have an image and a `.txt`; `num_incomplete` counts the others.

    Args:
        paths: uncompressed tars on the local disk, or URLs.
        name: enters the key of every sample's randomness.
        endings: which members count as image, caption and meta.
        storage: how URLs are read, a `DiskCache` or `Ranged` of torchflava.data.remote.

    Raises:
        ValueError: if a shard is damaged (it is named), or no sample is complete.
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        name: str = "pairs",
        *,
        endings: Endings = DEFAULT,
        storage: Storage | None = None,
    ) -> None:
        super().__init__(paths, name, slice(1, 2), endings=endings, storage=storage)

    def __getitem__(self, index: int) -> PairSample:
        """The sample at `index`: the image file's bytes and its caption.

        Raises:
            IndexError: if `index` is negative or too great.
            CorruptSample: if the caption is empty, endless or not UTF-8, or the shard has changed or cannot be read.
        """
        place = self._at(index)
        image, caption = self._read(place, IMAGE, CAPTION)
        return PairSample(image, self._text(place, caption), self._key(place))

    def caption(self, index: int) -> str:
        """The caption at `index`, without its image.

        Raises:
            IndexError: as `[index]`.
            CorruptSample: as `[index]`.
        """
        place = self._at(index)
        return self._text(place, self._read(place, CAPTION)[0])


class ShardImages(_Shards):
    """Images from shards, captioned or not, without their captions; otherwise as `ShardPairs`."""

    def __init__(
        self,
        paths: Iterable[str | Path],
        name: str = "images",
        *,
        endings: Endings = DEFAULT,
        storage: Storage | None = None,
    ) -> None:
        super().__init__(paths, name, slice(0, 2), endings=endings, storage=storage)

    def __getitem__(self, index: int) -> ImageSample:
        """The sample at `index`: the image file's bytes.

        Raises:
            IndexError: if `index` is negative or too great.
            CorruptSample: if the shard has changed or cannot be read.
        """
        place = self._at(index)
        return ImageSample(self._read(place, IMAGE)[0], self._key(place))


class ShardTexts(_Shards):
    """Texts from shards, of samples with a `.txt`, without their images; otherwise as `ShardPairs`."""

    def __init__(
        self,
        paths: Iterable[str | Path],
        name: str = "texts",
        *,
        endings: Endings = DEFAULT,
        storage: Storage | None = None,
    ) -> None:
        super().__init__(paths, name, slice(1, 3), endings=endings, storage=storage)

    def __getitem__(self, index: int) -> TextSample:
        """The text at `index`.

        Raises:
            IndexError: if `index` is negative or too great.
            CorruptSample: as `ShardPairs`.
        """
        place = self._at(index)
        return TextSample(self._text(place, self._read(place, CAPTION)[0]), self._key(place))
