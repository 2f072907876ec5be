"""Lists of URLs to shards, through rom1504/img2dataset: its settings for FLAVA, restarts, whole shards only, the card.

img2dataset runs as a program of its own, not inside this one: its workers are spawned, and would import torch each, every
few shards anew. So it may also come from another environment, where its many requirements are in nobody's way.

Images keep their bytes where they can: a JPEG whose shorter side is at most `image_size` stays as it was sent. A longer
one is scaled down: FLAVA's crops are of 224 pixels and of nine tenths of the area or more (torchmultimodal), so that 512
leaves twice what they need, while YFCC100M's originals alone are tens of terabytes. Other formats become JPEG, on white.

A response whose X-Robots-Tag says noai, noimageai, noindex or noimageindex is not used; robots.txt is not asked for. Of
shards, img2dataset's keys repeat from list to list; the lists' ids, in `.json`, do not.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from building import Card
from card import image_number
from slices import settle, write_text

from torchflava.transforms.image import MAX_PIXELS

FORBIDDEN = ["noai", "noimageai", "noindex", "noimageindex"]
"""Directives of X-Robots-Tag."""
MIN_SIDE = 16
"""Pixels: smaller images, less than a patch, are what is sent for images that are gone."""
_HTTP = re.compile(r"HTTP Error (\d{3})")
_REASONS = {
    "timed out": "timed out",
    "X-Robots-Tag": "robots",
    "Name or service not known": "no such host",
    "name resolution": "no such host",
    "No address associated": "no such host",
    "nodename nor servname": "no such host",
    "CERTIFICATE_VERIFY_FAILED": "bad certificate",
    "Connection refused": "connection refused",
    "Image decoding error": "not an image",
}


@dataclass(frozen=True)
class Fetching:
    """How images are fetched, whatever the source."""

    shard_size: int = 10_000
    """URLs in a shard; it has fewer samples, by those that fail."""
    processes: int = 4
    """Of img2dataset; each fetches a shard."""
    threads: int = 32
    """Downloads at a time in each process."""
    retries: int = 2
    """Of a URL that failed."""
    timeout: int = 10
    """Seconds."""
    image_size: int = 512
    """Pixels that an image's shorter side has at most, larger ones being scaled down; 0 leaves all as they are."""
    share: tuple[int, int] = (0, 1)
    """Which lists: those whose number leaves the first on division by the second, for one of several machines."""


@dataclass(frozen=True)
class Fetch:
    """Fetch the images of the lists into shards."""

    out: Path
    """Where the lists are, and shards and card.json go."""
    fetching: Annotated[Fetching, tyro.conf.arg(name="")] = field(default_factory=Fetching)
    """How images are fetched."""


def fetch(name: str, out: Path, options: Fetching) -> Card:
    """Fetch the images of `OUT/lists` into `OUT/NAME-LLLLL-NNNNN.tar`, shard N of list L, and write `OUT/card.json`.

    A shard has its name once it is whole. What was fetched stays: the same command goes on where one was stopped. A list
    whose shards are there leaves `OUT/records/NAME-LLLLL.json`, its card.

    Returns:
        The card of all shards that are there: pairs fetched, and the failures by reason as `rejected`.

    Raises:
        ValueError: for a number out of range, without lists, img2dataset or pyarrow, or if shards were begun with other settings.
        RuntimeError: if img2dataset fails, or leaves shards unfinished.
    """
    _check(options)
    lists = out / "lists"
    if not (lists / "card.json").exists():
        raise ValueError(f"{lists} has no finished lists; run `list` first, with the same --out")
    told = json.loads((lists / "lists.json").read_bytes())
    fetched = out / "fetched"
    settle(fetched, {"shard_size": options.shard_size, "image_size": options.image_size}, f"{name}.settings.json")
    unfinished = 0
    for number, (file, rows) in enumerate(told["lists"].items()):
        folder, shards = fetched / f"{name}-{number:05}", ceil(rows / options.shard_size)
        record = out / "records" / f"{folder.name}.json"
        if number % options.share[1] != options.share[0]:
            continue
        if len(_publish(folder, out)) < shards:
            record.unlink(missing_ok=True)
            _run(settings_of(lists / file, folder, told["columns"], options))
            unfinished += shards - len(_publish(folder, out))
        if not record.exists():
            record.parent.mkdir(exist_ok=True)
            write_text(record, json.dumps(card_of_fetched(name, folder).to_record()))
    card = Card.merged(name, map(_recorded, sorted((out / "records").glob(f"{name}-*.json"))))
    (out / "card.json").unlink(missing_ok=True)
    write_text(out / "card.json", json.dumps(card.as_json() | {"listed": sum(told["lists"].values())}, indent=1))
    if unfinished:
        raise RuntimeError(f"{unfinished} shards of {name} are unfinished (card: {out / 'card.json'}); run it again")
    return card


