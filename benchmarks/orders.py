"""What the order of 70 million samples costs at its start, beside a permutation of all; for benchmarks/data.py."""

import gc
import multiprocessing
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from torchflava.data.order import Order, draw, draw_near, numbers_of

PMD = 70_000_000
"""Samples, of the paper's pairs."""
BATCH = 8192
"""Paper §4.1."""
SHARDS, WINDOW = 70_000, 100
KINDS = {"pair": 0.70, "image": 0.15, "text": 0.15}
START = 3_000_000  # a step far into the run
_STARTS = np.arange(SHARDS + 1, dtype=np.int64) * (PMD // SHARDS)


def first_batch(step: int = START, seed: int = 0) -> int:
    """An order is made and its batch of a step is drawn; how many samples it has."""
    place = Order(KINDS, seed)(step)
    return len(draw(PMD, "pmd", seed, numbers=numbers_of(place.turn, BATCH, rank=0, world_size=1)))


def first_near(step: int = START, seed: int = 0) -> int:
    """The same, from a hundred shards at a time."""
    place = Order(KINDS, seed)(step)
    numbers = numbers_of(place.turn, BATCH, rank=0, world_size=1)
    return len(draw_near(_STARTS, "pmd", seed, numbers=numbers, window=WINDOW))


def shuffled(step: int = START, seed: int = 0) -> int:
    """The plain way: all numbers in a random order, of which a batch is taken."""
    draws = torch.Generator().manual_seed(seed)
    return len(torch.randperm(PMD, generator=draws)[:BATCH].tolist())


class Cost(NamedTuple):
    """Of a start."""

    seconds: float
    """Of the clock."""
    traced: float
    """MB at most, of Python and numpy."""
    resident: float
    """MB that the process grew by at most, code that was loaded for it included."""


def cost(start: Callable[..., int]) -> Cost:
    """Of a start in a new process, as a run has it."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_cost, (start,))


def _cost(start: Callable[..., int]) -> Cost:
    torch.set_num_threads(1)
    gc.collect()  # what the imports left is not the order's
    gc.freeze()
    before, began = resident(), time.perf_counter()
    start()
    seconds, more = time.perf_counter() - began, resident("VmHWM") - before
    tracemalloc.start()
    start(seed=1)  # another order, so that nothing is left of the first
    return Cost(seconds, tracemalloc.get_traced_memory()[1] / 2**20, max(0.0, more))


def resident(which: str = "VmRSS") -> float:
    """MB of this process by Linux's account: now, or the most so far (VmHWM)."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which)]
    return int(line.split()[1]) / 1024
