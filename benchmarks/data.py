"""How fast samples become batches, and how little their order costs: `python benchmarks/data.py`.

In seconds of the processor, by one thread: captioned JPEGs read from a shard, decoded, cropped, seen at two sizes, masked,
tokenised and collated, beside decoding alone and beside Pillow with torchvision's first transforms. By the clock: two threads
beside one, and the start of an order of 70 million samples beside `torch.randperm`. Last the memory of a loader that runs on.
Sides take turns in one run; medians count, and the spread is the largest over the least.
"""

import gc
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import PIL
import torch
import torchvision
import tyro
from orders import BATCH, SHARDS, START, Cost, cost, first_batch, first_near, resident, shuffled
from paths import Make, Parts, mixture, stages, ways
from photos import write_photos

T = TypeVar("T")


@dataclass(frozen=True)
class Config:
    """Measure the data path."""

    photos: int = 64
    batch_size: int = 64
    turns: int = 21
    """Of each side."""
    minutes: float = 10
    """That the loader runs on."""
    vocabulary: str = ""
    """A vocab.txt or tokenizer.json, such as BERT's; learnt from the captions, unless given."""
    out: str = "benchmarks/results"


class Row(NamedTuple):
    """Of the table."""

    what: str
    reached: str
    spread: str = ""
    goal: str = ""
    kept: bool | None = None


def main(config: Config) -> None:
    """Print the table and write it."""
    torch.set_num_threads(1)
    gc.freeze()  # else a turn now and then has Python's collector go through all that was imported
    with tempfile.TemporaryDirectory() as folder:
        shards = write_photos(Path(folder), config.photos)
        parts = Parts.of(shards, config.vocabulary)
        head = facts(parts)
        rows = [*speed(parts, config), *threads(parts, config), *order(config), *resume(parts, config)]
        profile = stages(parts, config.turns, config.batch_size)
        rows += memory(parts, config)
    text = "\n".join([*head, "", *table(rows), "", *profiled(profile)]) + "\n"
    print(text)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "data.md").write_text(text)


def facts(parts: Parts) -> list[str]:
    """The machine, the versions and the samples, in words."""
    size = statistics.mean(len(parts.source[i].image) for i in range(len(parts.source)))
    decoder = "torchcodec" if "torchcodec.decoders" in sys.modules else "torchvision"
    return [
        "# benchmarks/data.py",
        "",
        f"{os.cpu_count()} cores, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, shared with others "
        f"(load {os.getloadavg()[0]:.1f} at the start); Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, Pillow {PIL.__version__}, numpy {np.__version__}. JPEGs of 500 x 375, "
        f"{size / 1000:.0f} kB, decoded by {decoder}; a vocabulary of {parts.tokenizer.vocab_size}.",
        "",
        "Less waiting for a core: less the time that a loader's threads stood ready, on average, while others had the cores "
        "(Linux's schedstat). What they wait for Python's lock counts, and counts too much where others interrupt its holder.",
    ]


def goal(told: str, kept: bool, applies: bool = True) -> tuple[str, bool | None]:
    """The last two columns."""
    return (told, kept) if applies else ("", None)


