"""A number that an evaluation read off a model, beside what a model that knows nothing would get."""

from collections.abc import Sequence
from typing import NamedTuple


class Reading(NamedTuple):
    """One row of a table of results."""

    name: str
    value: float
    chance: float
    """What guessing gets; for a loss, the entropy of its labels."""


def table(readings: Sequence[Reading]) -> str:
    """The readings as a Markdown table; without any, its head alone."""
    width = max([len("what"), *(len(r.name) for r in readings)])
    lines = [f"| {'what':{width}} | reached | chance |", f"|{'-' * (width + 2)}|--------:|-------:|"]
    lines += [f"| {r.name:{width}} | {r.value:7.3f} | {r.chance:6.3f} |" for r in readings]
    return "\n".join(lines)
