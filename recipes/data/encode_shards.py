"""The work of codes.py: each rank takes some of the shards and writes a file for each; the first rank lists them."""

import logging
import time
from collections.abc import Iterator, Sequence

from codes_settings import Config
from encoding import Encoding, Shard, kept_of, some
from kept_files import exists, listed_at, read, real, remove, write

from torchflava.codebooks import DalleCodebook, PatchCodebook, fingerprint, load_codebook
from torchflava.data.codes import CodesOf, Kept, KeptList, codes_path, list_path, refuse_too_many
from torchflava.data.opening import name_of, shards_at
from torchflava.data.remote import DiskCache, Ranged
from torchflava.data.shards import ShardImages
from torchflava.models.hub import find_or_fetch_codebook
from torchflava.training import session
from torchflava.transforms.image import CorruptSample, TrainViews

_TELL_EVERY = 5.0  # seconds between two lines
_LOOK_EVERY = 1.0  # seconds between two looks for what other ranks are still writing

log = logging.getLogger(__name__)


def run(config: Config) -> list[Kept]:
    """This rank's part; the first rank waits for the others' and writes each folder's `codes.json`. What there is then.

    Raises:
        ValueError: for places that are no shards, a damaged codebook, one of too many codes, and too many broken images.
        OSError: if shards could not be read; all others have their codes then.
    """
    codebook = _codebook(config)
    views = TrainViews(codebook.image_size, codebook.image_size)
    of = CodesOf(fingerprint(codebook), codebook.num_codes, codebook.grid, views.told())
    refuse_too_many(of)
    shards = list(_shards(config, of))
    with session(0, config.device) as ranks:
        if ranks.leads:
            for shard in shards:
                remove(shard.failed)  # of a job before
        todo = ranks.agree(
            [i for i, shard in enumerate(shards) if kept_of(shard, of, config.crops, whole=True) is None]
        )
        mine = [shards[i] for i in todo[ranks.rank :: ranks.world_size]]
        _work(Encoding(codebook.to(ranks.device), of, views, config), mine, tell=ranks.leads)
        return _finish(shards, {shards[i].codes for i in todo}, of, config.crops) if ranks.leads else []


def _work(encoding: Encoding, mine: Sequence[Shard], *, tell: bool) -> None:
    """Make the codes of a rank's shards; those that cannot be read are marked, and left undone."""
    started = told = time.perf_counter()
    images = 0
    for done, shard in enumerate(mine, 1):
        try:
            images += encoding(shard)
        except (CorruptSample, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
            log.warning("%s is left undone: %s", shard.path, reason)
            write(shard.failed, lambda file, reason=reason: file.write(reason.encode()) and None)  # type: ignore[misc]
        now = time.perf_counter()
        if tell and (done == len(mine) or now - told > _TELL_EVERY):
            told = now
            rate = images / (now - started)
            print(f"shard {done:,} of this rank's {len(mine):,}: {rate:,.0f} images/s", flush=True)


def _codebook(config: Config) -> DalleCodebook | PatchCodebook:
    place = find_or_fetch_codebook(config.codebook)
    codebook = load_codebook(place)
    if config.code_size in (0, codebook.image_size):
        return codebook
    if isinstance(codebook, DalleCodebook):
        return DalleCodebook.from_file(place, image_size=config.code_size)
    raise ValueError(f"{config.codebook} reads images of {codebook.image_size} px, --code-size is {config.code_size}")


def _shards(config: Config, of: CodesOf) -> Iterator[Shard]:
    """All shards, in the same order on every rank, each once by whatever names its folder is given."""
    cache = DiskCache(config.cache, round(config.cache_gb * 1e9)) if config.cache else Ranged()
    seen: set[str] = set()
    for place in config.places:
        found = shards_at(place)
        if not found:
            raise ValueError(f"{place} is no shard set; give folders of tars, patterns or URLs of tars")
        source = ShardImages(found, name_of(place), storage=cache if "://" in found[0] else None)
        for number, shard in enumerate(source.paths):
            path = codes_path(shard, of, config.crops)
            if (name := real(path)) not in seen:
                seen.add(name)
                yield Shard(source, number, path)


def _finish(shards: Sequence[Shard], made: set[str], of: CodesOf, crops: int) -> list[Kept]:
    """Wait for all files to be there, and write the list of each folder's. Ranks that are done wait for no one.

    Raises:
        OSError: if shards could not be read; their folders get no list.
    """
    lists: dict[str, KeptList] = {}
    failed: list[str] = []
    without: set[str] = set()
    for shard in shards:
        folder, _, name = shard.path.rpartition("/")
        kept = _awaited(shard, of, crops, whole=shard.codes in made)
        if isinstance(kept, str):
            failed.append(f"{shard.path} ({kept})")
            without.add(folder)
            continue
        if folder not in lists:
            lists[folder] = listed_at(list_path(folder, of), of, crops)
        lists[folder].shards[name] = kept
    for folder in [one for one in lists if one not in without]:
        _write_list(list_path(folder, of), lists[folder], of)
    if failed:
        told = f"{len(failed):,} of {len(shards):,} shards could not be read and have no codes: {some(failed)}"
        raise OSError(f"{told}; fetch or index them again, and run codes.py once more: it goes on with them")
    return [kept for listed in lists.values() for kept in listed.shards.values()]


def _awaited(shard: Shard, of: CodesOf, crops: int, *, whole: bool) -> Kept | str:
    """What there is of a shard's codes once there is, or why there is nothing."""
    while True:
        if exists(shard.failed):
            return read(shard.failed).decode()
        if (kept := kept_of(shard, of, crops, whole=whole)) is not None:
            return kept
        time.sleep(_LOOK_EVERY)


def _write_list(path: str, listed: KeptList, of: CodesOf) -> None:
    write(path, lambda file: file.write(listed.as_json(of)) and None)  # type: ignore[func-returns-value]
    images = sum(kept.images for kept in listed.shards.values())
    unreadable = sum(kept.unreadable for kept in listed.shards.values())
    print(f"{path}: codes of {images:,} images in {len(listed.shards):,} shards, {unreadable:,} could not be decoded")