def alternated(sides: Mapping[str, Callable[[], T]], turns: int) -> dict[str, list[T]]:
    """What each side gives, in turns; one more, which is thrown away, comes first."""
    found: dict[str, list[T]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        for name, side in sides.items():
            value = side()
            if turn:
                found[name].append(value)
    return found


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of what the turns say."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def spread(values: list[float]) -> str:
    return f"{max(values) / min(values):.2f}"


def speed(parts: Parts, config: Config) -> Iterator[Row]:
    """Samples a second and core, of the processor's time."""
    step = iter(range(1_000_000))

    def rate(make: Make) -> float:
        at, began = next(step), time.process_time()
        make(at)
        return config.batch_size / (time.process_time() - began)

    made = ways(parts, config.batch_size)
    rates = alternated({name: partial(rate, make) for name, make in made.items()}, config.turns)
    told = {
        "decode": "decoding alone",
        "row": "the whole row",
        "coded": "the row, codes from a cache",
        "normalised": "the row, normalised here too",
        "pillow": "Pillow and torchvision's first transforms",
    }
    for name, what in told.items():
        yield Row(f"{what}, samples/s", f"{statistics.median(rates[name]):.0f}", spread(rates[name]))
    pairs = ("row", "decode", 0.75), ("coded", "decode", 0.75), ("row", "pillow", 2.0), ("normalised", "pillow", 2.0)
    for name, other, least in pairs:
        reached = ratio(rates[name], rates[other])
        yield Row(f"{told[name]} / {told[other]}", f"{reached:.2f}", "", *goal(f">= {least}", reached >= least))


def threads(parts: Parts, config: Config) -> Iterator[Row]:
    """Two threads beside one: by the clock, and by the clock less the time that they stood ready without a core."""
    loader, steps = mixture(parts, config.batch_size), 10

    def rates(num_threads: int) -> tuple[float, float]:
        before, began = ready(), time.perf_counter()
        for planned in loader.batches(0, steps, num_threads=num_threads):
            if planned.step == steps - 1:  # while its threads still live
                seconds, after = time.perf_counter() - began, ready()
        waited = sorted((after[task] - before.get(task, 0.0) for task in after), reverse=True)
        free = seconds - statistics.mean(waited[:num_threads])
        return steps * config.batch_size / seconds, steps * config.batch_size / free

    load = os.getloadavg()[0]
    found = alternated({"one thread": lambda: rates(1), "two threads": lambda: rates(2)}, config.turns)
    for which, what in enumerate(("by the clock", "less waiting for a core")):
        one, two = ([pair[which] for pair in pairs] for pairs in found.values())
        for name, values in (("one thread", one), ("two threads", two)):
            yield Row(f"`batches`, {name}, {what}, samples/s", f"{statistics.median(values):.0f}", spread(values))
        reached = ratio(two, one)
        told = f"two threads / one, {what}" + ("" if which else f" (load of the machine: {load:.1f})")
        yield Row(told, f"{reached:.2f}", "", *goal(">= 1.8", reached >= 1.8))
        yield Row(f"two threads / one, {what}, the best of each", f"{max(two) / max(one):.2f}")


def ready() -> dict[str, float]:
    """Seconds that each thread of this process has stood ready while others had the cores, by Linux's account."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended
            found[task.name] = int((task / "schedstat").read_text().split()[1]) / 1e9
    return found


def order(config: Config) -> Iterator[Row]:
    """The order of 70 million: its start, in a process of its own each time, and what a batch costs thereafter."""
    starts = {"draw": first_batch, "draw_near": first_near, "torch.randperm": shuffled}
    costs: dict[str, list[Cost]] = {name: [] for name in starts}
    for _ in range(max(1, config.turns // 4)):
        for name, start in starts.items():
            costs[name].append(cost(start))
    for name, all_costs in costs.items():
        what = f"70M: `{name}`" + (f", {SHARDS:,} shards" if name == "draw_near" else "")
        seconds, traced, more = (list(column) for column in zip(*all_costs, strict=True))
        ms, most, ours = 1e3 * statistics.median(seconds), statistics.median(traced), name.startswith("draw")
        yield Row(f"{what}, start to first batch, ms", f"{ms:.1f}", spread(seconds), *goal("< 50", ms < 50, ours))
        if ours:  # torch's memory is not traced
            yield Row(f"{what}, traced memory, MB", f"{most:.2f}", spread(traced), *goal("< 1", most < 1))
        yield Row(f"{what}, resident memory, MB", f"{statistics.median(more):.1f}")
    later = iter(range(START + 1, 2 * START))
    sides = {"draw": lambda: timed(first_batch, next(later)), "draw_near": lambda: timed(first_near, next(later))}
    for name, found in alternated(sides, config.turns).items():
        ms = 1e3 * statistics.median(found)
        yield Row(f"70M: `{name}`, each further batch of {BATCH:,}, ms of the processor", f"{ms:.1f}", spread(found))


def timed(call: Callable[..., object], *arguments: object) -> float:
    """Seconds of the processor."""
    began = time.process_time()
    call(*arguments)
    return time.process_time() - began


def resume(parts: Parts, config: Config) -> Iterator[Row]:
    """To the first batch of a run that goes on: the order's alone, and a real one, through threads."""
    loader = mixture(parts, config.batch_size)
    steps = {"step 0": 0, "a billion samples": 1_000_000_000 // BATCH, "a billion steps": 1_000_000_000}

    def first(step: int) -> float:
        batches = loader.batches(step, step + 1)
        return timed(next, batches)

    order_first, loader_first = f"order's first {BATCH:,}", f"loader's first {config.batch_size}"
    for what, call in ((order_first, partial(timed, first_batch)), (loader_first, first)):
        found = alternated({name: partial(call, step) for name, step in steps.items()}, config.turns)
        for name, values in found.items():
            yield Row(
                f"resume at {name}: {what}, ms of the processor",
                f"{1e3 * statistics.median(values):.1f}",
                spread(values),
            )
        most = max(ratio(values, found["step 0"]) for values in found.values())
        yield Row(f"resume: {what}, the slowest / step 0", f"{most:.2f}", "", *goal("< 1.2", most < 1.2))


def memory(parts: Parts, config: Config) -> Iterator[Row]:
    """Resident memory while batches are made and dropped: the slope of the second half, by least squares."""
    loader, end = mixture(parts, config.batch_size), time.perf_counter() + 60 * config.minutes
    at, size, num_batches = [], [], 0
    for _ in loader.batches(0, 1 << 40, num_threads=2):
        num_batches += 1
        at.append(time.perf_counter() / 3600)
        size.append(resident())
        if time.perf_counter() > end:
            break
    half = len(at) // 2
    x, y = np.array(at[half:]) - np.mean(at[half:]), np.array(size[half:])
    slope = float((x * y).sum() / (x * x).sum())
    told = f"memory over {config.minutes:g} minutes, {num_batches} batches"
    yield Row(f"{told}: first, largest, last, MB", f"{size[0]:.0f}, {max(size):.0f}, {size[-1]:.0f}")
    yield Row(f"{told}: slope of the second half, MB an hour", f"{slope:.1f}", "", *goal("< 10", slope < 10))


def table(rows: list[Row]) -> list[str]:
    head = ["| what | reached | spread | goal | kept |", "|---|--:|--:|--:|---|"]
    kept = {None: "", True: "yes", False: "no"}
    return head + [f"| {row.what} | {row.reached} | {row.spread} | {row.goal} | {kept[row.kept]} |" for row in rows]


def profiled(seconds: Mapping[str, list[float]]) -> list[str]:
    """The stages of a row in microseconds, and their share."""
    medians = {stage: 1e6 * statistics.median(values) for stage, values in seconds.items()}
    total = sum(medians.values())
    head = ["## Where a row's time goes", "", "| stage | microseconds | share |", "|---|--:|--:|"]
    rows = [f"| {stage} | {value:.0f} | {value / total:.0%} |" for stage, value in medians.items()]
    return [*head, *rows, f"| all | {total:.0f} | 100% |"]


if __name__ == "__main__":
    main(tyro.cli(Config))
