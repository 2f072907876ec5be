"""A wish to stop, from outside: SIGTERM or SIGUSR1 to any rank stops all of them after the same step.

Schedulers send SIGTERM before they take a machine away, and SIGUSR1 some time before a job's time is up, where asked to
(`sbatch --signal=USR1@60`). A job that leaves with a code other than 0 is started again by those who were told to.
"""

import os
import signal
import time
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from torchflava.distributed import rank, world_size

REQUEUE = 75
"""To leave with: EX_TEMPFAIL of sysexits.h, "try again later"."""

_STOPPING = (signal.SIGTERM, signal.SIGUSR1)
_ECHO = 1.0  # seconds in which the same wish may come again: Slurm signals each process, and torchrun hands its own signal on


class StopSignals:
    """Notes the signals that ask to stop while a `with` block runs; entered by every rank of a group, from the main thread.

    The first one is noted. One that comes more than a second later ends the process at once. After the block signals
    do what they did before, and an error that left it tells its rank and step.
    """

    def __init__(self) -> None:
        self._first: float | None = None
        self._doing = "before the first step"
        self._before: dict[int, Any] = {}
        self._group: Any = None

    def __enter__(self) -> "StopSignals":
        if world_size() > 1:
            self._group = dist.new_group(backend="gloo")  # of its own, and on the CPU: no device is waited for
        self._before = {number: signal.signal(number, self._note) for number in _STOPPING}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, Exception | KeyboardInterrupt):
            error.add_note(f"This was on rank {rank()} of {world_size()}, {self._doing}.")

    def begins(self, step: int, kind: str) -> None:
        """Note which step is under way, for an error to tell.

        Args:
            step: counted from 1.
            kind: of its batch.
        """
        self._doing = f"in step {step}, with a batch of kind {kind}"

    def asked(self, step: int) -> bool:
        """Whether any rank has been asked to stop; the same answer on all. Called by every rank after each step.

        Args:
            step: the steps done; 0 before the first.
        """
        self._doing = f"after step {step}" if step else "before the first step"
        asked = self._first is not None
        if self._group is None:
            return asked
        votes = torch.tensor([asked], dtype=torch.uint8)
        dist.all_reduce(votes, dist.ReduceOp.MAX, group=self._group)
        return bool(votes)

    def meet(self) -> None:
        """Wait for all ranks: the first that leaves would have torchrun end the others, in the middle of a save."""
        if self._group is not None:
            dist.barrier(self._group)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
        elif now - self._first > _ECHO:
            os._exit(128 + number)
