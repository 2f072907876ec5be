"""The work of codes.py: each rank takes some of the shards, decodes their images in threads, and writes a file for each shard."""

import logging
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from codes_settings import Config
from torch import Tensor

from torchflava.codebooks import DalleCodebook, PatchCodebook, fingerprint, load_codebook
from torchflava.data.codes import (
    HEAD,
    CodesOf,
    Kept,
    KeptList,
    codes_path,
    crop_rng,
    kept_in,
    list_path,
    read_list,
    shard_mark,
    write_codes,
)  # fmt: skip
from torchflava.data.opening import name_of, shards_at
from torchflava.data.remote import DiskCache, Ranged
from torchflava.data.shards import ShardImages
from torchflava.data.tars import write_whole
from torchflava.training import session
from torchflava.transforms.image import CorruptSample, TrainViews, decoded

_TELL_EVERY = 5.0  # seconds between two lines
_LOOK_EVERY = 1.0  # seconds between two looks for what other ranks are still writing

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
    def mark(self) -> str:
        """Tells its index from others."""
        return shard_mark(self.source.catalog.part(self.number))


def run(config: Config) -> list[Kept]:
    """This rank's part; the first rank waits for the others' and writes each folder's `codes.json`. What there is then.

    Raises:
        ValueError: for places that are no shards, and a damaged codebook.
    """
    codebook = _codebook(config)
    views = TrainViews(codebook.image_size, codebook.image_size)
    of = CodesOf(fingerprint(codebook), codebook.num_codes, codebook.grid, views.told())
    shards = list(_shards(config, of))
    with session(0, config.device) as ranks:
        todo = ranks.agree([i for i, shard in enumerate(shards) if _kept(shard, of, config.crops) is None])
        mine = [shards[i] for i in todo[ranks.rank :: ranks.world_size]]
        encode = partial(_encode, codebook.to(ranks.device), of, views, config)
        started = told = time.perf_counter()
        images = 0
        for done, shard in enumerate(mine, 1):
            images += encode(shard)
            now = time.perf_counter()
            if ranks.leads and (done == len(mine) or now - told > _TELL_EVERY):
                told = now
                rate = images / (now - started)
                print(f"shard {done:,} of this rank's {len(mine):,}: {rate:,.0f} images/s", flush=True)
        return _finish(shards, of, config.crops) if ranks.leads else []


def _codebook(config: Config) -> DalleCodebook | PatchCodebook:
    codebook = load_codebook(config.codebook)
    if config.code_size in (0, codebook.image_size):
        return codebook
    if isinstance(codebook, DalleCodebook):
        return DalleCodebook.from_file(config.codebook, image_size=config.code_size)
    raise ValueError(f"{config.codebook} reads images of {codebook.image_size} px, --code-size is {config.code_size}")


def _shards(config: Config, of: CodesOf) -> Iterator[Shard]:
    """All shards, in the same order on every rank, each once."""
    cache = DiskCache(config.cache, round(config.cache_gb * 1e9)) if config.cache else Ranged()
    seen: set[str] = set()
    for place in config.places:
        found = shards_at(place)
        if not found:
            raise ValueError(f"{place} is no shard set; give folders of tars, patterns or URLs of tars")
        source = ShardImages(found, name_of(place), storage=cache if "://" in found[0] else None)
        for number, shard in enumerate(source.paths):
            path = codes_path(shard, of)
            if path not in seen:
                seen.add(path)
                yield Shard(source, number, path)


def _kept(shard: Shard, of: CodesOf, crops: int) -> Kept | None:
    """What there is of a shard's codes; None if they must be made."""
    try:
        if "://" in shard.codes:
            system, path = _system(shard.codes)
            head, num_bytes = system.cat_file(path, start=0, end=HEAD), system.size(path)
        else:
            with open(shard.codes, "rb") as file:
                head, num_bytes = file.read(HEAD), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return None
    kept = kept_in(head, num_bytes, of, crops=crops)
    return kept if kept is not None and kept.mark == shard.mark else None


