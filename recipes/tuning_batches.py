"""Batches of fine-tuning, in an order that seed and step alone decide, made by threads a little ahead."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from tuning_start import Started

from torchflava.data.order import draw, keyed_rng, numbers_of
from torchflava.tasks.feeding import TuningBatch
from torchflava.training import Run


class Planned(NamedTuple):
    """A step's batch."""

    step: int
    batch: TuningBatch
    waited: float
    """Seconds for it."""


def batches(started: Started, run: Run) -> Iterator[Planned]:
    """Those of the steps to come; each is a function of the seed and its number alone."""
    config, task, feed = started.config, started.task, started.feed

    def make(step: int) -> TuningBatch:
        numbers = numbers_of(step, config.batch_size, rank=run.rank, world_size=run.world_size)
        places = draw(len(task.train), task.name, config.seed, numbers=numbers)
        rows = [feed.row(task.train[p.at], keyed_rng(config.seed, "view", p.epoch, p.at)) for p in places]
        return feed.batch(rows)

    asked = time.perf_counter()
    for step, batch in made_ahead(make, range(started.done, config.steps), config.threads):
        yield Planned(step, batch, time.perf_counter() - asked)
        asked = time.perf_counter()


def made_ahead(
    make: Callable[[int], TuningBatch], numbers: range, num_threads: int
) -> Iterator[tuple[int, TuningBatch]]:
    """What `make` returns, in order, made by threads a little ahead."""
    with ThreadPoolExecutor(num_threads, "batches") as pool:
        waiting: deque[tuple[int, Future[TuningBatch]]] = deque()
        try:
            for number in numbers:
                waiting.append((number, pool.submit(make, number)))
                if len(waiting) > num_threads:
                    first, future = waiting.popleft()
                    yield first, future.result()
            for first, future in waiting:
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)
