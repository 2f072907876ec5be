"""A first signal is noted, its echo passed over, a second one ends the process; ranks stop together; errors tell where."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from torchflava.training import StopSignals, session
from torchflava.training import signals as signals_module


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_noted_and_the_handlers_of_before_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with session(0, "cpu"), StopSignals() as stop:
        assert not stop.asked(1)
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # torchrun's, of the scheduler's to every process
        assert stop.asked(2)
        assert stop.asked(3)
        stop.meet()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(number) is before


def signalled_twice(folder: str) -> None:
    signals_module._ECHO = 0.05
    with session(0, "cpu"), StopSignals():
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.1)
        Path(folder, "still here").touch()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    process = multiprocessing.get_context("forkserver").Process(target=signalled_twice, args=(str(tmp_path),))
    process.start()
    process.join(200)
    assert process.exitcode == 128 + signal.SIGTERM
    assert (tmp_path / "still here").exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize(("steps", "told"), [(1, "before the first step"), (8, "after step 7")])
def test_an_error_tells_its_rank_and_step(steps: int, told: str, error: type[BaseException]) -> None:
    def fail() -> None:
        with session(0, "cpu"), StopSignals() as stop:
            for step in range(steps):
                stop.asked(step)
            raise error("a bad sample")

    with pytest.raises(error, match="a bad sample") as caught:
        fail()
    assert caught.value.__notes__ == [f"This was on rank 0 of 1, {told}."]
