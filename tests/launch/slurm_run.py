"""`recipes/pretrain.py` as a job on two nodes of a real Slurm, and the trace of one that no one ends."""

import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import Cluster, Torchx

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from killed import Record, trace, whole

__all__ = ["RANK", "Record", "Run", "alone", "trace", "whole"]

ROOT = Path(__file__).parents[2]
STEPS = 100
SMALL = ["--preset", "tiny", "--save-every", "5", "--warmup-steps", "2", "--vocab-size", "120", "--max-length", "12"]
RANK = "-u recipes/pretrain.py"


class Run:
    """A job of the recipe, without a name of its own: Slurm's number names it."""

    nodes = "2"
    own: Sequence[str] = (*SMALL, "--steps", str(STEPS), "--batch-size", "8")

    def __init__(self, cluster: Cluster, torchx: Torchx, folder: Path, *words: str) -> None:
        self.cluster, self.torchx, self.logs = cluster, torchx, folder / "logs"
        self._runs = folder / "runs"
        settings = f"log_dir={self.logs},time=01:00:00,signal=USR1@120"
        job = ["recipes/pretrain.py", "--nodes", self.nodes, *words]
        self.number = torchx.submit("-cfg", settings, *job, "--", *self.own, "--folder", str(self._runs), cwd=ROOT)

    @property
    def folder(self) -> Path:
        """The run's."""
        return next(self._runs.glob(f"*-slurm-{self.number}-tiny"), self._runs)

    def said(self) -> str:
        """By all ranks, in all starts, and by the job's script."""
        return "\n".join(file.read_text() for file in sorted(self.logs.glob(f"slurm-{self.number}*")))

    def step(self) -> int:
        """The last one in the log."""
        return max(trace(self.folder), default=0)

    def until(self, seen: Callable[[], Any]) -> None:
        """Wait for what is to be seen while the job runs."""
        self.cluster.until(seen, lambda: f"{self.cluster.job(self.number)}\n{self.said()}\n{self.cluster.story()}")

    def going(self, start: int) -> None:
        """Wait until the job's start (0 is the first) has done three steps of its own."""
        self.cluster.until_state(self.number, "RUNNING", restarts=start)
        told = "starting in" if start == 0 else "going on at step"
        self.until(lambda: self.said().count(told) >= max(1, start))
        first = self.step()
        self.until(lambda: self.step() >= first + 3)

    def asked_to_stop(self, *by: str) -> None:
        """Have it stopped by a command of Slurm's; its ranks stand still until Slurm has sent its signal, which may take long."""
        ranks = self.cluster.processes(self.number, RANK)
        assert len(ranks) == 2
        for rank in ranks:
            os.kill(rank, signal.SIGSTOP)
        self.cluster.ask(*by)
        self.until(lambda: all(noticed(rank) for rank in ranks))
        for rank in ranks:
            with suppress(ProcessLookupError):
                os.kill(rank, signal.SIGCONT)

    def end(self) -> str:
        """Wait for the job's end: Slurm's word for it."""
        self.cluster.until_state(self.number, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        return self.cluster.job(self.number)["JobState"]


def noticed(pid: int) -> bool:
    """Whether a process that was stopped has a signal to handle, or goes on, or has ended."""
    try:
        status = dict(re.findall(r"^(\w+):\s*(\S+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE))
    except OSError:
        return True
    waiting = int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)
    return status["State"] != "T" or bool(waiting & (1 << signal.SIGTERM - 1 | 1 << signal.SIGUSR1 - 1))


@pytest.fixture(scope="module")
def alone(cluster: Cluster, torchx: Torchx, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Record]:
    """The trace of a run that no one ends, which ended with its table."""
    run = Run(cluster, torchx, tmp_path_factory.mktemp("alone"))
    assert run.end() == "COMPLETED", run.said()
    shown = torchx("log", f"slurm://torchx/{run.number}")
    assert "| what " in shown
    assert "| matching AUROC " in shown
    assert "State: SUCCEEDED" in torchx("status", f"slurm://torchx/{run.number}")
    due = trace(run.folder)
    assert sorted(due) == list(range(1, STEPS + 1))
    return due
