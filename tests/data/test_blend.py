"""A blend sees each sample once by size, and in exact shares by weight; its samples are those of their own sources."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchflava.data.blend import Blend, Chosen, Nearby, choose, told
from torchflava.data.order import draw

PMD = {"coco": 0.9, "sbu": 1.0, "localized": 1.9, "cc3m": 3.1, "vg": 5.4, "wit": 4.8, "cc12m": 11.0, "redcaps": 11.6,
       "yfcc": 30.3}  # fmt: skip
"""Millions of pairs (paper, table 1)."""


class Captions:
    """Captions that tell their source and index."""

    def __init__(self, name: str, n: int) -> None:
        self.name, self.n = name, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> str:
        assert 0 <= index < self.n
        return f"{self.name} {index}"

    def caption(self, index: int) -> str:
        return self[index].upper()


class Sharded(Captions):
    """The same, in shards."""

    def __init__(self, name: str, sizes: list[int]) -> None:
        super().__init__(name, sum(sizes))
        self.starts = np.cumsum([0, *sizes])


def numbers(start: int, stop: int) -> np.ndarray:
    return np.arange(start, stop, dtype=np.uint64)


def names(chosen: list[Chosen]) -> list[tuple[str, int, int]]:
    return [(c.source.name, c.epoch, c.at) for c in chosen]


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=9), epoch=st.integers(0, 3), seed=st.integers(0, 9))
def test_by_size_an_epoch_of_the_whole_sees_each_sample_once(sizes: list[int], epoch: int, seed: int) -> None:
    blend = Blend("all", [Captions(f"s{i}", n) for i, n in enumerate(sizes)])
    n = len(blend)
    seen = names(choose(blend, seed, numbers=numbers(epoch * n, epoch * n + n)))
    assert sorted(seen) == sorted((f"s{i}", epoch, at) for i, size in enumerate(sizes) for at in range(size))


def test_by_weight_blocks_hold_each_share_exactly_and_ten_thousand_draws_nearly() -> None:
    blend = Blend("pmd", [Captions(name, 50) for name in PMD], PMD)
    seen = [name for name, _, _ in names(choose(blend, 3, numbers=numbers(0, 10_500)))]
    assert Counter(seen) == {name: round(150 * size) for name, size in PMD.items()}  # fifteen blocks of 700
    counts = Counter(seen[293:10_293])
    for name, size in PMD.items():
        assert abs(counts[name] - 10_000 * size / 70) < 3 * np.sqrt(10_000 * size / 70)
    assert seen[:700] != seen[700:1400]


def test_by_weight_each_source_goes_through_its_own_epochs_in_its_own_order() -> None:
    """The samples of a source are those that it gives alone, one after the other."""
    sources = [Captions("a", 7), Captions("b", 11)]
    seen = names(choose(Blend("both", sources, {"b": 1, "a": 3}), 5, numbers=numbers(0, 400)))
    for source, count in zip(sources, (300, 100), strict=True):
        alone = [(source.name, *drawn) for drawn in draw(len(source), source.name, 5, numbers=numbers(0, count))]
        assert [s for s in seen if s[0] == source.name] == alone


def test_a_number_means_the_same_alone_and_among_others() -> None:
    sources = [Captions("a", 7), Sharded("b", [3, 5, 3])]
    for source in (Blend("w", sources, {"a": 0.31, "b": 0.69}), Blend("s", sources), Nearby(sources[1], 2)):
        together = choose(source, 1, numbers=numbers(0, 60))
        shuffled = choose(source, 1, numbers=numbers(0, 60)[::-1])
        assert shuffled == together[::-1]
        assert [choose(source, 1, numbers=numbers(i, i + 1))[0] for i in range(60)] == together


def test_the_order_of_the_weights_changes_nothing() -> None:
    sources = [Captions("a", 7), Captions("b", 11)]
    one = choose(Blend("w", sources, {"a": 1, "b": 2}), 1, numbers=numbers(0, 99))
    assert choose(Blend("w", sources[::-1], {"b": 4, "a": 2}), 1, numbers=numbers(0, 99)) == one


def test_blends_of_other_names_draw_in_other_orders() -> None:
    sources, weights = [Captions("a", 7), Captions("b", 11)], {"a": 1.0, "b": 1.0}
    one, other = (names(choose(Blend(name, sources, weights), 1, numbers=numbers(0, 99))) for name in "vw")
    assert [name for name, _, _ in one] != [name for name, _, _ in other]


def test_indices_and_captions_run_through_the_sources() -> None:
    blend = Blend("all", [Captions("a", 2), Captions("b", 3)])
    assert [blend[i] for i in range(len(blend))] == ["a 0", "a 1", "b 0", "b 1", "b 2"]
    assert blend.caption(3) == "B 1"
    for outside in (-1, 5):
        with pytest.raises(IndexError, match=f"all: index {outside} lies outside"):
            blend.locate(outside)


@pytest.mark.parametrize("window", [1, 3, 50])
def test_nearby_draws_all_of_an_epoch_from_few_shards_at_a_time(window: int) -> None:
    parts = [Sharded("a", [5, 0, 9, 4]), Sharded("b", [6, 6, 2, 8, 1])]
    near = Nearby(Blend("both", parts), window)
    n = len(near)
    assert near.starts.tolist() == [0, 5, 5, 14, 18, 24, 30, 32, 40, 41]
    for epoch in (0, 1):
        seen = names(choose(near, 4, numbers=numbers(epoch * n, epoch * n + n)))
        assert sorted(seen) == sorted((p.name, epoch, at) for p in parts for at in range(len(p)))
        starts = {p.name: p.starts for p in parts}
        shards = [(name, int(np.searchsorted(starts[name], at, side="right"))) for name, _, at in seen]
        open_at = [len({s for s in set(shards) if s in shards[: i + 1] and s in shards[i:]}) for i in range(n)]
        assert max(open_at) <= window
        assert window == 1 or max(open_at) > 1
    assert near[3] == "a 3"
    assert near.caption(20) == "B 2"


def test_nearby_sources_keep_their_windows_in_a_blend_by_weight() -> None:
    near = Nearby(Sharded("a", [4] * 10), 2)
    seen = names(choose(Blend("w", [near, Captions("b", 9)], {"a": 1, "b": 1}), 0, numbers=numbers(0, 80)))
    assert [s for s in seen if s[0] == "a"] == names(choose(near, 0, numbers=numbers(0, 40)))


def test_what_an_order_depends_on_is_told() -> None:
    a, b = Captions("a", 7), Sharded("b", [3, 5])
    assert told(a) == {"name": "a", "length": 7}
    assert told(Blend("w", [a, b])) != told(Blend("w", [b, a]))
    assert told(Blend("w", [a, b], {"a": 1, "b": 1})) != told(Blend("w", [a, b], {"a": 1, "b": 2}))
    kinds = [told(x) for x in (b, Nearby(b, 1), Nearby(b, 2), Nearby(Sharded("b", [5, 3]), 2))]
    assert all(one != other for i, one in enumerate(kinds) for other in kinds[:i])


A, B = Captions("a", 7), Captions("b", 11)


@pytest.mark.parametrize(
    ("sources", "weights", "told"),
    [
        ([], None, "blend x is of no sources"),
        ([A, A], None, r"blend x is of \['a', 'a'\]; give one or more, each with its own name"),
        ([A, Captions("c", 0)], None, "blend x: c is empty; leave it out"),
        ([A, B], {"a": 1.0, "b": 0.0}, r"weights {'b': 0.0} must be above 0; leave a source of weight 0 out"),
        ([A, B], {"a": 1.0, "b": float("nan")}, "must be above 0"),
        ([A, B], {"a": 1.0, "b": float("inf")}, "must be above 0"),
        ([A, B], {"a": 1.0}, r"has weights for \['a'\] and sources \['a', 'b'\]"),
        ([A, B], {"a": 1.0, "b": 1e-6}, "the share of b is less than one in 10000"),
        ([A, Blend("b", [B])], None, "holds another blend"),
        ([A, Nearby(Blend("b", [Sharded("c", [1])]), 1)], {"a": 1.0, "b": 1.0}, "holds another blend"),
        ([A, Nearby(Sharded("b", [1]), 1)], None, "wrap the blend in Nearby instead"),
    ],
)
def test_what_a_blend_refuses(sources: list[Captions], weights: dict[str, float] | None, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Blend("x", sources, weights)


def test_what_nearby_refuses() -> None:
    with pytest.raises(ValueError, match="a does not say where its shards start"):
        Nearby(A, 2)
    with pytest.raises(ValueError, match="b: a window of 0 shards must be 1 or more"):
        Nearby(Sharded("b", [1]), 0)
    with pytest.raises(ValueError, match="b draws in its own order"):
        Nearby(Nearby(Sharded("b", [1]), 2), 2)
    with pytest.raises(ValueError, match="w draws in its own order"):
        Nearby(Blend("w", [A, B], {"a": 1, "b": 1}), 2)
