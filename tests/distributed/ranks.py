"""Runs functions on n ranks: gloo over a store in a file, one thread each, the first error reported, a limit on time.

The ranks are forked from a server that is started clean and has imported torch once: a rank costs tenths of a second of
processor time this way, three seconds if each starts afresh.
"""

import multiprocessing
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PRELOADED = ["torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor", "torchflava.data.mixture"]
PATIENCE = 200.0  # seconds: a crowded machine is slow, and a check that hangs is to be told before pytest ends it
Check = Callable[..., Any]
"""Called on every rank as check(rank, world_size); returns what can be pickled."""


class RankError(AssertionError):
    """A check failed on a rank; the text holds that rank's traceback."""


class Outcome:
    """What the checks of one start returned, by name and rank."""

    def __init__(self, results: list[dict[str, Any]], errors: dict[str, str]) -> None:
        self._results = results
        self._errors = errors

    def __getitem__(self, check: Check) -> list[Any]:
        """The results of a check, one for each rank.

        Raises:
            RankError: if it failed, or never ran because one before it did.
        """
        name = check.__name__
        if name in self._errors:
            raise RankError(self._errors[name])
        missing = [rank for rank, result in enumerate(self._results) if name not in result]
        if missing:
            raise RankError(
                f"{name} did not run on ranks {missing}: {' '.join(self._errors) or 'another check'} failed"
            )
        return [result[name] for result in self._results]


def on_ranks(world_size: int, *checks: Check, seconds: float = PATIENCE) -> Outcome:
    """Start `world_size` processes and run the checks one after another on all of them.

    A start has its cost, so one serves many checks. They end at the first failure, for after it the ranks may wait for
    each other; `seconds` bounds the whole, and waiting ranks are ended.

    Args:
        world_size: the number of ranks.
        checks: functions of a module that the processes can import.
        seconds: the limit for all checks together.
    """
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"
        try:
            context = mp.start_processes(
                _rank, (world_size, folder, checks, seconds), nprocs=world_size, join=False, start_method="forkserver"
            )
        finally:
            os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)
        late = _wait(context.processes, Path(folder), seconds)
        results = [_read(Path(folder) / f"results{rank}") for rank in range(world_size)]
        errors: dict[str, str] = {}
        first = sorted(Path(folder).glob("error*"), key=lambda file: file.stat().st_mtime_ns)
        for file in first[:1]:
            name, _, text = file.read_text().partition("\n")
            errors[name] = f"rank {file.name.removeprefix('error')} of {world_size}:\n{text}"
        if late and not errors:
            stuck = [check.__name__ for check in checks if any(check.__name__ not in result for result in results)]
            errors[stuck[0]] = f"{world_size} ranks did not end within {seconds} s; they were in {stuck[0]}"
        dead = [rank for rank, process in enumerate(context.processes) if process.exitcode not in (0, None)]
        if dead and not errors and not late:
            errors[checks[0].__name__] = f"ranks {dead} of {world_size} died without a word, before or in a check"
    return Outcome(results, errors)


def _wait(processes: list[Any], folder: Path, seconds: float) -> bool:
    """Until all have ended, or one failed, or time is up: the rest are ended then. True if time was up."""
    end = time.monotonic() + seconds
    while any(process.is_alive() for process in processes) and time.monotonic() < end:
        if list(folder.glob("error*")) or any(process.exitcode for process in processes):
            break
        time.sleep(0.02)
    late = time.monotonic() >= end
    for process in processes:
        process.join(0.5)
        if process.is_alive():
            process.kill()
            process.join()
    return late


def _read(file: Path) -> dict[str, Any]:
    return torch.load(file, weights_only=False) if file.exists() else {}


def _rank(rank: int, world_size: int, folder: str, checks: tuple[Check, ...], seconds: float) -> None:
    """One rank's life."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    results: dict[str, Any] = {}
    name = checks[0].__name__
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/store",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=seconds),
        )
        for check in checks:
            name = check.__name__
            torch.manual_seed(0)
            results[name] = check(rank, world_size)
            # Under another name first: the parent may look at any time.
            torch.save(results, f"{folder}/partial{rank}")
            os.replace(f"{folder}/partial{rank}", f"{folder}/results{rank}")
        dist.destroy_process_group()
    except BaseException:
        Path(f"{folder}/partial_error{rank}").write_text(f"{name}\n{traceback.format_exc()}")
        os.replace(f"{folder}/partial_error{rank}", f"{folder}/error{rank}")
        os._exit(1)
