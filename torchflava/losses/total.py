"""From sums and counts to one number to minimise (paper §3.2; the weights are 1 in the paper and in both references)."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from torchflava.distributed import sum_over_ranks, world_size
from torchflava.losses.loss import Loss

LOSSES = ("mim", "mlm", "mmm_image", "mmm_text", "itm", "contrastive")
"""The six losses, by the names that they carry everywhere."""


def mean_losses(
    losses: Mapping[str, Loss],
    over: Literal["global", "rank"] = "global",
    *,
    num_rows: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The mean of each loss, with gradient.

    Args:
        losses: what the model returned, the same names on every rank.
        over: `global` divides by the labelled rows of the whole batch, so that the gradient, averaged over ranks as DDP
            and FSDP do, is that of one process on that batch; `rank` takes each rank's own mean, as the references do.
        num_rows: () each: the labelled rows of all of this rank's batch, where `losses` are of a part of it; the sums over
            the parts of what is returned are then the whole batch's means.

    Returns:
        `global`: this rank's share, whose average over ranks is the global mean; `rank`: this rank's mean.

    Raises:
        ValueError: for an unknown `over`, and for a loss that `num_rows` lacks.
    """
    if over not in ("global", "rank"):
        raise ValueError(f"mean_losses: over must be 'global' or 'rank', got {over!r}")
    if num_rows is not None and (missing := sorted(set(losses) - set(num_rows))):
        raise ValueError(f"mean_losses: num_rows lacks {missing[0]}; count its rows in the whole batch too")
    rows = torch.stack([loss.num_rows if num_rows is None else num_rows[name] for name, loss in losses.items()])
    if over == "rank" or world_size() == 1:
        means = rows.clamp(min=1)
        return {name: loss.total / n for (name, loss), n in zip(losses.items(), means, strict=True)}
    counts = sum_over_ranks(rows)
    shares = world_size() / counts.clamp(min=1)
    return {name: loss.total * share for (name, loss), share in zip(losses.items(), shares, strict=True)}


def weighted_sum(means: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The sum of the means, each times its weight.

    Raises:
        ValueError: for a loss without a weight; a weight without a loss is another kind of batch's.
    """
    missing = sorted(set(means) - set(weights))
    if missing:
        raise ValueError(f"no weight for {', '.join(missing)}; give one, 1.0 as in the paper if in doubt")
    if not means:
        raise ValueError("there is no loss to sum: the model has no objective for this batch")
    return torch.stack([weights[name] * mean for name, mean in means.items()]).sum()
