"""A signal to one rank stops all of them after the same step, and agreeing costs little."""

import os
import signal
import time
from itertools import pairwise

import pytest
from ranks import Outcome, on_ranks

from torchflava.training import StopSignals


def stopped_at(rank: int, ranks: int) -> int:
    """The step after which this rank stops; the last one has its signal in step 4, and is the slowest."""
    with StopSignals() as stop:
        for step in range(1, 100):
            if rank == ranks - 1:
                time.sleep(0.02)
                if step == 4:
                    os.kill(os.getpid(), signal.SIGUSR1)
            if stop.asked(step):
                stop.meet()
                return step
    return -1


def cost(rank: int, ranks: int) -> float:
    """Seconds a step, in the best of ten parts of twenty: others who use the cores are not counted, a wait in each step is."""
    with StopSignals() as stop:
        stop.asked(0)
        ends = [time.perf_counter()]
        for _ in range(10):
            for step in range(20):
                assert not stop.asked(step)
            ends.append(time.perf_counter())
        return min(later - earlier for earlier, later in pairwise(ends)) / 20


@pytest.fixture(scope="module", params=[2, 3])
def outcome(request: pytest.FixtureRequest) -> Outcome:
    return on_ranks(request.param, stopped_at, cost)


def test_all_ranks_stop_after_the_step_in_which_one_was_asked(outcome: Outcome) -> None:
    assert set(outcome[stopped_at]) == {4}


def test_agreeing_takes_milliseconds_at_most(outcome: Outcome) -> None:
    assert max(outcome[cost]) < 0.02  # measured: 0.1 to 0.3 ms where no one else uses the cores
