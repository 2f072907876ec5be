"""What stands where in the embedded default data: one to three things, each a colour, a shape and a size, in clear relations.

Everything is ours. Lengths are in units of the image's side, x to the right and y down.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

COLOURS = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink")
SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "moon")
SIZES = {"small": (0.24, 0.27), "medium": (0.31, 0.34), "large": (0.37, 0.39)}
"""Diameters. A large thing that stands alone is larger still, by a fifth to a half."""
RELATIONS = ("left", "right", "above", "below")
INVERSE = {"left": "right", "right": "left", "above": "below", "below": "above"}

_JITTER = 0.02  # of a place, along each axis
_TURN = 0.12  # radians, either way

Split = Literal["train", "heldout"]
Combination = tuple[str, str]
"""A colour and a shape."""


def is_held_out(colour: str, shape: str) -> bool:
    """Whether the combination is for evaluation: a quarter of them, two shapes of each colour and two colours of each shape."""
    return (COLOURS.index(colour) + 3 * SHAPES.index(shape)) % 4 == 1


def combinations(split: Split) -> list[Combination]:
    """The 48 combinations of training, or the 16 held out.

    Raises:
        ValueError: for another split.
    """
    if split not in ("train", "heldout"):
        raise ValueError(f"split {split!r} is not known; there are 'train' and 'heldout'")
    return [(c, s) for c in COLOURS for s in SHAPES if is_held_out(c, s) == (split == "heldout")]


class Thing(NamedTuple):
    """A coloured shape."""

    colour: str
    shape: str
    size: str
    x: float
    """Of the centre."""
    y: float
    """Of the centre."""
    radius: float
    turn: float
    """Radians, clockwise."""


class Ground(NamedTuple):
    """What the things stand on."""

    tone: str
    """white or grey."""
    pattern: str
    """plain, fading or speckled."""


class Scene(NamedTuple):
    """Things on a ground."""

    things: tuple[Thing, ...]
    relations: tuple[str, ...]
    """How the first thing stands to the second, and the third to the second: left, right, above, below."""
    ground: Ground


def compose(rng: np.random.Generator, pool: Sequence[Combination]) -> Scene:
    """A scene of one (.35), two (.45) or three (.20) things; an eighth of those with several hold equal ones only."""
    count = 1 + int(np.searchsorted([0.35, 0.80], rng.random(), side="right"))
    if count > 1 and rng.random() < 0.125:
        return arrange(rng, [pool[int(rng.integers(len(pool)))]] * count)
    chosen = rng.permutation(len(pool))[:count]
    return arrange(rng, [pool[int(at)] for at in chosen])


def arrange(rng: np.random.Generator, chosen: Sequence[Combination], relation: str | None = None) -> Scene:
    """A scene of these one to three things, in this order.

    Several things stand in quarters of the image of their own; one alone in the middle or, unless it is large, in a quarter.

    Args:
        rng: draws sizes, places, turns and the ground.
        chosen: what the things are.
        relation: of the first to the second of two things; drawn if None.
    """
    sizes = [str(size) for size in rng.choice(list(SIZES), len(chosen), p=[0.15, 0.2, 0.65])]
    radii = [float(rng.uniform(*SIZES[size])) / 2 for size in sizes]
    relations: tuple[str, ...] = ()
    if len(chosen) == 1:
        centres = [_alone(rng, sizes[0])]
        radii[0] *= float(rng.uniform(1.2, 1.5)) if sizes[0] == "large" else 1.0
    elif len(chosen) == 2:
        relation = RELATIONS[int(rng.integers(4))] if relation is None else relation
        centres, relations = _side_by_side(rng, relation), (relation,)
    else:
        centres, relations = _around_a_corner(rng)
    # A pixel of 48 either way: small models tell shapes that may lie anywhere only after many times the default's steps.
    places = np.array(centres) + rng.uniform(-_JITTER, _JITTER, (len(chosen), 2))
    turns = rng.uniform(-_TURN, _TURN, len(chosen)).tolist()
    things = tuple(
        Thing(colour, shape, size, x, y, radius, turn)
        for (colour, shape), size, (x, y), radius, turn in zip(
            chosen, sizes, places.tolist(), radii, turns, strict=True
        )
    )
    tone = "white" if rng.random() < 0.5 else "grey"
    pattern = ("plain", "plain", "fading", "fading", "speckled")[int(rng.integers(5))]
    return Scene(things, relations, Ground(tone, pattern))


def _alone(rng: np.random.Generator, size: str) -> tuple[float, float]:
    column, row = rng.choice([0.25, 0.75], 2).tolist()
    return (0.5, 0.5) if size == "large" or rng.random() < 0.5 else (column, row)


def _side_by_side(rng: np.random.Generator, relation: str) -> list[tuple[float, float]]:
    """The centres of two quarters, the first in this relation to the second."""
    across = 0.25 + 0.5 * int(rng.integers(2))
    along = (0.25, 0.75) if relation in ("left", "above") else (0.75, 0.25)
    return [(at, across) if relation in ("left", "right") else (across, at) for at in along]


def _around_a_corner(rng: np.random.Generator) -> tuple[list[tuple[float, float]], tuple[str, str]]:
    """The centres of three quarters, the second in the corner between the others; how the first and third stand to it."""
    x, y = rng.choice([0.25, 0.75], 2).tolist()
    beside = ((1 - x, y), "left" if x > 0.5 else "right")
    over = ((x, 1 - y), "above" if y > 0.5 else "below")
    (first, one), (third, other) = (beside, over) if rng.random() < 0.5 else (over, beside)
    return [first, (x, y), third], (one, other)
