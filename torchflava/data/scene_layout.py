"""What stands where in the embedded default data: one to three things, each a colour, a shape and a size, in clear relations.

Everything is ours. Lengths are in units of the image's side, x to the right and y down.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

COLOURS = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink")
SHAPES = ("circle", "square", "triangle", "star", "heart", "ring", "cross", "moon")
SIZES = {"small": (0.25, 0.30), "medium": (0.33, 0.38), "large": (0.41, 0.47)}
"""Diameters. A large thing that stands alone may be half as large again."""
RELATIONS = ("left", "right", "above", "below")
INVERSE = {"left": "right", "right": "left", "above": "below", "below": "above"}

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
    """light or dark."""
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

    Args:
        rng: draws sizes, places, turns and the ground.
        chosen: what the things are.
        relation: of the first to the second of two things; drawn if None.
    """
    sizes = [str(size) for size in rng.choice(list(SIZES), len(chosen), p=[0.15, 0.2, 0.65])]
    radii = [float(rng.uniform(*SIZES[size])) / 2 for size in sizes]
    relations: tuple[str, ...] = ()
    if len(chosen) == 1:
        if sizes[0] == "large":
            radii[0] *= float(rng.uniform(1, 1.5))
        places = [(_within(rng, radii[0]), _within(rng, radii[0]))]
    elif len(chosen) == 2:
        relation = RELATIONS[int(rng.integers(4))] if relation is None else relation
        places, relations = _side_by_side(rng, radii, relation), (relation,)
    else:
        places, relations = _around_a_corner(rng, radii)
    turns = rng.uniform(-0.3, 0.3, len(chosen)).tolist()
    things = tuple(
        Thing(colour, shape, size, x, y, radius, turn)
        for (colour, shape), size, (x, y), radius, turn in zip(chosen, sizes, places, radii, turns, strict=True)
    )
    tone = "light" if rng.random() < 0.6 else "dark"
    pattern = ("plain", "plain", "fading", "fading", "speckled")[int(rng.integers(5))]
    return Scene(things, relations, Ground(tone, pattern))


def _within(rng: np.random.Generator, radius: float) -> float:
    return float(rng.uniform(radius, 1 - radius))


def _side_by_side(rng: np.random.Generator, radii: Sequence[float], relation: str) -> list[tuple[float, float]]:
    """Places whose distance along the relation's axis is at least twice that across it."""
    first, second = radii if relation in ("left", "above") else (radii[1], radii[0])
    slack = 1 - 2 * (first + second)
    # A quarter of the room left over lies between the two at least, the rest before, between and behind them.
    before, behind = np.sort(rng.random(2)) * 0.75 * slack
    near, far = before + first, behind + 0.25 * slack + 2 * first + second
    across = _within(rng, first)
    other = float(np.clip(across + rng.uniform(-0.45, 0.45) * (far - near), second, 1 - second))
    along = [(float(near), across), (float(far), other)]
    if relation in ("right", "below"):
        along.reverse()
    return along if relation in ("left", "right") else [(across, at) for at, across in along]


def _around_a_corner(
    rng: np.random.Generator, radii: Sequence[float]
) -> tuple[list[tuple[float, float]], tuple[str, str]]:
    """Places in three quarters of the image: the second thing in the corner between the other two."""
    column, row = int(rng.integers(2)), int(rng.integers(2))
    beside, over = (1 - column, row), (column, 1 - row)
    relations = ("left" if column else "right", "above" if row else "below")
    first, third = (beside, over) if rng.random() < 0.5 else (over, beside)
    cells = [first, (column, row), third]
    places = [
        (cell[0] / 2 + _within(rng, 2 * radius) / 2, cell[1] / 2 + _within(rng, 2 * radius) / 2)
        for cell, radius in zip(cells, radii, strict=True)
    ]
    return places, relations if first == beside else (relations[1], relations[0])
