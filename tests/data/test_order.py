"""The order is a permutation, its shares are exact, and it knows nothing of ranks."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchflava.data.order import Order, draw, key, keyed_rng, numbers_of, permute


@given(n=st.integers(1, 2000), of=st.integers(0, 2**64 - 1))
def test_permute_visits_every_index_once(n: int, of: int) -> None:
    seen = permute(n, of, np.arange(n, dtype=np.uint64))
    assert sorted(seen.tolist()) == list(range(n))


@given(n=st.integers(2**40, 2**50), index=st.integers(0, 2**40 - 1))
def test_permute_of_a_huge_range_stays_inside_and_is_the_same_alone_and_in_a_batch(n: int, index: int) -> None:
    alone = permute(n, 7, index)
    together = permute(n, 7, np.array([0, index, 5], dtype=np.uint64))
    assert alone[0] == together[1]
    assert int(alone[0]) < n


def test_permute_moves_and_differs_by_key() -> None:
    n = 1000
    at = np.arange(n, dtype=np.uint64)
    one, other = permute(n, key(0, "a", 0), at), permute(n, key(0, "a", 1), at)
    assert (one == at).mean() < 0.02
    assert (one == other).mean() < 0.02
    # Neighbours must not stay neighbours: the mean step of a random order of n is n / 3.
    assert abs(np.diff(one.astype(int))).mean() == pytest.approx(n / 3, rel=0.1)


def test_permute_refuses_an_index_outside() -> None:
    with pytest.raises(ValueError, match=r"index 5 lies outside \[0, 5\)"):
        permute(5, 0, 5)


def test_every_block_of_twenty_has_the_papers_shares() -> None:
    order = Order({"pair": 0.70, "image": 0.15, "text": 0.15}, seed=3)
    kinds = [order(step).kind for step in range(400)]
    for block in range(20):
        assert Counter(kinds[block * 20 : block * 20 + 20]) == {"pair": 14, "image": 3, "text": 3}
    assert kinds[:20] != kinds[20:40]


@settings(max_examples=30)
@given(weights=st.lists(st.integers(1, 9), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_turns_count_up_without_a_gap_for_any_shares(weights: list[int], seed: int) -> None:
    shares = {f"k{i}": w / sum(weights) for i, w in enumerate(weights)}
    order = Order(shares, seed)
    turns: Counter[str] = Counter()
    for step in range(120):
        place = order(step)
        assert place.turn == turns[place.kind]
        turns[place.kind] += 1


def test_shares_are_kept_within_sampling_error_of_nothing() -> None:
    order = Order({"a": 1 / 3, "b": 1 / 7, "c": 1 - 1 / 3 - 1 / 7}, seed=0)
    counts = Counter(order(step).kind for step in range(2100))
    assert counts == {"a": 700, "b": 300, "c": 1100}


@pytest.mark.parametrize("shares", [{"a": 1.0, "b": 0.0}, {"a": 0.5}, {"a": 1.5, "b": -0.5}])
def test_bad_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must each be above 0"):
        Order(shares, 0)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_a_batch_whatever_their_number(world_size: int) -> None:
    numbers = numbers_of(5, 8, rank=0, world_size=1)
    whole = {(int(n), drawn) for n, drawn in zip(numbers, draw(13, "s", 0, numbers=numbers), strict=True)}
    parts = [numbers_of(5, 8, rank=rank, world_size=world_size) for rank in range(world_size)]
    union = {(int(n), d) for part in parts for n, d in zip(part, draw(13, "s", 0, numbers=part), strict=True)}
    assert union == whole


def test_a_batch_that_ranks_cannot_share_is_an_error() -> None:
    with pytest.raises(ValueError, match="batch of 10 cannot be shared evenly by 4"):
        numbers_of(0, 10, rank=0, world_size=4)


def test_an_epoch_draws_every_sample_once_and_the_next_in_another_order() -> None:
    n = 37
    numbers = np.arange(2 * n, dtype=np.uint64)
    drawn = draw(n, "s", 0, numbers=numbers)
    first, second = [d.at for d in drawn[:n]], [d.at for d in drawn[n:]]
    assert [d.epoch for d in drawn] == [0] * n + [1] * n
    assert sorted(first) == sorted(second) == list(range(n))
    assert first != second


def test_keyed_generators_repeat_and_differ() -> None:
    assert keyed_rng(1, "a", 0, 5).random() == keyed_rng(1, "a", 0, 5).random()
    assert keyed_rng(1, "a", 0, 5).random() != keyed_rng(1, "a", 0, 6).random()
