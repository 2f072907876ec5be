"""The goals of speed and memory beside what was measured, as a table that says which of them are not reached.

A ratio is taken within each turn, in which all sides ran one after the other; the median over turns counts, and the least and the
greatest are told. The better peer is the one with the better median.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

SHARES = {"pair": 0.70, "image": 0.15, "text": 0.15}
"""Of the steps of each kind (paper §4.1)."""


class Goal(NamedTuple):
    """A line of the table."""

    what: str
    goal: float
    ours: Sequence[float]
    """A number for each turn; none if it was not measured."""
    peers: Mapping[str, Sequence[float]]
    """By name; empty where `ours` is a share of what the machine can do."""
    unit: str = "s"
    at_most: bool = False
    """Whether the ratio is ours / theirs, to be small; else theirs / ours, to be great."""


def table(goals: Iterable[Goal]) -> list[str]:
    """In Markdown."""
    return [
        "| what | ours | better peer | ratio (least to greatest) | goal | |",
        "|---|--:|--:|--:|--:|---|",
        *(line(goal) for goal in goals),
    ]


def line(goal: Goal) -> str:
    """Of the table."""
    sign = "≤" if goal.at_most else "≥"
    if not goal.ours or not all(goal.peers.values()):
        return f"| {goal.what} | | | | {sign} {goal.goal} | not measured |"
    mine = _number(statistics.median(goal.ours), goal.unit)
    found, told = ratios(goal), ""
    if goal.peers:
        name = better(goal.peers)
        told = f"{name}, {_number(statistics.median(goal.peers[name]), goal.unit)}"
    middle = statistics.median(found)
    spread = f"{middle:.2f} ({min(found):.2f} to {max(found):.2f})"
    return f"| {goal.what} | {mine} | {told} | {spread} | {sign} {goal.goal} | {'reached' if reached(goal) else 'not reached'} |"


def reached(goal: Goal) -> bool:
    """By the median."""
    middle = statistics.median(ratios(goal))
    return middle <= goal.goal if goal.at_most else middle >= goal.goal


def ratios(goal: Goal) -> list[float]:
    """Turn by turn."""
    if not goal.peers:
        return list(goal.ours)
    theirs = goal.peers[better(goal.peers)]
    both = zip(goal.ours, theirs, strict=True)
    return [mine / their if goal.at_most else their / mine for mine, their in both]


def better(peers: Mapping[str, Sequence[float]]) -> str:
    """The peer that takes less."""
    return min(peers, key=lambda name: statistics.median(peers[name]))


def weighted(by_kind: Mapping[str, Sequence[float]]) -> list[float]:
    """Seconds by kind, turn by turn -> of a step of the mixture; none unless all three kinds were measured."""
    if any(not by_kind.get(kind) for kind in SHARES):
        return []
    turns = zip(*(by_kind[kind] for kind in SHARES), strict=True)
    return [sum(share * took for share, took in zip(SHARES.values(), turn, strict=True)) for turn in turns]


def _number(value: float, unit: str) -> str:
    if unit == "s":
        return f"{value:.3f} s" if value < 10 else f"{value:.1f} s"
    return f"{value:,.0f} {unit}" if unit else f"{value:.2f}"
