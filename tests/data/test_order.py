"""The order is a permutation, its shares are exact, and it knows nothing of ranks."""

import pickle
import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchflava.data import order as order_module
from torchflava.data.order import Order, draw, draw_near, key, keyed_rng, numbers_of, permute, permute_near


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


@pytest.mark.parametrize("parts", [(0, "pmd", 0, 5), (1,), ("x", 2**63)])
def test_a_keyed_generator_is_philox_with_that_key(parts: tuple[object, ...]) -> None:
    fast, plain = keyed_rng(*parts), np.random.Generator(np.random.Philox(key=key(*parts)))
    for rng in (fast, copied := pickle.loads(pickle.dumps(fast))):
        assert rng.bit_generator.state["state"]["key"].tolist() == [key(*parts), 0]
    assert fast.random(9).tolist() == plain.random(9).tolist() == copied.random(9).tolist()
    assert fast.permutation(11).tolist() == plain.permutation(11).tolist()


def off(counts: np.ndarray, expected: float) -> float:
    """By how many standard deviations a chi-square of counts lies above what chance gives."""
    n = len(counts)
    freedom = (n - 1) ** 2
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


@pytest.mark.parametrize("n", [3, 5, 7, 20])
def test_every_place_is_equally_likely_for_every_number(n: int) -> None:
    """Four rounds alone are 6 deviations off for n = 5."""
    counts, at, draws = np.zeros((n, n)), np.arange(n, dtype=np.uint64), 1000
    for seed in range(draws):
        counts[at, permute(n, key(seed, "places"), at)] += 1
    assert off(counts, draws / n) < 4


def test_a_huge_order_is_even_and_unrelated_to_the_next_epochs_and_to_its_neighbours() -> None:
    n, drawn = 70_000_000, 40_000
    numbers = np.arange(drawn, dtype=np.uint64)
    first, second = (permute(n, key(0, "pmd", epoch), numbers).astype(float) / n for epoch in (0, 1))
    for other in (second, np.roll(first, 1), np.roll(first, 64), np.arange(drawn)):
        assert abs(np.corrcoef(first, other)[0, 1]) * np.sqrt(drawn) < 4
    bins = np.bincount((first * 400).astype(int), minlength=400)
    assert abs(((bins - 100) ** 2 / 100).sum() - 399) < 4 * np.sqrt(2 * 399)


def test_an_order_of_seventy_million_starts_at_once_and_in_little_memory() -> None:
    def start() -> None:
        step = Order({"pair": 0.70, "image": 0.15, "text": 0.15}, seed=1)(3_000_000)
        draw(70_000_000, "pmd", 1, numbers=numbers_of(step.turn, 8192, rank=0, world_size=64))

    start()
    seconds = []
    for _ in range(5):
        begin = time.process_time()  # by the clock a busy machine would fail it
        start()
        seconds.append(time.process_time() - begin)
    tracemalloc.start()
    start()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert min(seconds) < 0.05
    assert peak < 1 << 20


@given(n=st.integers(1, 300), epoch=st.integers(0, 5), seed=st.integers(0, 99), ranks=st.sampled_from([1, 2, 3, 4, 6]))
def test_ranks_are_disjoint_and_complete_over_an_epoch(n: int, epoch: int, seed: int, ranks: int) -> None:
    batch = 12
    first, last = epoch * n // batch, -(-(epoch + 1) * n // batch)
    seen: Counter[int] = Counter()
    for rank in range(ranks):
        for turn in range(first, last):
            drawn = draw(n, "s", seed, numbers=numbers_of(turn, batch, rank=rank, world_size=ranks))
            seen.update(d.at for d in drawn if d.epoch == epoch)
    assert seen == dict.fromkeys(range(n), 1)


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any),
    window=st.integers(1, 14),
    of=st.integers(0, 2**64 - 1),
)
def test_permute_near_visits_every_sample_once_and_few_shards_at_a_time(sizes: list[int], window: int, of: int) -> None:
    starts = np.cumsum([0, *sizes])
    n = int(starts[-1])
    seen = permute_near(starts, of, np.arange(n, dtype=np.uint64), window=window)
    assert sorted(seen.tolist()) == list(range(n))
    shards = np.searchsorted(starts, seen.astype(int), side="right") - 1
    # A shard is opened once, and is then one of at most `window` that are open.
    open_at = [{s for s in set(shards.tolist()) if s in shards[: i + 1] and s in shards[i:]} for i in range(n)]
    assert max(map(len, open_at)) <= window
    alone = [int(permute_near(starts, of, np.array([i], dtype=np.uint64), window=window)[0]) for i in range(n)]
    assert alone == seen.tolist()


