"""Ranks, and runs that go on, that follow another order are told by name."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.fspath(Path(__file__).parents[1] / "distributed"))

from ranks import on_ranks

from torchflava.data.agreement import agree, same


def agreeing(rank: int, world_size: int) -> bool:
    for step in range(3):
        agree(f"step {step}, pair from sample {8 * step}")
    return True


def one_apart(rank: int, world_size: int) -> str:
    with pytest.raises(ValueError, match="ranks follow different orders") as caught:
        agree(f"step 4, {'image' if rank == 1 else 'pair'} from sample 16 {'é' * 400}")
    return str(caught.value)


def one_number_apart(rank: int, world_size: int) -> str:
    with pytest.raises(ValueError, match="ranks follow different orders") as caught:
        agree(f"sample {8 if rank == 1 else 9}")
    return str(caught.value)


def test_a_rank_with_another_order_is_named_on_every_rank() -> None:
    outcome = on_ranks(3, agreeing, one_apart, one_number_apart)
    assert outcome[agreeing] == [True, True, True]
    for told in outcome[one_apart]:
        assert "ranks 0, 2 at step 4, pair from sample 16" in told
        assert "rank 1 at step 4, image from sample 16" in told
    for told in outcome[one_number_apart]:
        assert "ranks 0, 2 at sample 9; rank 1 at sample 8; start them all" in told


def test_alone_there_is_nothing_to_agree_on() -> None:
    agree("anything")


def test_what_differs_is_named_as_it_was_and_is() -> None:
    was = {"step": 3, "sources": {"pair": {"sources": [{"name": "a", "length": 3}]}}, "seed": 1}
    same(was, dict(reversed(was.items())))
    same({"a": (1, 2)}, {"a": [1, 2]})
    same({"a": [1, 2]}, {"a": (1, 2)})
    now = {"step": 3, "sources": {"pair": {"sources": [{"name": "a", "length": 4}]}}, "shares": 2}
    with pytest.raises(ValueError, match="the data would not go on as it began") as caught:
        same(was, now)
    told = str(caught.value)
    assert "sources.pair.sources.0.length was 3, is 4" in told
    assert "seed was 1, is 'missing'" in told
    assert "shares was 'missing', is 2" in told
    assert "step" not in told