def _encode(
    codebook: DalleCodebook | PatchCodebook, of: CodesOf, views: TrainViews, config: Config, shard: Shard
) -> int:
    """Compute and write the codes of a shard; its number of images."""
    start, stop = (int(at) for at in shard.source.starts[shard.number : shard.number + 2])
    codes = np.full((stop - start, config.crops, of.num_patches), -1, dtype=np.int64)
    device = next(codebook.buffers()).device
    cut = partial(_cut, shard.source, views, config.crops)
    with ThreadPoolExecutor(config.threads) as pool:
        made = _in_order(pool, cut, range(start, stop), ahead=2 * config.batch_size + config.threads)
        for batch in _batches((one for one in made if one is not None), config.batch_size):
            found = codebook.encode(torch.cat([crops for _, crops in batch]).to(device))
            codes[[at - start for at, _ in batch]] = found.view(len(batch), config.crops, -1).cpu().numpy()
    _write(shard.codes, lambda file: write_codes(file, codes, of, mark=shard.mark))
    return stop - start


def _cut(source: ShardImages, views: TrainViews, crops: int, index: int) -> tuple[int, Tensor] | None:
    """Index and (C, 3, s, s) uint8, the crops of an image; None if it cannot be decoded."""
    try:
        image, name = decoded(source[index].image), source.key(index)
    except CorruptSample as error:
        log.warning("%s gets no codes: %s", source.key(index), error)
        return None
    return index, torch.stack([views.target(views.crop(image, crop_rng(name, crop))) for crop in range(crops)])


def _in_order(pool: ThreadPoolExecutor, work: Callable[[int], Any], of: Iterable[int], *, ahead: int) -> Iterator[Any]:
    """What `work` makes of each, in order, at most so many ahead of their use."""
    waiting: deque[Future[Any]] = deque()
    for one in of:
        waiting.append(pool.submit(work, one))
        if len(waiting) > ahead:
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


def _write(path: str, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file that has its name only once it is whole, in place of what is there."""
    if "://" not in path:
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).unlink(missing_ok=True)
        write_whole(Path(path), write)
        return
    system, there = _system(path)
    with tempfile.NamedTemporaryFile() as file:
        write(file)
        file.flush()
        system.put_file(file.name, there)


def _system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # slow to import, and few read from afar

    return url_to_fs(url)


def _finish(shards: Sequence[Shard], of: CodesOf, crops: int) -> list[Kept]:
    """Wait for all files to be there, and write the list of each folder's. Ranks that are done wait for no one."""
    lists: dict[str, KeptList] = {}
    for shard in shards:
        while (kept := _kept(shard, of, crops)) is None:
            time.sleep(_LOOK_EVERY)
        folder, _, name = shard.source.paths[shard.number].rpartition("/")
        if folder not in lists:
            lists[folder] = _listed(list_path(folder, of), of, crops)
        lists[folder].shards[name] = kept
    for folder, listed in lists.items():
        path, text = list_path(folder, of), listed.as_json(of)
        _write(path, lambda file, text=text: file.write(text) and None)  # type: ignore[misc]
        images = sum(kept.images for kept in listed.shards.values())
        unreadable = sum(kept.unreadable for kept in listed.shards.values())
        print(
            f"{path}: codes of {images:,} images in {len(listed.shards):,} shards, {unreadable:,} could not be decoded"
        )
    return [kept for listed in lists.values() for kept in listed.shards.values()]


def _listed(path: str, of: CodesOf, crops: int) -> KeptList:
    """What a folder's list says so far: it may have other shards than those asked for now."""
    try:
        if "://" in path:
            system, there = _system(path)
            text = system.cat_file(there)
        else:
            text = Path(path).read_bytes()
        listed = read_list(text, path, of)
    except (FileNotFoundError, ValueError):  # a damaged one is written anew
        return KeptList(crops, {})
    return listed if listed.crops == crops else KeptList(crops, {})
