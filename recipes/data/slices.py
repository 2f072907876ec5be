"""Work cut into slices: in parallel, restartable, each slice's card kept beside what it wrote."""

import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import IO, Any

from card import Card

from torchflava.data.tars import write_whole

_SPEAKS_EVERY = 5.0  # seconds


def in_slices(
    write: Callable[[int], tuple[Card, list[str]]],
    num_slices: int,
    out: Path,
    *,
    name: str,
    workers: int,
    settings: Mapping[str, Any],
) -> Card:
    """What `build` does about slices, records and the card, whatever a slice writes.

    Args:
        write: writes the files of slice S, named `NAME-SSSSS` and more, each whole or not at all; its card and their names.
        num_slices: as for `build`.
        out: as for `build`.
        name: as for `build`.
        workers: as for `build`.
        settings: what the files depend on.

    Raises:
        ValueError: for a number below 1, or a folder that was begun with other settings.
    """
    for told, number in (("num_slices", num_slices), ("workers", workers)):
        if number < 1:
            raise ValueError(f"{told} is {number}; 1 or more are due")
    settle(out / "records", {"num_slices": num_slices, **settings}, f"{name}.settings.json")
    one = partial(_one_slice, write, out, name)
    missing = [part for part in range(num_slices) if not _finished(out, name, part)]
    progress = _Progress(name, num_slices, num_slices - len(missing))
    if workers > 1 and len(missing) > 1:
        _in_processes(one, missing, workers, progress)
    else:
        for part in missing:
            one(part)
            progress.step()
    card = card_of(out, name, num_slices)
    (out / "card.json").unlink(missing_ok=True)
    write_text(out / "card.json", json.dumps(card.as_json(), indent=1))
    return card


def card_of(out: Path, name: str, num_slices: int) -> Card:
    """The card of slices that are all finished."""
    records = (json.loads(_record(out, name, part).read_bytes()) for part in range(num_slices))
    return Card.merged(name, map(Card.from_record, records))


def _in_processes(one: Callable[[int], None], parts: list[int], workers: int, progress: "_Progress") -> None:
    """Build slices side by side; the first error stops what has not begun."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # torch is loaded once, not by each worker
    with ProcessPoolExecutor(min(workers, len(parts)), context, initializer=_begin, initargs=(one,)) as pool:
        try:
            for future in as_completed([pool.submit(_at_work, part) for part in parts]):
                future.result()
                progress.step()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker was killed, often for want of memory; run the same command again, with fewer workers: "
                "finished slices stay"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def settle(out: Path, settings: Mapping[str, Any], file: str = "settings.json") -> None:
    """Note what a folder is built with, so that one stopped is not gone on with under other settings.

    Raises:
        ValueError: if it was begun with others.
    """
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dict(settings), default=lambda path: str(Path(path).resolve()), sort_keys=True, indent=1)
    write_text(out / file, text)
    there = json.loads((out / file).read_bytes())
    if there != json.loads(text):
        raise ValueError(f"{out} was begun with {there}, not with {json.loads(text)}; choose another --out")


_WORK: list[Callable[[int], None]] = []
"""In a worker: what it does to a slice. It holds the source's whole plan, so it is sent once, not with each slice."""


def _begin(one: Callable[[int], None]) -> None:
    _WORK[:] = [one]


def _at_work(part: int) -> None:
    _WORK[0](part)


def _one_slice(write: Callable[[int], tuple[Card, list[str]]], out: Path, name: str, part: int) -> None:
    """Write a slice's files, then its record. What a killed build left of it goes first."""
    record = _record(out, name, part)
    record.unlink(missing_ok=True)
    for left in [*out.glob(f"{name}-{part:05}[-.]*"), *out.glob(f".{name}-{part:05}[-.]*.part")]:
        left.unlink()
    card, files = write(part)
    write_text(record, json.dumps(card.to_record() | {"files": files}))


def _record(out: Path, name: str, part: int) -> Path:
    return out / "records" / f"{name}-{part:05}.json"


def _finished(out: Path, name: str, part: int) -> bool:
    """Whether a slice's record is there, and every file that it names."""
    record = _record(out, name, part)
    return record.exists() and all((out / file).exists() for file in json.loads(record.read_bytes())["files"])


def write_text(path: Path, text: str) -> None:
    """Write a small file, whole or not at all; one that is there stays."""

    def write(file: IO[bytes]) -> None:
        file.write(text.encode())

    write_whole(path, write)


class _Progress:
    """A line on stderr every few seconds, and at the end."""

    def __init__(self, name: str, total: int, done: int) -> None:
        self._name, self._total, self._done = name, total, done
        self._spoke = time.monotonic()

    def step(self) -> None:
        """One slice more is finished."""
        self._done += 1
        if self._done == self._total or time.monotonic() - self._spoke >= _SPEAKS_EVERY:
            self._spoke = time.monotonic()
            print(f"{self._name}: {self._done} of {self._total} slices", file=sys.stderr, flush=True)
