"""A running average of the weights (Polyak and Juditsky 1992), with which a model is measured and kept.

It lies among the optimizer's moments, so that checkpoints hold it and shards of it lie where the weights' do.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_NAME = "average"


@torch.no_grad()
def update_average(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """After a step: average = decay * average + (1 - decay) * weight. It begins as the weights after their first step.

    Args:
        optimizer: of the weights; those that have had no gradient yet have no average and stay as they are.
        decay: from 0 to below 1.

    Raises:
        ValueError: for another decay.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"the average's decay is {decay}; 0 or more and below 1 is due")
    for parameter, moments in optimizer.state.items():
        if _NAME in moments:
            moments[_NAME].lerp_(parameter.detach(), 1 - decay)
        elif moments:
            moments[_NAME] = parameter.detach().clone()


@contextmanager
def averaged(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Within, the weights are their averages, where there are any; afterwards they are themselves again, to the bit."""
    _swap(optimizer)
    try:
        yield
    finally:
        _swap(optimizer)


@torch.no_grad()
def _swap(optimizer: torch.optim.Optimizer) -> None:
    for parameter, moments in optimizer.state.items():
        average: Tensor | None = moments.get(_NAME)
        if average is not None:
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)
