"""The metrics of the paper's tasks (tables 4 and 5); which image tasks average over classes stands in Radford et al. 2021, A.2.

Letters: N samples, C classes.
"""

import torch
from torch import Tensor


def accuracy(predictions: Tensor, targets: Tensor) -> float:
    """(N,), (N,) int64 -> the share of samples that are right (micro: classes weigh as they are frequent)."""
    _check(predictions, targets)
    return float((predictions == targets).double().mean())


def mean_per_class(predictions: Tensor, targets: Tensor) -> float:
    """(N,), (N,) int64 -> the mean, over the classes that occur in the targets, of the share of their samples that are right.

    A class that is predicted but never right does not count; `torchmetrics.MulticlassAccuracy(average="macro")` counts it.
    """
    _check(predictions, targets)
    _, own = torch.unique(targets, return_inverse=True)
    total = own.bincount().double()
    return float((own[predictions == targets].bincount(minlength=len(total)) / total).mean())


def _check(predictions: Tensor, targets: Tensor) -> None:
    if predictions.shape != targets.shape or targets.ndim != 1:
        raise ValueError(f"predictions {tuple(predictions.shape)}, targets {tuple(targets.shape)}; give (N,) of both")
    if not len(targets):
        raise ValueError("there is no sample to score; give one at least")
