"""Histograms of recipes/data/browse_histograms.py: every value in one bin, bins with round edges, labels that do not overlap."""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/data"))  # as `python recipes/data/browse.py` does

from browse_histograms import BOTTOM, LEFT, RIGHT, TOP, bins, histogram, number
from browse_page import share, size

WHOLE = st.lists(st.integers(0, 10**6), min_size=1, max_size=60)
OTHERS = st.lists(st.floats(0.01, 100), min_size=1, max_size=60)


@given(st.one_of(WHOLE, OTHERS))
def test_every_value_is_counted_in_the_bin_that_holds_it(values: list[float]) -> None:
    found = bins(values)
    assert sum(found.counts) == len(values)
    assert len(found.counts) <= 42
    mantissa = found.step / 10.0 ** np.floor(np.log10(found.step) + 1e-9)
    assert round(mantissa, 6) in (1, 2, 5)
    near = 1e-6 * found.step
    for place, num in enumerate(found.counts):
        begin = (found.first + place) * found.step
        end = float("inf") if found.is_open and place == len(found.counts) - 1 else begin + found.step
        inside = [v for v in values if begin + near <= v < end - near]
        touching = [v for v in values if begin - near <= v < end + near]
        assert len(inside) <= num <= len(touching)


@given(st.one_of(WHOLE, OTHERS))
def test_bars_and_labels_stay_in_the_field_and_apart(values: list[float]) -> None:
    drawn = histogram("of", values, "units")
    assert drawn is not None
    assert sum(bar.num for bar in drawn.bars) == (len(values) if min(values) < max(values) else 0)
    for bar in drawn.bars:
        assert bar.x >= LEFT
        assert bar.x + bar.width <= RIGHT + 0.5
        assert bar.y >= TOP - 0.1
        assert bar.y + bar.height == pytest.approx(BOTTOM, abs=0.11)
    widths = [(tick.at, 6.2 * len(tick.label)) for tick in drawn.x_ticks]  # 11 px: no digit is wider
    for (at, width), (then, next_width) in pairwise(widths):
        assert then - at > (width + next_width) / 2


def test_a_long_tail_goes_into_an_open_bar() -> None:
    values = [*range(100)] * 10 + [10_000]
    drawn = histogram("of", values, "units", mark=(50, "half"))
    assert drawn is not None
    assert drawn.bars[-1].told == "95 or more"
    assert drawn.bars[-1].num == 51
    assert drawn.bars[0].told == "0 to 4"
    assert drawn.x_ticks[-1].label == "\u2265 95"
    assert drawn.told == "median 50, nine in ten at most 90, greatest 10,000"
    shorter = histogram("of", [*range(84)] * 10 + [10_000], "units")
    assert shorter is not None
    assert [tick.label for tick in shorter.x_ticks] == ["0", "20", "40", "60", "\u2265 80"]  # 80 has no room
    assert drawn.mark is not None
    assert drawn.mark.at == pytest.approx((LEFT + RIGHT) / 2, abs=0.1)


def test_one_value_alone_is_a_sentence_and_none_is_nothing() -> None:
    drawn = histogram("of", [64, 64], "units", mark=(3, "far"))
    assert drawn is not None
    assert (drawn.told, drawn.bars, drawn.mark) == ("all 2 are 64", [], None)
    assert histogram("of", [], "units") is None


@pytest.mark.parametrize(
    ("value", "told"), [(3, "3"), (3.0, "3"), (1234.5, "1,234"), (0.12345, "0.123"), (12.34, "12.3"), (99.99, "100")]
)
def test_numbers(value: float, told: str) -> None:
    assert number(value) == told


@pytest.mark.parametrize(
    ("num_bytes", "told"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (12_345, "12 kB"),
        (999_600, "1.0 MB"),
        (5e9, "5.0 GB"),
        (3e16, "30,000 TB"),
    ],
)
def test_sizes(num_bytes: float, told: str) -> None:
    assert size(num_bytes) == told


def test_shares() -> None:
    assert [share(part) for part in (0, 0.0012345, 0.15, 0.6667, 0.9971, 1)] == [
        *("0 %", "0.123 %", "15 %", "66.7 %", "99.7 %", "100 %")
    ]
