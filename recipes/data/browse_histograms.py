"""Histograms as numbers for an SVG: bins with round edges, and bars and ticks in the units of its viewBox."""

from collections.abc import Callable, Iterator, Sequence
from math import ceil, floor, log10
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 360, 170
"""Of the viewBox."""
LEFT, RIGHT, TOP, BOTTOM = 40, 350, 16, 136
"""Of the field of bars in it."""
_MOST = 40  # bars
_LABELS = 6  # along the axis, at most
_LABEL_WIDTH = 48  # in units of the viewBox
_FAR = 1.5  # times as far as the 99th percentile: what lies beyond goes into the last bar


class Bins(NamedTuple):
    """How many values there are in each of some intervals of one length."""

    first: int
    """The first interval begins at `first * step`."""
    step: float
    counts: list[int]
    is_open: bool
    """Whether the last interval has no end."""
    whole: bool
    """Whether the values are whole numbers."""


class Bar(NamedTuple):
    """A bin, drawn."""

    x: float
    y: float
    width: float
    height: float
    num: int
    told: str
    """Its values, in words."""


class Tick(NamedTuple):
    """A label on an axis."""

    at: float
    label: str


class Histogram(NamedTuple):
    """All that is drawn; without bars where all values are one."""

    title: str
    unit: str
    told: str
    """The values in a sentence."""
    bars: list[Bar]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    mark: Tick | None
    """A place of note."""


def histogram(
    title: str, values: Sequence[float], unit: str, *, mark: tuple[float, str] | None = None
) -> Histogram | None:
    """The histogram of some values; None if there are none.

    Args:
        title: what they are.
        values: whole numbers or others.
        unit: of the values.
        mark: where to draw a line, and its label; left out where that lies beyond the bars.
    """
    if not values:
        return None
    if min(values) == max(values):
        return Histogram(title, unit, f"all {len(values):,} are {number(values[0])}", [], [], [], None)
    found = bins(values)
    across = (RIGHT - LEFT) / len(found.counts)
    line = max(1, round(_round_up(max(found.counts) / 4)))
    lines = ceil(max(found.counts) / line)
    up = (BOTTOM - TOP) / (line * lines)

    def x(value: float) -> float:
        return round(LEFT + (value / found.step - found.first) * across, 1)

    bars = [
        Bar(
            round(LEFT + i * across, 1),
            round(BOTTOM - n * up, 1),
            round(across, 1),
            round(n * up, 1),
            n,
            _told(found, i),
        )
        for i, n in enumerate(found.counts)
    ]
    y_ticks = [Tick(round(BOTTOM - i * line * up, 1), number(i * line)) for i in range(lines + 1)]
    seen = mark is not None and LEFT < x(mark[0]) < RIGHT
    middle, most = np.percentile(values, (50, 90))
    told = f"median {number(middle)}, nine in ten at most {number(most)}, greatest {number(max(values))}"
    return Histogram(
        title, unit, told, bars, list(_x_ticks(found, x)), y_ticks, Tick(x(mark[0]), mark[1]) if mark and seen else None
    )


def bins(values: Sequence[float]) -> Bins:
    """At most 40 or so intervals with round ends, from the least value to the greatest, or to where few lie beyond."""
    low, high, far = min(values), max(values), float(np.percentile(values, 99))
    end = far if high - low > _FAR * (far - low) > 0 else high
    whole = all(float(value).is_integer() for value in values)
    step = _round_up((end - low) / (_MOST - 1)) if end > low else 1.0
    step = max(1.0, step) if whole else step
    places = np.floor(np.array(values) / step + 1e-9).astype(np.int64)
    first, last = floor(low / step + 1e-9), floor(end / step + 1e-9)
    counts = np.bincount(np.minimum(places, last) - first, minlength=last - first + 1)
    return Bins(first, step, counts.tolist(), bool(places.max() > last), whole)


def number(value: float) -> str:
    """A number as a person would write it."""
    return f"{value:,.0f}" if value >= 100 or float(value).is_integer() else f"{value:.3g}"


def _round_up(value: float) -> float:
    """The next of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** floor(log10(value) + 1e-9)
    return next(round(n * power, 12) for n in (1, 2, 5, 10) if n * power >= value * (1 - 1e-9))


def _told(found: Bins, place: int) -> str:
    begin, end = ((found.first + place + i) * found.step for i in (0, 1))
    if found.is_open and place == len(found.counts) - 1:
        return f"{_edge(found, begin)} or more"
    if found.whole:
        return _edge(found, begin) if found.step == 1 else f"{_edge(found, begin)} to {_edge(found, end - 1)}"
    return f"{_edge(found, begin)} to {_edge(found, end)}"


def _x_ticks(found: Bins, x: Callable[[float], float]) -> Iterator[Tick]:
    """Labels at round values: below the middle of a bar that holds one value, at the begin of others."""
    shift = found.step / 2 if found.whole and found.step == 1 else 0.0
    apart = max(found.step, _round_up(found.step * len(found.counts) / _LABELS))
    last = (found.first + len(found.counts) - 1) * found.step
    room = x(last + found.step / 2) - _LABEL_WIDTH if found.is_open else RIGHT
    for i in range(ceil(found.first * found.step / apart - 1e-9), floor((last + found.step) / apart + 1e-9) + 1):
        if (at := x(i * apart + shift)) <= room:
            yield Tick(at, _edge(found, i * apart))
    if found.is_open:
        yield Tick(x(last + found.step / 2), f"≥ {_edge(found, last)}")


def _edge(found: Bins, value: float) -> str:
    return f"{value:,.{max(0, -floor(log10(found.step) + 1e-9))}f}"
