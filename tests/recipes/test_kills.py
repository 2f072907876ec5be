"""A run killed at random moments, some in the middle of a save, logs to the bit what one logs that was left alone."""

import os
import time
from pathlib import Path
from random import Random

import pytest
from killed import Job, Record, saving, trace, whole

KILLS = int(os.environ.get("TORCHFLAVA_KILLS", "5"))
"""20 for the long version, which has the 200 steps of a run."""
STEPS = 200 if KILLS > 5 else 60
SMALL = ["--preset", "tiny", "--name", "run", "--save-every", "10", "--vocab-size", "120", "--max-length", "12"]


def command(folder: Path, steps: int, *words: str) -> list[str]:
    return [*SMALL, "--steps", str(steps), "--folder", str(folder), *words]


def alone(folder: Path, ranks: int, steps: int) -> dict[int, Record]:
    """The trace of a run that no one ends."""
    assert Job(command(folder, steps), ranks).join() == [0] * ranks
    return trace(folder / "run")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_joined_trace_of_a_killed_run_is_that_of_an_uninterrupted_one(tmp_path: Path) -> None:
    due, rng, folder = alone(tmp_path / "alone", 2, STEPS), Random(KILLS), tmp_path / "killed" / "run"
    assert sorted(due) == list(range(1, STEPS + 1))
    killed = in_a_save = 0
    while killed < KILLS:
        job = Job(command(tmp_path / "killed", STEPS), 2, slow=0.05)
        if killed % 2:  # in a save
            alive = job.until(lambda began=job.began: saving(folder, began))  # type: ignore[misc]
            time.sleep(rng.uniform(0, 0.1))
        else:  # right after the first step, later a few steps past what was saved
            first = max(whole(folder), default=0) + (rng.randint(1, 15) if killed else 1)
            alive = job.until(lambda n=first: max(trace(folder), default=0) >= n)  # type: ignore[misc]
            time.sleep(rng.uniform(0, 0.05) if killed else 0)
        assert alive, f"the run ended before kill {killed + 1}"
        job.kill(first=rng.randrange(2))
        in_a_save += saving(folder, job.began)
        killed += 1
        whole(folder)
        assert all(due[step] == record for step, record in trace(folder).items())
    assert in_a_save >= KILLS // 4
    assert Job(command(tmp_path / "killed", STEPS), 2).join() == [0, 0]
    assert trace(folder) == due
    assert [path.name for path in sorted(folder.glob("step-*"))] == [f"step-{n:08d}" for n in (STEPS - 10, STEPS)]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_ranks_then_four_then_one_see_the_same(tmp_path: Path) -> None:
    """Each start but the last is ended by a signal to one rank, which all of them answer after the same step."""
    due, folder = alone(tmp_path / "alone", 2, 36), tmp_path / "moved" / "run"
    for ranks, after in ((2, 12), (4, 24)):
        job = Job(command(tmp_path / "moved", 36), ranks)
        assert job.until(lambda n=after: max(trace(folder), default=0) >= n)  # type: ignore[misc]
        job.terminate(ranks - 1)
        assert job.join() == [75] * ranks
        assert max(whole(folder)) == max(trace(folder)) >= after
    assert Job(command(tmp_path / "moved", 36), 1).join() == [0]
    got = trace(folder)
    assert got.keys() == due.keys()
    for step, record in due.items():
        assert got[step] == pytest.approx(record, rel=1e-3), step
