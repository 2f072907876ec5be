"""Scenes as pixels: signed distances, one pixel of anti-aliasing, at any size.

A shape is a function of (x, y) in units of its radius, x to the right and y down: below 0 inside, and near its edge the
distance to it. Letters: S side of the image in pixels, h, w sides of a window around a thing.
"""

from collections.abc import Callable
from functools import lru_cache
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray

from torchflava.data.scene_layout import Ground, Scene, Thing

Plane = NDArray[np.float32]

PALETTE = {
    "red": (214, 36, 36),
    "orange": (242, 132, 20),
    "yellow": (244, 214, 40),
    "green": (42, 150, 58),
    "turquoise": (44, 196, 196),
    "blue": (40, 76, 214),
    "purple": (128, 52, 176),
    "pink": (246, 132, 186),
}
"""Red, green, blue of each colour, 0 to 255, before the jitter of a thing."""
_REACH = 1.25  # no shape reaches further from its centre, in radii


def _circle(x: Plane, y: Plane) -> Plane:
    return np.hypot(x, y) - np.float32(0.95)


def _square(x: Plane, y: Plane) -> Plane:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.78)


def _triangle(x: Plane, y: Plane) -> Plane:
    slope = np.float32(0.866) * np.abs(x) - np.float32(0.5) * (y - np.float32(0.12))
    return np.maximum(slope, y - np.float32(0.12)) - np.float32(0.56)


def _star(x: Plane, y: Plane) -> Plane:
    angle = np.abs((np.arctan2(x, -y) + np.float32(pi / 5)) % np.float32(2 * pi / 5) - np.float32(pi / 5))
    distance = np.hypot(x, y)
    # The edge runs from the tip (1.1 at angle 0) to the notch (0.46 at angle pi / 5).
    along, across = 1.1 - 0.46 * cos(pi / 5), 0.46 * sin(pi / 5)
    length = (along**2 + across**2) ** 0.5
    a, b = np.float32(across / length), np.float32(along / length)
    return (distance * np.cos(angle) - np.float32(1.1)) * a + distance * np.sin(angle) * b


def _heart(x: Plane, y: Plane) -> Plane:
    # A square standing on its corner and a circle on each of its upper sides.
    x, y = np.abs(x), y - np.float32(0.08)
    diamond = (x + np.abs(y)) * np.float32(0.7071) - np.float32(0.62)
    lobe = np.hypot(x - np.float32(0.438), y + np.float32(0.438)) - np.float32(0.62)
    return np.minimum(diamond, lobe)


def _ring(x: Plane, y: Plane) -> Plane:
    return np.abs(np.hypot(x, y) - np.float32(0.74)) - np.float32(0.25)


def _cross(x: Plane, y: Plane) -> Plane:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - np.float32(0.98), np.minimum(x, y) - np.float32(0.3))


def _moon(x: Plane, y: Plane) -> Plane:
    x = x - np.float32(0.15)
    return np.maximum(np.hypot(x, y) - np.float32(1.0), np.float32(0.85) - np.hypot(x - np.float32(0.5), y))


DISTANCES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "ring": _ring,
    "cross": _cross,
    "moon": _moon,
}


def draw(scene: Scene, image_size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A scene -> (3, S, S) uint8.

    Args:
        scene: what to draw; lengths in units of the side.
        image_size: S.
        rng: draws tints, gradients, noise and the jitter of colours.

    Raises:
        ValueError: for a side below 8 pixels, on which no shape can be told.
    """
    if image_size < 8:
        raise ValueError(f"a scene of {image_size} pixels cannot be told; draw it with 8 or more")
    pixels = _ground(scene.ground, image_size, rng)
    for thing in scene.things:
        _put(thing, pixels, rng)
    pixels += rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(3)
    return np.clip(pixels, 0, 255).astype(np.uint8)


@lru_cache(maxsize=8)
def _centres(image_size: int) -> Plane:
    """(S,) the centres of the pixels, in units of the side."""
    at = (np.arange(image_size, dtype=np.float32) + np.float32(0.5)) / np.float32(image_size)
    at.flags.writeable = False
    return at


def _ground(ground: Ground, size: int, rng: np.random.Generator) -> Plane:
    """(3, S, S): a tinted grey that is plain, fades in a direction, or is speckled."""
    low, high = (236, 250) if ground.tone == "white" else (196, 214)
    tint = rng.uniform(low, high) + rng.uniform(-10, 10, 3)
    pixels = np.empty((3, size, size), dtype=np.float32)
    pixels[:] = tint.astype(np.float32)[:, None, None]
    if ground.pattern == "fading":
        angle, at = rng.uniform(0, 2 * pi), _centres(size) - np.float32(0.5)
        pixels += np.float32(50 * cos(angle)) * at + np.float32(50 * sin(angle)) * at[:, None]
    if ground.pattern == "speckled":
        grains = rng.standard_normal((24, 24), dtype=np.float32) * np.float32(12)
        at = (_centres(size) * 24).astype(np.intp)
        pixels += grains[at[:, None], at]
    return pixels


def _put(thing: Thing, pixels: Plane, rng: np.random.Generator) -> None:
    """Draw a thing over `pixels` (3, S, S), in place."""
    size, reach = pixels.shape[1], thing.radius * _REACH
    columns, rows = _window(thing.x, reach, size), _window(thing.y, reach, size)
    at = _centres(size)
    x, y = (at[columns] - np.float32(thing.x))[None, :], (at[rows] - np.float32(thing.y))[:, None]
    c, s = np.float32(cos(thing.turn) / thing.radius), np.float32(sin(thing.turn) / thing.radius)
    distance = DISTANCES[thing.shape](c * x + s * y, c * y - s * x)
    cover = np.clip(np.float32(0.5) - distance * np.float32(thing.radius * size), 0, 1)
    colour = (np.array(PALETTE[thing.colour]) + rng.uniform(-14, 14, 3)).astype(np.float32)
    window = pixels[:, rows, columns]
    window += cover * (colour[:, None, None] - window)


def _window(centre: float, reach: float, size: int) -> slice:
    return slice(max(0, int((centre - reach) * size)), min(size, int((centre + reach) * size) + 2))
