"""Warping for small data sets such as emoji: an image turned, zoomed, seen at an angle and bent, in one resampling.

Letters: H, W height and width in pixels.
"""

from functools import lru_cache
from math import cos, exp, pi, sin

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from torchflava.transforms.image import check_image

Rng = np.random.Generator

_CELLS = 4  # a side: the image is mapped cell by cell, bilinearly within each
_ROW, _COLUMN = np.divmod(np.arange(_CELLS**2), _CELLS)
_CORNERS_OF_CELL = (_ROW[:, None] + [0, 1, 1, 0], _COLUMN[:, None] + [0, 0, 1, 1])  # in the order that Pillow asks for


class Warp:
    """Moves an image's pixels as its generator says; 0 leaves a movement out. All are drawn evenly but the bend.

    What comes in from outside has the mean colour of the corners. Lengths are shares of the longer side.

    Args:
        turn: degrees of rotation at most.
        zoom: the size is multiplied with a factor between exp(-zoom) and exp(zoom).
        stretch: so is the ratio of width to height, its root by exp(-stretch) to exp(stretch).
        shear: rows slide by up to `shear` of their distance to the centre.
        shift: along each axis at most.
        perspective: how much nearer than the centre a border may be, or farther.
        bend: standard deviation with which each of 5 x 5 knots moves by itself, along each axis.
    """

    def __init__(
        self,
        *,
        turn: float = 15.0,
        zoom: float = 0.3,
        stretch: float = 0.15,
        shear: float = 0.15,
        shift: float = 0.05,
        perspective: float = 0.1,
        bend: float = 0.02,
    ) -> None:
        for name, value, most in (
            ("turn", turn, 180.0),
            ("zoom", zoom, 2.0),
            ("stretch", stretch, 1.0),
            ("shear", shear, 1.0),
            ("shift", shift, 0.5),
            ("perspective", perspective, 0.4),
            ("bend", bend, 0.2),
        ):
            if not 0 <= value <= most:
                raise ValueError(f"{name} {value} must lie between 0 and {most:g}")
        self.turn, self.zoom, self.stretch, self.shear = turn, zoom, stretch, shear
        self.shift, self.perspective, self.bend = shift, perspective, bend

    def __call__(self, image: Tensor, rng: Rng) -> Tensor:
        """(3, H, W) uint8 -> the same shape and type.

        Raises:
            ValueError: if the image is not (3, H, W) uint8.
        """
        check_image(image)
        size = image.shape[2], image.shape[1]
        boxes, knots = _cells(*size)
        # The same numbers are drawn whatever is left out, so that one setting does not change what the others do.
        sides = np.array(size) / max(size)  # turned and sheared as the image is seen, whatever its shape
        amounts, bends = rng.uniform(-1, 1, 8), rng.standard_normal(knots.shape)
        at = (self.sources(knots * sides, amounts, bends) / sides + 1) / 2 * size
        quads = at[_CORNERS_OF_CELL].reshape(-1, 8).tolist()
        mesh = [(box, quad) for box, quad in zip(boxes, quads, strict=True) if box[0] < box[2] and box[1] < box[3]]
        corners = image[:, [0, 0, -1, -1], [0, -1, 0, -1]].float().mean(1).round().int().tolist()
        warped = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).transform(
            size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR, fillcolor=tuple(corners)
        )
        return torch.from_numpy(np.asarray(warped).copy()).permute(2, 0, 1)

    def sources(
        self, knots: NDArray[np.float64], amounts: NDArray[np.float64], bends: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Where knots come from: (5, 5, 2) -> (5, 5, 2), as (x, y) from the centre, the longer side reaching from -1 to 1.

        Args:
            knots: places in the result.
            amounts: (8,) from -1 to 1.
            bends: (5, 5, 2), normal.
        """
        turn, zoom, stretch, shear = amounts[:4] * [self.turn, self.zoom, self.stretch, self.shear]
        angle, size, side = turn * pi / 180, exp(-zoom), exp(stretch)
        matrix = size * np.array([[cos(angle) * side, shear - sin(angle)], [sin(angle), cos(angle) / side]])
        depth = 1 + self.perspective * knots @ amounts[4:6]
        moved = knots @ matrix.T + 2 * self.shift * amounts[6:8]
        return np.asarray(moved / depth[..., None] + 2 * self.bend * bends)


@lru_cache(maxsize=256)
def _cells(width: int, height: int) -> tuple[list[tuple[int, int, int, int]], NDArray[np.float64]]:
    """The cells of an image as (left, top, right, bottom), and their knots, (5, 5, 2), with the image's sides at -1 and 1."""
    xs, ys = (np.linspace(0, side, _CELLS + 1).round().astype(int).tolist() for side in (width, height))
    boxes = [(xs[c], ys[r], xs[c + 1], ys[r + 1]) for r, c in zip(_ROW.tolist(), _COLUMN.tolist(), strict=True)]
    knots = np.stack(np.meshgrid(xs, ys), axis=-1) * (2 / np.array([width, height])) - 1
    knots.setflags(write=False)  # shared by all who ask for this size
    return boxes, knots
