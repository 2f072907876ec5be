"""Which classes are taken for which.

Letters: N samples, C classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Confused(NamedTuple):
    """Samples of one class that were taken for another."""

    label: int
    """The true class."""
    predicted: int
    """What it was taken for."""
    num: int
    """How often."""
    share: float
    """Of the true class's samples."""


def confusion(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(N,), (N,) int64 of 0..C-1 -> (C, C) int64: how many samples of the class in the row were taken for that in the column.

    Raises:
        ValueError: if the two differ in length, or hold a class beyond C.
    """
    if predicted.shape != labels.shape or labels.ndim != 1:
        raise ValueError(f"{tuple(predicted.shape)} predictions for {tuple(labels.shape)} labels; give one for each")
    for name, classes in (("predictions", predicted), ("labels", labels)):
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
            raise ValueError(
                f"{name} reach from {int(classes.min())} to {int(classes.max())}, and num_classes is {num_classes}; number "
                "the classes from 0"
            )
    return torch.bincount(labels * num_classes + predicted, minlength=num_classes**2).view(num_classes, num_classes)


def most_confused(matrix: Tensor, num: int) -> list[Confused]:
    """(C, C) of `confusion` -> the `num` most frequent confusions, the most frequent first, equal ones by their classes."""
    wrong = matrix.clone().fill_diagonal_(0).flatten()
    order = wrong.argsort(descending=True, stable=True)[:num]
    totals = matrix.sum(1)
    found = []
    for at in order[wrong[order] > 0].tolist():
        label, predicted = divmod(at, len(matrix))
        count = int(matrix[label, predicted])
        found.append(Confused(label, predicted, count, count / int(totals[label])))
    return found
