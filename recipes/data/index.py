"""The index of shards and text files (`python recipes/data/index.py data/cc12m`), which training reads samples through.

One `index.safetensors` beside the shards of each folder says where their samples lie; a text file gets one of its lines.
Shards are scanned in parallel, each into a file of its own in FOLDER/.index until all are done, so that a run that was stopped
goes on where it was; shards that have not changed since they were indexed are not scanned again.
"""

import multiprocessing
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from torchflava.data.index import INDEX_NAME, Index, open_index, scan, write_index
from torchflava.data.lines import lines_index, open_lines, scan_lines, write_lines
from torchflava.data.sorting import DEFAULT, Endings
from torchflava.data.tars import write_whole


@dataclass(frozen=True)
class Config:
    """Build or check the index of shards and text files."""

    paths: tyro.conf.Positional[tuple[str, ...]]
    """Folders of tars, patterns such as 'data/cc12m/*.tar', or files: tars, and .txt with a text a line."""
    check: bool = False
    """Read the headers again and compare them with the index; nothing is written."""
    skip_damaged: bool = False
    """Leave damaged shards out of the index instead of stopping at the end."""
    workers: int = os.cpu_count() or 1
    """Processes."""
    image: tuple[str, ...] = DEFAULT.image
    """Endings of images; the first that a sample has is taken."""
    caption: tuple[str, ...] = DEFAULT.caption
    """Endings of captions."""
    meta: tuple[str, ...] = DEFAULT.meta
    """Endings of what else is known of a sample."""


class Report(NamedTuple):
    """What is known of one folder's shards, or of one text file."""

    path: Path
    """Of the index."""
    shards: int
    samples: int
    pairs: int
    num_bytes: int
    passed_over: Counter[str]
    damaged: list[str]
    """One sentence each."""


def main(config: Config) -> list[Report]:
    """Index or check all that `config` names.

    Raises:
        ValueError: if nothing is found, or, unless they are to be skipped, with the names of the damaged shards.
    """
    if config.workers < 1:
        raise ValueError(f"{config.workers} workers do nothing; 1 or more are due")
    endings = Endings(config.image, config.caption, config.meta)
    files = expand(config.paths)
    folders = sorted({path.parent for path in files if path.suffix != ".txt"})
    reports = []
    with _processes(config.workers) as each:
        for folder in folders:
            shards = [path for path in files if path.parent == folder and path.suffix != ".txt"]
            reports.append(
                (check if config.check else build)(folder, shards, endings, each=each, skip=config.skip_damaged)
            )
    reports += [_lines(path, config.check) for path in files if path.suffix == ".txt"]
    damaged = [line for report in reports for line in report.damaged]
    if damaged and not config.skip_damaged:
        print(show(reports))
        raise ValueError(
            "\n".join([*damaged, f"{len(damaged)} damaged; mend them, or leave them out by --skip-damaged"])
        )
    return reports


def expand(words: Sequence[str]) -> list[Path]:
    """The files that folders, patterns and paths name, each once.

    Raises:
        ValueError: if one of them names nothing.
    """
    found: set[Path] = set()
    for word in words:
        path = Path(word)
        root = Path(path.anchor) if path.is_absolute() else Path()
        here = (
            path.glob("*.tar")
            if path.is_dir()
            else [path]
            if path.exists()
            else root.glob(word.removeprefix(path.anchor))
        )
        if not (some := {file for file in here if file.is_file()}):
            raise ValueError(f"{word} names no shards; give folders of .tar files, patterns or files")
        found |= some
    return sorted(found)