@pytest.mark.parametrize("at_once", [1, 5, 4096])
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any),
    window=st.integers(1, 14),
    of=st.integers(0, 2**64 - 1),
)
def test_permute_near_is_that_of_all_shards_written_out(at_once: int, sizes: list[int], window: int, of: int) -> None:
    starts = np.cumsum([0, *sizes])
    shards = permute(len(sizes), key(of, "shards"), np.arange(len(sizes), dtype=np.uint64)).tolist()
    plain = []
    for first in range(0, len(sizes), window):
        samples = [at for s in shards[first : first + window] for at in range(starts[s], starts[s + 1])]
        if samples:
            order = permute(len(samples), key(of, first // window), np.arange(len(samples), dtype=np.uint64))
            plain += [samples[at] for at in order.tolist()]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(order_module, "_SHARDS_AT_ONCE", at_once)
        assert permute_near(starts, of, np.arange(starts[-1], dtype=np.uint64), window=window).tolist() == plain


def test_other_shards_are_not_taken_for_those_before() -> None:
    numbers = np.arange(12, dtype=np.uint64)
    for sizes in ([4, 4, 4], [1, 10, 1], [4, 4, 4]):
        assert sorted(permute_near(np.cumsum([0, *sizes]), 3, numbers, window=1).tolist()) == list(range(12))


def test_seventy_thousand_shards_start_at_once_and_in_little_memory() -> None:
    starts = np.arange(70_001) * 1000
    numbers = numbers_of(5_000, 8192, rank=0, world_size=64)
    seconds = []
    for seed in range(5):  # each an order of its own, so that nothing is left of the last
        begin = time.process_time()
        draw_near(starts, "pmd", seed, numbers=numbers, window=100)
        seconds.append(time.process_time() - begin)
    tracemalloc.start()
    draw_near(starts, "pmd", 5, numbers=numbers, window=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert min(seconds) < 0.05
    assert peak < 1 << 20


def test_epochs_of_permute_near_differ_and_shards_are_mixed_within_a_window() -> None:
    starts = np.arange(0, 1001, 50)
    numbers = np.arange(2000, dtype=np.uint64)
    drawn = draw_near(starts, "s", 0, numbers=numbers, window=4)
    first, second = [d.at for d in drawn[:1000]], [d.at for d in drawn[1000:]]
    assert first != second
    assert {d.epoch for d in drawn[:1000]} == {0}
    for window in range(5):
        in_window = np.array(first[200 * window : 200 * window + 200]) // 50
        assert len(set(in_window.tolist())) == 4
        assert len(set(in_window[:40].tolist())) == 4
    assert {d // 50 for d in first[:200]} != {d // 50 for d in second[:200]}


@pytest.mark.parametrize(("number", "window"), [(10, 2), (0, 0)])
def test_permute_near_refuses_what_lies_outside(number: int, window: int) -> None:
    with pytest.raises(
        ValueError, match=rf"a window of {window} shards must be 1 or more, and numbers lie in \[0, 10\)"
    ):
        permute_near(np.array([0, 4, 10]), 0, np.array([number], dtype=np.uint64), window=window)


def test_a_share_that_no_block_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="the share of b is less than one in 1000"):
        Order({"a": 1 - 1e-5, "b": 1e-5}, 0)


def test_places_are_those_of_the_steps_one_by_one() -> None:
    order = Order({"a": 0.6, "b": 0.3, "c": 0.1}, seed=2)
    steps = np.array([25, 3, 4, 104, 26], dtype=np.uint64)
    kinds, turns = order.places(steps)
    assert [(order.kinds[k], int(t)) for k, t in zip(kinds, turns, strict=True)] == [order(int(s)) for s in steps]


def test_shares_over_ten_thousand_draws_are_the_papers() -> None:
    order = Order({"pair": 0.70, "image": 0.15, "text": 0.15}, seed=11)
    kinds, _ = order.places(np.arange(10_000, dtype=np.uint64))
    counts = dict(zip(order.kinds, np.bincount(kinds).tolist(), strict=True))
    assert counts == {"pair": 7000, "image": 1500, "text": 1500}
    odd, _ = order.places(np.arange(7, 10_007, dtype=np.uint64))  # from within a block: off by less than a block
    assert abs(np.bincount(odd) - np.bincount(kinds)).max() < 7
