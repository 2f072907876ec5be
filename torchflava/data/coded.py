"""Shards whose images' codes are read from files beside them, and rows that use those codes (see `data.codes`).

Codes are right for the very crop that was encoded, so the encoder is shown that crop too.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from torchflava.data.codes import (
    HEAD,
    REMEDY,
    UNREADABLE,
    CodesOf,
    Kept,
    codes_path,
    crop_rng,
    hashed,
    kept_in,
    list_path,
    read_list,
    shard_mark,
)
from torchflava.data.remote import DiskCache
from torchflava.data.shards import ShardImages, ShardPairs
from torchflava.data.storage import Span, Storage
from torchflava.transforms.collate import ImageRow
from torchflava.transforms.image import CorruptSample, TrainViews, decoded

_MOST_LIST = 1 << 30  # bytes of a codes.json


class CodedShards:
    """Captioned images or images from shards, with the codes that were kept beside them; otherwise as its source.

    Args:
        source: `ShardPairs` or `ShardImages`.
        of: which codes.

    Raises:
        FileNotFoundError: if a folder of its shards has no such codes, or they are not finished.
        ValueError: if they are damaged, or not of these shards.
    """

    def __init__(self, source: ShardPairs | ShardImages, of: CodesOf) -> None:
        self.source = source
        self.name = source.name
        self.of = of
        lists = {folder: _open_list(source, folder, of) for folder in sorted({_folder(path) for path in source.paths})}
        if len(crops := {kept.crops for kept in lists.values()}) > 1:
            raise ValueError(f"{self.name}: its folders keep codes of {sorted(crops)} crops; make them alike")
        self.crops = crops.pop()
        """C: how many crops of each image have codes."""
        self._kept: list[Kept] = []
        self._checked: set[int] = set()
        for shard, path in enumerate(source.paths):
            kept = lists[_folder(path)].shards.get(path.rpartition("/")[2])
            if kept is None or kept.images != source.catalog.num_images(shard):
                raise ValueError(f"the codes beside {path} are not of all its images; {REMEDY}")
            if "://" not in path and kept.shard.modified != source.catalog.modified(shard):
                raise ValueError(
                    f"{path} was written after its codes were made, or copied; {REMEDY}, which looks first"
                )
            self._kept.append(kept)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        """The sample at `index`."""
        return self.source[index]

    def caption(self, index: int) -> str:
        """The caption at `index`, of pairs."""
        assert isinstance(self.source, ShardPairs), "only rows of pairs ask for captions"
        return self.source.caption(index)

    @property
    def starts(self) -> NDArray[np.int64]:
        """(S + 1,): the first sample of each shard, and the number of all."""
        return self.source.starts

    def told(self) -> dict[str, Any]:
        """What fixes the samples of a run: with codes go crops of their own."""
        return self.source.told() | {"codes": self.of.folder, "crops": self.crops}

    def crop_rng(self, index: int, crop: int) -> Generator:
        """The generator that cut crop number `crop` of sample `index`."""
        return crop_rng(self.source.key(index), crop)

    def codes(self, index: int, crop: int) -> Tensor:
        """(N,) int64: the codes of crop number `crop` of sample `index`.

        Raises:
            CorruptSample: if its image could not be decoded when codes were made, or the file cannot be read.
            ValueError: if they are of another shard.
        """
        shard, row = self.source.catalog.row_of(index)
        kept, path = self._kept[shard], codes_path(self.source.paths[shard], self.of, self.crops)
        storage = self.source.storage
        if isinstance(storage, DiskCache):  # a file made anew is as long as the one before
            storage = storage.at_version(kept.codes)
        if shard not in self._checked:  # for all shards at the start it would take minutes
            self._check(shard, path, storage)
            self._checked.add(shard)
        size = 2 * self.of.num_patches
        found = storage.read(path, Span(kept.first + (row * self.crops + crop) * size, size), kept.num_bytes)
        codes = np.frombuffer(found, "<u2").astype(np.int64)
        if codes[0] == UNREADABLE:
            raise CorruptSample(f"{self.source.key(index)} could not be decoded when its codes were made")
        if int(codes.max()) >= self.of.num_codes:
            raise ValueError(f"{path} is damaged, at image {row} stands {int(codes.max())}; delete it, and {REMEDY}")
        return torch.from_numpy(codes)

    def _check(self, shard: int, path: str, storage: Storage) -> None:
        """Read a file of codes once, whole: 4 MB and 10 ms for 10,000 images of 196 patches.

        Raises:
            CorruptSample: if it cannot be read.
            ValueError: if it is not the one that `codes.json` lists, or of another shard.
        """
        kept = self._kept[shard]
        if shard_mark(self.source.catalog.part(shard)).table != kept.shard.table:
            raise ValueError(f"{path} has the codes of other images than its shard; {REMEDY}")
        whole = memoryview(storage.read(path, Span(0, kept.num_bytes), kept.num_bytes))
        if kept_in(bytes(whole[:HEAD]), len(whole), self.of, crops=self.crops) != kept:
            raise ValueError(f"{path} is not the file that codes.json lists; {REMEDY}")
        if hashed(whole[kept.first :]) != kept.codes:
            raise ValueError(f"{path} is damaged: its codes have another hash than codes.json tells; {REMEDY}")


class CodedRows:
    """Rows for masked image modelling from `CodedShards`, in place of `ImageRows`.

    Args:
        views: cut the crops, as they did when the codes were made; only the encoder's view is computed.
        mask: of the patches.
    """

    def __init__(self, views: TrainViews, mask: Callable[[Generator], NDArray[np.bool_]]) -> None:
        self.views = views
        self.mask = mask

    def __call__(self, source: CodedShards, index: int, rng: Generator) -> ImageRow:
        """The row of sample `index`.

        Raises:
            CorruptSample: if the image cannot be decoded.
        """
        return self.of(source, index, source[index].image, rng=rng)

    def of(self, source: CodedShards, index: int, image: Tensor | bytes, *, rng: Generator) -> ImageRow:
        """The row of an image, which is sample `index` of `source`: one of its crops, and the codes of that crop."""
        crop = int(rng.integers(source.crops))
        cut = self.views.crop(decoded(image), source.crop_rng(index, crop))
        return ImageRow(self.views.view(cut, rng), source.codes(index, crop), self.mask(rng))


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _open_list(source: ShardPairs | ShardImages, folder: str, of: CodesOf) -> Any:
    """What `codes.json` says, of a folder of shards.

    Raises:
        FileNotFoundError: if there is none.
    """
    path = list_path(folder, of)
    with source.storage.open_whole(path) as file:
        return read_list(file.read(_MOST_LIST), path, of)
