"""A page of which classes a model takes for which: the matrix, and beside it the pairs that it confuses most.

Letters: N samples, C classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import torch
from look_page import picture_uri, write_page
from torch import Tensor

from torchflava.evaluation import confusion, most_confused

_WRITTEN_OUT = 24  # classes, the most whose matrix is a table with names
_PAIRS = 40
_WORST = 20
_SIDE = 500  # pixels of a picture of the matrix, at least; with more classes a pixel stands for several


class Pair(NamedTuple):
    """A class and what it was taken for."""

    true: str
    predicted: str
    num: int
    share: float
    """Of the true class's samples."""


class OfClass(NamedTuple):
    """How well one class was recognised."""

    name: str
    right: int
    num: int


def write_confusion(file: Path, predicted: Tensor, labels: Tensor, *, classes: Sequence[str], title: str) -> None:
    """Write the page.

    Args:
        file: the page.
        predicted: (N,) int64.
        labels: (N,) int64.
        classes: C names.
        title: of the page.

    Raises:
        ValueError: if these do not go together.
    """
    matrix = confusion(predicted, labels, len(classes))
    totals, right = matrix.sum(1), matrix.diagonal()
    pairs = [Pair(classes[c.label], classes[c.predicted], c.num, c.share) for c in most_confused(matrix, _PAIRS)]
    shares = matrix / totals.clamp(min=1)[:, None]
    worst = torch.where(totals > 0, right / totals.clamp(min=1), 2).argsort(stable=True).tolist()
    of_classes = [OfClass(classes[c], int(right[c]), int(totals[c])) for c in worst if totals[c]]
    rows = [] if len(classes) > _WRITTEN_OUT else list(zip(classes, matrix.tolist(), shares.tolist(), strict=True))
    told = {
        "title": title,
        "classes": classes,
        "num": len(labels),
        "right": int(right.sum()),
        "rows": rows,
        "picture": "" if rows else picture_uri(picture(shares), least=_SIDE, photo=False),
        "together": _together(len(classes)),
        "pairs": pairs,
        "num_wrong": int((matrix > 0).sum() - (right > 0).sum()),
        "worst": of_classes[:_WORST],
    }
    write_page(file, "confusion", told)


def picture(shares: Tensor) -> Tensor:
    """(C, C) shares of each row -> (3, P, P) uint8, P the classes or fewer: the root of a share, so that few errors are seen.

    Where a pixel stands for several classes, it shows the largest of their shares.
    """
    most = torch.nn.functional.max_pool2d(shares[None].float(), _together(len(shares)), ceil_mode=True)[0]
    colours = matplotlib.colormaps["BuPu"](most.sqrt().numpy(), bytes=True)[..., :3]
    return torch.from_numpy(colours.copy()).permute(2, 0, 1)


def _together(num_classes: int) -> int:
    """Classes that a pixel stands for, each way."""
    return -(-num_classes // _SIDE)
