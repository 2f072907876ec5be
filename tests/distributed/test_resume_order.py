"""17 steps on 2 ranks, 20 on 4 and 23 on 1 are 60 uninterrupted steps: sample for sample, mask for mask, killed or not."""

import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ranks import PRELOADED

from torchflava.data.blend import Blend, Nearby
from torchflava.data.mixture import Kind, Mixture, Planned
from torchflava.transforms.image import CorruptSample

BATCH, STEPS = 8, 60


class Numbers:
    """Samples that are their own numbers, some of them corrupt; in shards of 5."""

    def __init__(self, name: str, n: int) -> None:
        self.name, self.n = name, n
        self.starts = np.array([*range(0, n, 5), n])

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> int:
        if index % 17 == 3:
            raise CorruptSample(f"sample {index} is broken")
        return index


def row(source: Numbers, index: int, rng: np.random.Generator) -> tuple[str, int, list[bool]]:
    """Source, sample, mask."""
    return source.name, source[index], (rng.random(12) < 0.4).tolist()


def stack(rows: Sequence[Any]) -> Any:
    return list(rows)


def mixture() -> Mixture:
    parts = [Numbers("a", 23), Numbers("b", 41), Numbers("c", 5)]
    weighted = Blend("weighted", [parts[0], Nearby(parts[1], 2), parts[2]], {"a": 3, "b": 2, "c": 0.5})
    kinds = {
        "pair": Kind(weighted, row, stack, 0.70),
        "image": Kind(Blend("whole", parts), row, stack, 0.15),
        "text": Kind(Nearby(Blend("near", parts), 3), row, stack, 0.15),
    }
    return Mixture(kinds, BATCH, 7, max_corrupt_fraction=1.0)


def samples(planned: Planned) -> list[str]:
    return [json.dumps(one) for one in planned.batch]


def uninterrupted() -> list[tuple[str, list[str]]]:
    return [(p.kind, sorted(samples(p))) for p in map(mixture().__getitem__, range(STEPS))]


def test_seventeen_steps_on_two_ranks_twenty_on_four_and_the_rest_on_one_are_sixty() -> None:
    seen: list[tuple[str, list[str]]] = []
    state = mixture().state(0)
    for ranks, steps in ((2, 17), (4, 20), (1, 23)):
        run = mixture()
        start = run.check_state(json.loads(json.dumps(state)))
        for step in range(start, start + steps):
            parts = [run.part(step, rank=rank, world_size=ranks) for rank in range(ranks)]
            assert len({part.kind for part in parts}) == 1
            seen.append((parts[0].kind, sorted(sample for part in parts for sample in samples(part))))
        state = run.state(start + steps)
    assert seen == uninterrupted()


def follow(rank: int, ranks: int, folder: str, attempt: int) -> None:
    """One rank of a run: goes on from the state, writes down what it sees, and saves the state every third step."""
    torch.set_num_threads(1)
    here, random = Path(folder), Random(attempt)
    threads, prefetch = random.randint(1, 3), random.randint(1, 5)
    store = f"file://{folder}/store{attempt}"
    dist.init_process_group("gloo", store, rank=rank, world_size=ranks, timeout=timedelta(seconds=100))
    run, saved = mixture(), here / "state.json"
    start = run.check_state(json.loads(saved.read_text())) if saved.exists() else 0
    dist.barrier()
    with (here / f"seen-{attempt}-{rank}").open("a") as out:
        for planned in run.batches(start, STEPS, num_threads=threads, prefetch=prefetch, debug=True):
            time.sleep(0.03)
            out.write(json.dumps([planned.step, planned.kind, samples(planned)]) + "\n")
            out.flush()
            dist.barrier()
            if rank == 0 and (planned.step + 1) % 3 == 0:
                (here / "partial").write_text(json.dumps(run.state(planned.step + 1)))
                os.replace(here / "partial", saved)
    dist.destroy_process_group()


def written(folder: Path, attempt: int, ranks: int) -> Iterator[tuple[int, str, list[str]]]:
    """The steps that all ranks of an attempt wrote down, joined."""
    parts: dict[int, list[tuple[str, list[str]]]] = {}
    for rank in range(ranks):
        file = folder / f"seen-{attempt}-{rank}"
        lines = file.read_text().split("\n")[:-1] if file.exists() else []
        for step, kind, seen in map(json.loads, lines):
            parts.setdefault(step, []).append((kind, seen))
    for step, of_ranks in parts.items():
        if len(of_ranks) == ranks:
            kinds = {kind for kind, _ in of_ranks}
            assert len(kinds) == 1
            yield step, kinds.pop(), sorted(sample for _, seen in of_ranks for sample in seen)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ranks_killed_at_random_moments_and_started_in_other_numbers_see_the_same(tmp_path: Path) -> None:
    context, random = multiprocessing.get_context("forkserver"), Random(1)
    context.set_forkserver_preload([*PRELOADED, "torchflava.data.mixture"])
    seen: dict[int, tuple[str, list[str]]] = {}
    killed = 0
    for attempt in range(12):
        ranks = (2, 4, 1)[attempt % 3]
        processes = [context.Process(target=follow, args=(r, ranks, str(tmp_path), attempt)) for r in range(ranks)]
        for process in processes:
            process.start()
        end = time.monotonic() + 100
        while not (tmp_path / f"seen-{attempt}-0").exists() and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(random.uniform(0.2, 1.0))
        alive = [process.is_alive() for process in processes]
        if killed < 4:
            random.choice(processes).kill()
            time.sleep(random.uniform(0, 0.05))
            for process in processes:
                process.kill()
            killed += any(alive)
        for process in processes:
            process.join(60)
        for step, kind, rows in written(tmp_path, attempt, ranks):
            assert seen.setdefault(step, (kind, rows)) == (kind, rows)
        if all(process.exitcode == 0 for process in processes):
            break
    assert killed >= 3
    assert [seen[step] for step in range(STEPS)] == uninterrupted()