@contextmanager
def _processes(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """A `map` over processes, or here where one worker is enough."""
    if workers == 1:
        yield map
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torchflava.data.index"])  # torch is loaded once, not by each worker
    with ProcessPoolExecutor(workers, context) as pool:
        try:
            yield pool.map
        except BrokenProcessPool as error:
            told = "a worker was killed, often for want of memory; run the same command again: what was scanned stays"
            raise RuntimeError(told) from error
        finally:
            pool.shutdown(cancel_futures=True)


def build(
    folder: Path, shards: Sequence[Path], endings: Endings, *, each: Callable[..., Iterator[Any]], skip: bool
) -> Report:
    """Bring the index of a folder up to date; what it says of other shards that are there still is kept."""
    index, beside = folder / INDEX_NAME, folder / ".index"
    old = _opened(index, endings)
    known = {} if old is None else {name: partial(old.part, i) for i, name in enumerate(old.names)}
    for path in shards:
        if path.name in known and not _is_of(known[path.name](), path):
            del known[path.name]
    known = {name: part for name, part in known.items() if (folder / name).is_file()}
    todo = [path for path in shards if path.name not in known]
    beside.mkdir(exist_ok=True)
    damaged = [error for error in each(partial(_part, beside, endings), todo) if error]
    known |= {
        path.name: partial(open_index, _part_path(beside, path)) for path in todo if _part_path(beside, path).exists()
    }
    if known and (not damaged or skip):
        parts = [part for _, part in sorted(known.items())]
        if todo or old is None or len(parts) != old.num_shards:
            (beside / "whole").unlink(missing_ok=True)
            write_whole(beside / "whole", lambda file: write_index(file, parts, endings))
            os.replace(beside / "whole", index)
        shutil.rmtree(beside)
    return _report(index, _opened(index, endings), damaged)


def _opened(path: Path, endings: Endings) -> Index | None:
    """The index that is there, if it is whole and of these endings."""
    with suppress(FileNotFoundError, ValueError):
        index = open_index(path)
        return index if index.endings == endings else None
    return None


def _is_of(part: Index, path: Path) -> bool:
    state = path.stat()
    told = part.columns["num_bytes"][0], part.columns["modified"][0]
    return (int(told[0]), int(told[1])) == (state.st_size, state.st_mtime_ns)


def _part_path(beside: Path, shard: Path) -> Path:
    return beside / f"{shard.name}.safetensors"


def _part(beside: Path, endings: Endings, shard: Path) -> str:
    """Scan a shard into a file of its own, unless that is there; what is wrong with it."""
    path = _part_path(beside, shard)
    found = _opened(path, endings)
    if found is not None and _is_of(found, shard):
        return ""
    path.unlink(missing_ok=True)
    try:
        scanned = scan(shard, endings)
    except ValueError as error:
        return str(error)
    write_whole(path, lambda file: write_index(file, [lambda: scanned], endings))
    return ""


def check(
    folder: Path, shards: Sequence[Path], endings: Endings, *, each: Callable[..., Iterator[Any]], skip: bool
) -> Report:
    """Compare the index of a folder with its shards' headers, read again.

    Raises:
        ValueError: if there is no index.
    """
    try:
        index = open_index(folder / INDEX_NAME)
    except FileNotFoundError as error:
        raise ValueError(f"{folder} has no {INDEX_NAME}; build it first, without --check") from error
    places = {name: i for i, name in enumerate(index.names)}
    damaged = [
        f"shard {folder / name} is gone; bring the index up to date" for name in places if not (folder / name).exists()
    ]
    tasks = [(path, places.get(path.name)) for path in shards]
    damaged += [error for error in each(partial(_compared, folder / INDEX_NAME, endings), tasks) if error]
    return _report(folder / INDEX_NAME, index, damaged)


def _compared(index: Path, endings: Endings, task: tuple[Path, int | None]) -> str:
    path, place = task
    if place is None:
        return f"shard {path} is not in the index; bring the index up to date"
    try:
        same = scan(path, endings).same_as(open_index(index).part(place))
    except ValueError as error:
        return str(error)
    return "" if same else f"shard {path} is not what was indexed; fetch it again, or bring the index up to date"


def _report(path: Path, index: Index | None, damaged: list[str]) -> Report:
    if index is None:
        return Report(path, 0, 0, 0, 0, Counter(), damaged)
    pairs, num_bytes = int(index.columns["groups"][:, 1].sum()), int(index.columns["num_bytes"].sum())
    return Report(path, index.num_shards, len(index), pairs, num_bytes, index.counts(), damaged)


def _lines(path: Path, check: bool) -> Report:
    """Index a text file's lines, or compare them with its index."""
    beside, num_bytes = lines_index(path), path.stat().st_size
    there = open_lines(path)
    lines = scan_lines(path) if check or there is None else there
    damaged = []
    if check and (
        there is None or any((a != b).any() if a.shape == b.shape else True for a, b in zip(there, lines, strict=True))
    ):
        damaged = [f"texts {path} is not what was indexed, or has no index; bring the index up to date"]
    if not check and there is None:
        beside.unlink(missing_ok=True)
        write_whole(beside, lambda file: write_lines(file, lines, num_bytes))
    return Report(beside, 1, len(lines.starts), 0, num_bytes, Counter(), damaged)


def show(reports: Sequence[Report]) -> str:
    """The reports as a table."""
    lines = [f"{'shards':>9}{'samples':>13}{'pairs':>13}{'bytes':>20}  index: passed over"]
    for report in reports:
        told = ", ".join(f"{count:,} {reason}" for reason, count in sorted(report.passed_over.items())) or "none"
        numbers = f"{report.shards:>9,}{report.samples:>13,}{report.pairs:>13,}{report.num_bytes:>20,}"
        lines.append(f"{numbers}  {report.path}: {told}")
        lines += [f"          damaged: {line}" for line in report.damaged]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        print(show(main(tyro.cli(Config))))
    except ValueError as error:
        sys.exit(str(error))
