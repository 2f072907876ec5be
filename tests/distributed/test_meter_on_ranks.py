"""A record is the same to the bit whether its steps were in one start or in two; other numbers of ranks go on with means."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import Outcome, on_ranks

from torchflava.training import Meter

STEPS, STOP = 7, 3
Log = list[dict[str, float]]


def add(meter: Meter, steps: range, rank: int) -> None:
    for step in steps:
        loss = torch.tensor((step + 1.1) ** 0.5 / (rank + 1))
        kind = "text" if step == 1 else "pair"
        meter.add(kind, {"mlm": loss}, samples=1, waited=0.0, lr=0.1, norm=None if step == 2 else loss / 3)
        meter.step(step + 1)


def record(meter: Meter) -> dict[str, float]:
    (line,) = (meter.folder / "log.jsonl").read_text().splitlines() if meter.folder else ["{}"]
    meter.close()
    return {
        name: value for name, value in json.loads(line).items() if name in ("pair/mlm", "text/mlm", "step/grad_norm")
    }


def interrupted(rank: int, ranks: int) -> tuple[Any, Any, Any]:
    """The record of one start, of two starts, and the state between the two."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        meter = Meter(Path(one) if rank == 0 else None, STEPS, STEPS)
        add(meter, range(STEPS), rank)
        first = Meter(None, STEPS, STEPS)
        add(first, range(STOP), rank)
        state = json.loads(json.dumps(first.state()))
        second = Meter(Path(two) if rank == 0 else None, STEPS, STEPS, start=STOP)
        second.load(state)
        add(second, range(STOP, STEPS), rank)
        return record(meter), record(second), state


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return on_ranks(2, interrupted)


def test_a_record_over_two_starts_is_that_of_one(outcome: Outcome) -> None:
    (whole, joined, state), (_, _, other) = outcome[interrupted]
    assert whole == joined
    assert set(whole) == {"pair/mlm", "text/mlm", "step/grad_norm"}
    assert state == other
    assert [len(values) for values in state["pair/mlm"]] == [2, 2]


def test_one_rank_goes_on_with_the_mean_of_two(outcome: Outcome) -> None:
    state = outcome[interrupted][0][2]
    alone = Meter(None, STEPS, STEPS)
    alone.load(state)
    means = [(a + b) / 2 for (a, _), (b, _) in zip(*state["pair/mlm"], strict=True)]
    assert [value for value, _ in alone.state()["pair/mlm"][0]] == pytest.approx(means)


def test_what_is_not_fine_on_a_rank_is_left_out_of_the_mean_it_goes_on_with() -> None:
    alone = Meter(None, STEPS, STEPS)
    alone.load({"pair/mlm": [[[4.0, 1.0], [3.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [5.0, 1.0], [0.0, 0.0]]]})
    assert alone.state()["pair/mlm"] == [[[4.0, 1.0], [4.0, 1.0], [0.0, 0.0]]]
