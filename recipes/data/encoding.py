"""One shard's codes: its images are decoded in threads, cut, and shown to the codebook some crops at a time."""

import hashlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from codes_settings import Config
from kept_files import kept_at, read, write
from numpy.typing import NDArray
from torch import Tensor

from torchflava.codebooks import DalleCodebook, PatchCodebook
from torchflava.data.codes import UNREADABLE, CodesOf, Kept, crop_rng, shard_mark, write_codes
from torchflava.data.shards import ShardImages, TooLong
from torchflava.transforms.image import CorruptSample, TrainViews, decoded

_LOOKED_AT = 500  # images, before which no share of them is too great
_MOST_TOLD = 20  # names in one error

log = logging.getLogger(__name__)


class Shard(NamedTuple):
    """What a rank does at a time."""

    source: ShardImages
    """Of one place."""
    number: int
    """Of the shard in it."""
    codes: str
    """Where its codes go."""

    @property
    def path(self) -> str:
        """Of the tar."""
        return self.source.paths[self.number]

    @property
    def rows(self) -> range:
        """Its samples in the source."""
        start, stop = (int(at) for at in self.source.starts[self.number : self.number + 2])
        return range(start, stop)

    @property
    def failed(self) -> str:
        """Where a rank tells the others that it could not read the shard."""
        return f"{self.codes}.failed"


class Encoding:
    """Makes the codes of one shard after another."""

    def __init__(self, codebook: DalleCodebook | PatchCodebook, of: CodesOf, views: TrainViews, config: Config) -> None:
        self.codebook = codebook
        self.of = of
        self.views = views
        self.config = config
        self.looked_at = 0
        self.broken: list[str] = []
        """Those of them that could not be decoded."""

    def __call__(self, shard: Shard) -> int:
        """Compute and write the codes of a shard; its number of images.

        Raises:
            CorruptSample: if an image cannot be read.
            ValueError: if too many of them cannot be decoded.
        """
        with ThreadPoolExecutor(self.config.threads) as pool:
            contents, codes = self._same(shard, pool)
            if codes is None:
                contents, codes = self._made(shard, pool)
        mark = shard_mark(shard.source.catalog.part(shard.number), contents)
        write(shard.codes, lambda file: write_codes(file, codes, self.of, mark=mark))
        return len(codes)

    def _same(self, shard: Shard, pool: ThreadPoolExecutor) -> tuple[str, NDArray[np.int64] | None]:
        """The codes that are there, where the shard was written anew but holds the same images."""
        kept = kept_at(shard.codes, self.of, self.config.crops, whole=True)
        if kept is None or kept.shard.table != shard_mark(shard.source.catalog.part(shard.number)).table:
            return "", None
        sums = hashlib.blake2b(digest_size=8)
        ahead = max(1, self.config.batch_size // self.config.crops)
        for _, digest in _in_order(pool, lambda index: _image(shard.source, index), shard.rows, ahead=ahead):
            sums.update(digest)
        if sums.hexdigest() != kept.shard.contents:
            return "", None
        codes = np.frombuffer(read(shard.codes)[kept.first :], "<u2").astype(np.int64)
        codes[codes == UNREADABLE] = -1
        return kept.shard.contents, codes.reshape(kept.images, self.config.crops, self.of.num_patches)

    def _made(self, shard: Shard, pool: ThreadPoolExecutor) -> tuple[str, NDArray[np.int64]]:
        codes = np.full((len(shard.rows), self.config.crops, self.of.num_patches), -1, dtype=np.int64)
        device = next(self.codebook.buffers()).device
        sums, broken = hashlib.blake2b(digest_size=8), []
        ahead = max(1, self.config.batch_size // self.config.crops)

        def crops() -> Iterator[tuple[int, int, Tensor]]:
            made = _in_order(pool, lambda index: self._cut(shard.source, index), shard.rows, ahead=ahead)
            for row, (found, digest) in enumerate(made):
                sums.update(digest)
                if isinstance(found, str):
                    broken.append(found)
                else:
                    yield from ((row, crop, view) for crop, view in enumerate(found))

        for batch in _batches(crops(), self.config.batch_size):
            rows, numbers, views = zip(*batch, strict=True)
            found = self.codebook.encode(torch.stack(views).to(device))
            codes[list(rows), list(numbers)] = found.view(len(batch), -1).cpu().numpy()
        self._count(len(codes), broken)
        return sums.hexdigest(), codes

    def _cut(self, source: ShardImages, index: int) -> tuple[list[Tensor] | str, bytes]:
        """(3, s, s) uint8 each, the crops of an image, or why it cannot be decoded; and a hash of its bytes."""
        data, digest = _image(source, index)
        name = source.key(index)
        try:
            if data is None:
                raise CorruptSample("it has more bytes than are read of an image")
            image = decoded(data)
        except CorruptSample as error:
            log.warning("%s gets no codes: %s", name, error)
            return f"{name}: {error}", digest
        cut = (self.views.crop(image, crop_rng(name, crop)) for crop in range(self.config.crops))
        return [self.views.target(one) for one in cut], digest

    def _count(self, images: int, broken: list[str]) -> None:
        self.looked_at += images
        self.broken += broken
        most = self.config.max_corrupt_fraction
        if self.looked_at >= _LOOKED_AT and len(self.broken) > most * self.looked_at:
            told = (
                f"{len(self.broken):,} of {self.looked_at:,} images cannot be decoded, --max-corrupt-fraction is {most}"
            )
            raise ValueError(f"{told}: {some(self.broken)}; mend the shards, or raise it")


def _image(source: ShardImages, index: int) -> tuple[Any, bytes]:
    """An image's bytes, None if they are more than are read, and their hash.

    Raises:
        CorruptSample: if they cannot be read now; another time they may.
    """
    try:
        data = source[index].image
    except TooLong:
        return None, b"too long"
    return data, hashlib.blake2b(data, digest_size=16).digest()


def _in_order(pool: ThreadPoolExecutor, work: Callable[[int], Any], of: Iterable[int], *, ahead: int) -> Iterator[Any]:
    """What `work` makes of each, in order, at most so many ahead of their use."""
    waiting: deque[Future[Any]] = deque()
    for one in of:
        waiting.append(pool.submit(work, one))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def kept_of(shard: Shard, of: CodesOf, crops: int, *, whole: bool) -> Kept | None:
    """What there is of a shard's codes; None if they must be made, or looked at."""
    kept = kept_at(shard.codes, of, crops, whole=whole)
    mark = shard_mark(shard.source.catalog.part(shard.number))
    if kept is None or kept.shard.table != mark.table:
        return None
    return kept if "://" in shard.path or kept.shard.modified == mark.modified else None


def some(names: Sequence[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:_MOST_TOLD]) + (f" and {len(names) - _MOST_TOLD:,} more" if len(names) > _MOST_TOLD else "")
