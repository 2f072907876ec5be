"""Objectives of one's own, beside the six: modules of `FlavaForPreTraining.objectives`."""

from typing import Protocol

from torch import nn

from torchflava.batch import Batch, CachedPairBatch
from torchflava.losses import LOSSES, Loss
from torchflava.models.clip import Clip
from torchflava.models.flava import Flava


class Objective(Protocol):
    """A module of `FlavaForPreTraining.objectives`; its weights are trained, sharded and kept with the model's."""

    def __call__(self, flava: Flava | Clip, batch: Batch) -> Loss | None:
        """The encoders and an image, text or pair batch -> a loss; None for a kind of batch that it does not learn from."""


def own_losses(objectives: nn.ModuleDict, flava: Flava | Clip, batch: Batch) -> dict[str, Loss]:
    """The losses of `objectives` for a batch, by their names; of a part of a batch of pairs, as of any other.

    Raises:
        ValueError: for the name of one of the six losses.
        TypeError: for what is no `Loss`.
    """
    if taken := sorted(set(objectives) & set(LOSSES)):
        raise ValueError(f"{taken[0]} is a loss of FLAVA's own; call your objective by another name")
    given = batch.pair if isinstance(batch, CachedPairBatch) else batch
    found = {}
    for name, objective in objectives.items():
        loss = objective(flava, given)
        if loss is not None and not isinstance(loss, Loss):
            raise TypeError(f"objective {name} gave a {type(loss).__name__}; a Loss(total, num_rows) or None is due")
        if loss is not None:
            found[name] = loss
    return found