def _check(options: Fetching) -> None:
    for told, least in (("shard_size", 2), ("processes", 1), ("threads", 1), ("retries", 0), ("timeout", 1)):
        if getattr(options, told) < least:
            raise ValueError(f"{told} is {getattr(options, told)}; {least} or more are due")
    if find_spec("pyarrow") is None:
        raise ValueError("pyarrow is missing, which reads what img2dataset fetched; `pip install 'torchflava[data]'`")
    if options.image_size and options.image_size < 224:
        raise ValueError(f"image_size is {options.image_size}, smaller than FLAVA's 224; give more, or 0 for all as is")
    if not 0 <= options.share[0] < options.share[1]:
        raise ValueError(f"share is {options.share}; the first counts from 0 to below the second")


def settings_of(urls: Path, folder: Path, columns: list[str], options: Fetching) -> dict[str, Any]:
    """What img2dataset is told, by its own names."""
    return {
        "url_list": str(urls.resolve()),
        "input_format": urls.suffix[1:],
        "url_col": "url",
        "caption_col": "caption",
        "save_additional_columns": columns,
        "output_folder": str(folder.resolve()),
        "output_format": "webdataset",
        "number_sample_per_shard": options.shard_size,
        "processes_count": options.processes,
        "thread_count": options.threads,
        "retries": options.retries,
        "timeout": options.timeout,
        "resize_mode": "keep_ratio" if options.image_size else "no",
        "image_size": options.image_size or 512,
        "resize_only_if_bigger": True,
        "skip_reencode": True,
        "encode_quality": 95,
        "min_image_size": MIN_SIDE,
        "max_image_area": MAX_PIXELS,
        "extract_exif": False,  # holds where people live; and the shards' decoder does not turn images by it
        "compute_hash": "sha256",
        "incremental_mode": "incremental",
        "user_agent_token": "torchflava",
        "disallowed_header_directives": FORBIDDEN,
    }


def program() -> str:
    """img2dataset: beside this Python, else on the PATH.

    Raises:
        ValueError: if there is none, with ways to get it.
    """
    found = shutil.which("img2dataset", path=str(Path(sys.executable).parent)) or shutil.which("img2dataset")
    if found is None:
        raise ValueError(
            "img2dataset is not on the PATH; `pip install 'torchflava[data]'` brings it, and into an environment of its "
            "own `pipx install --python 3.12 img2dataset` or `uv tool install --python 3.12 img2dataset` do"
        )
    return found


def _run(settings: dict[str, Any]) -> None:
    flags = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]
    command = [program(), *(re.sub(r"=(true|false)$", lambda found: f"={found[1].title()}", flag) for flag in flags)]
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}  # else it asks the network for its newest version
    if code := subprocess.run(command, env=environment, check=False).returncode:
        raise RuntimeError(f"img2dataset ended with {code}; it was run as {' '.join(command)}")


def _publish(folder: Path, out: Path) -> list[int]:
    """Give the shards that are whole their names in `out`; the numbers of all that are finished.

    A shard's statistics are written after it, so those that can be read tell that it is whole; others are deleted, and
    img2dataset does the shard again.
    """
    finished = []
    for path in sorted(folder.glob("*_stats.json")):
        number = path.name.removesuffix("_stats.json")
        try:
            successes = json.loads(path.read_bytes())["successes"]
        except ValueError:
            path.unlink()
            continue
        finished.append(int(number))
        if (tar := folder / f"{number}.tar").exists() and successes:
            with open(tar, "rb") as file:
                os.fsync(file.fileno())
            os.replace(tar, out / f"{folder.name}-{number}.tar")
    return finished


def reason_of(message: str) -> str:
    """One of few words for why a URL failed; img2dataset's own, cut, for those seldom seen."""
    if found := _HTTP.search(message):
        return f"HTTP {found[1]}"
    told = next((reason for part, reason in _REASONS.items() if part in message), None)
    return told or " ".join(message.split())[:60]


def _recorded(path: Path) -> Card:
    return Card.from_record(json.loads(path.read_bytes()))


def card_of_fetched(name: str, folder: Path) -> Card:
    """The card of a list's finished shards; images are told apart by their bytes as sent."""
    card, images = Card(name), [np.empty(0, np.uint64)]
    for stats in sorted(folder.glob("*_stats.json")):
        told = json.loads(stats.read_bytes())
        reasons: Counter[str] = Counter()
        for message, count in told["status_dict"].items():
            if message != "success":
                reasons[reason_of(message)] += count
        if lost := told["count"] - told["successes"] - reasons.total():
            reasons["not told"] += lost
        card.rejected += reasons
        numbers = []
        for caption, image in _fetched_pairs(stats.with_name(stats.name.replace("_stats.json", ".parquet"))):
            card.pairs += 1
            card.words += len(caption.split())
            numbers.append(image_number(image))
        images.append(np.unique(np.array(numbers, np.uint64)))
    card.images = np.unique(np.concatenate(images))
    return card


def _fetched_pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Caption and image's sha256 of the rows that were fetched."""
    from pyarrow import parquet  # type: ignore[import-untyped]

    for row in parquet.read_table(path, columns=["status", "caption", "sha256"]).to_pylist():
        if row["status"] == "success":
            yield row["caption"], row["sha256"]
