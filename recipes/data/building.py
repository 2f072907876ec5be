"""What the scripts beside this file share: from candidate samples to shards, in parallel, restartable, with a card.

Shards have webdataset's layout, as rom1504/img2dataset writes it: `KEY.jpg KEY.txt KEY.json`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import numpy as np
from card import PAPER, Card, image_number
from checks import caption_fault, image_ending, read_image
from slices import in_slices, settle

from torchflava.data.tars import Sample, write_tar, write_whole

__all__ = [
    "PAPER",
    "Card",
    "Options",
    "Rejected",
    "Row",
    "build",
    "caption_fault",
    "image_ending",
    "read_image",
    "settle",
    "slices_of",
]

_SHARDS = 10  # in a slice


class Row(NamedTuple):
    """One candidate sample."""

    key: str
    """Its name, the same at every build; characters that a shard's keys cannot have are escaped as in a URL."""
    image: Path | bytes | None
    """An image file or its bytes; None for a row that has a text, or a URL in its meta, alone."""
    caption: str
    """Empty for an image without one. Runs of blanks become one blank."""
    meta: dict[str, Any]
    """Goes into `.json`. `image`, else `url`, tells which rows have the same image; without them its bytes do."""


class Rejected(NamedTuple):
    """A row that cannot be used."""

    key: str
    reason: str
    """Short, and one of few: they are counted."""


@dataclass(frozen=True)
class Options:
    """How shards are written, whatever the source; a recipe takes it as `Annotated[Options, tyro.conf.arg(name="")]`."""

    shard_size: int = 1000
    """Samples in a shard."""
    workers: int = 4
    """Processes."""
    limit: int | None = None
    """Only so many of the source's entries (images, narratives, documents), for a trial; all by default."""
    check_images: bool = True
    """Decode every image, and leave out those that cannot be decoded."""
    copies: bool = False
    """Store an image with each of its captions, as other readers of such shards want it; else once a shard, with links."""


Item = TypeVar("Item")


def slices_of(items: Sequence[Item], options: Options, each: int = 1) -> list[Sequence[Item]]:
    """Entries cut to the limit and into slices of about ten shards, one slice at least; `each` has so many samples."""
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit is {options.limit}; 1 or more are due")
    taken = items[: options.limit]
    step = max(1, options.shard_size * _SHARDS // each)
    return [taken[start : start + step] for start in range(0, len(taken), step)] or [taken]


def build(
    rows_of_slice: Callable[[int], Iterable[Row | Rejected]],
    num_slices: int,
    out: Path,
    *,
    name: str,
    shard_size: int,
    workers: int,
    check_images: bool,
    copies: bool = True,
) -> Card:
    """Write `OUT/NAME-SSSSS-NNNNN.tar`, shard N of slice S, and `OUT/card.json`; the card.

    A slice that is finished leaves `OUT/records/NAME-SSSSS.json`; a build that was stopped does the others anew, and its
    shards are the same to the byte, for any number of workers.

    Args:
        rows_of_slice: the rows of slice S, the same at every call; picklable, if there are several workers.
        num_slices: what is given to a worker at a time, and what a stopped build loses at most.
        out: the folder, made if it is missing.
        name: enters the shards' names; a name of `PAPER` puts the paper's figures on the card.
        shard_size: samples in a shard; the last of a slice may have fewer.
        workers: processes; one means this one.
        check_images: decode every image, and reject those that cannot be decoded.
        copies: store an image with each of its captions, not once a shard with links.

    Raises:
        ValueError: for a number below 1, or a folder that was begun with other settings.
    """
    if shard_size < 1:
        raise ValueError(f"shard_size is {shard_size}; 1 or more are due")
    write = partial(_write_shards, rows_of_slice, out, name, shard_size, check_images, copies)
    settings = {"shard_size": shard_size, "check_images": check_images, "copies": copies}
    return in_slices(write, num_slices, out, name=name, workers=workers, settings=settings)


def _write_shards(
    rows_of_slice: Callable[[int], Iterable[Row | Rejected]],
    out: Path,
    name: str,
    shard_size: int,
    check_images: bool,
    copies: bool,
    part: int,
) -> tuple[Card, list[str]]:
    card = Card(name)
    samples = _samples(rows_of_slice(part), card, check_images)
    shards: list[str] = []
    for first in samples:
        shard = chain([first], islice(samples, shard_size - 1))
        shards.append(f"{name}-{part:05}-{len(shards):05}.tar")
        write_whole(out / shards[-1], lambda file, shard=shard: write_tar(file, shard, copies=copies))  # type: ignore[misc]
    return card, shards


def _samples(rows: Iterable[Row | Rejected], card: Card, check_images: bool) -> Iterator[Sample]:
    """The rows that can be used, as a shard holds them; all are counted."""
    keys: set[str] = set()
    images: set[int] = set()
    read = lru_cache(maxsize=1)(partial(read_image, check=check_images))  # captions of an image follow one another
    for row in rows:
        found = row if isinstance(row, Rejected) else _sample(row, keys, images, read)
        if isinstance(found, Rejected):
            card.reject(found.key, found.reason)
            continue
        card.pairs += 1
        card.words += len(found[1].get("txt", b"").decode().split())
        yield found
    card.images = np.array(sorted(images), np.uint64)


def _sample(
    row: Row, keys: set[str], images: set[int], read: Callable[[Path | bytes], tuple[str, bytes] | str]
) -> Sample | Rejected:
    key = quote(row.key, safe="", errors="replace").replace(".", "%2E")
    if not key or (row.image is None and not row.caption and "url" not in row.meta):
        return Rejected(row.key, "bad row")
    if key in keys:
        return Rejected(row.key, "duplicate")
    if row.caption and (fault := caption_fault(row.caption)):
        return Rejected(row.key, fault)
    parts: dict[str, bytes] = {}
    if row.image is not None:
        found = read(row.image)
        if isinstance(found, str):
            return Rejected(row.key, found)
        parts[found[0]] = found[1]
    if row.caption:
        parts["txt"] = " ".join(row.caption.split()).encode()
    parts["json"] = json.dumps(row.meta, sort_keys=True).encode()
    keys.add(key)
    if image := row.meta.get("image") or row.meta.get("url"):
        images.add(image_number(str(image)))
    elif row.image is not None:
        images.add(image_number(found[1]))
    return key, parts
