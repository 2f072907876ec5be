"""Masked prediction from states: the projection onto codes or words and its cross-entropy in chunks of rows, never all logits.

As in `torchflava.losses.compared`, a chunk's gradients are made beside its loss, in forward, and its logits given back. The
projection's weight is taken, not a head, so that the head stays where it is sharded (docs/decisions/0071).
Letters: B batch, K rows asked for, D width, V codes or words, R rows of a chunk.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from torchflava.batch import IGNORE
from torchflava.losses.chunks import cross_entropy_with_gradient
from torchflava.losses.loss import Loss
from torchflava.losses.masked import check_labels, masked_prediction_loss

ROWS = 1024
"""Of a chunk, whose logits are 125 MB for 30,522 words: with fewer, adding up the weight's gradient takes longer, with more,
logits leave the cache (docs/decisions/0071)."""


def fused_prediction_loss(
    states: Tensor, weight: Tensor, bias: Tensor | None, *, labels: Tensor, at_a_time: int = ROWS
) -> Loss:
    """What `masked_prediction_loss(F.linear(states, weight, bias), labels)` is, and its gradients, without all logits at once.

    The gradient of the weight, (V, D) float32, is there from forward on: it pays where rows are more than D. In float16, whose
    small gradients are lost unless the loss was scaled before, all logits are made after all.

    Args:
        states: (B, K, D), before the projection.
        weight: (V, D).
        bias: (V,), or None.
        labels: (B, K) int64 with `IGNORE` where nothing is asked.
        at_a_time: rows whose logits exist at once.

    Raises:
        ValueError: as `masked_prediction_loss`.
    """
    check_labels(labels, (*states.shape[:-1], len(weight)))
    kind = states.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        low = torch.get_autocast_dtype(kind)
        states, weight, bias = states.to(low), weight.to(low), None if bias is None else bias.to(low)
    if weight.dtype == torch.float16:
        return masked_prediction_loss(F.linear(states, weight, bias), labels)
    given = (states, weight) if bias is None else (states, weight, bias)
    how = _How(at_a_time, torch.is_grad_enabled() and any(x.requires_grad for x in given))
    total: Tensor = _Fused.apply(states.flatten(0, 1), weight, bias, labels.flatten(), how)
    return Loss(total, (labels != IGNORE).sum().float())


class _How(NamedTuple):
    at_a_time: int
    learns: bool
    """Whether any gradient is wanted."""


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, how: _How) -> Tensor:
        exact = torch.float32
        total = torch.zeros((), dtype=exact, device=states.device)
        of_states = torch.zeros_like(states)
        of_weight = torch.zeros(weight.shape if how.learns else (0, 0), dtype=exact, device=states.device)
        of_bias = torch.zeros(len(weight), dtype=exact, device=states.device)
        ignored = (labels == IGNORE)[:, None]
        labels = labels[:, None].masked_fill(ignored, 0)
        for at in range(0, len(states), how.at_a_time):
            chunk = slice(at, at + how.at_a_time)
            loss, error = cross_entropy_with_gradient(
                F.linear(states[chunk], weight, bias), labels[chunk], ignored[chunk], wanted=how.learns
            )
            total += loss
            if how.learns:
                of_bias += error.sum(0)
                error = error.to(weight.dtype)
                of_states[chunk] = error @ weight
                if weight.dtype == exact:
                    torch.addmm(of_weight, error.T, states[chunk], out=of_weight)
                else:
                    of_weight += error.T @ states[chunk]
            del error  # or it would be there beside the next chunk's two
        ctx.learns_bias = bias is not None
        ctx.dtype = weight.dtype
        ctx.save_for_backward(of_states, of_weight, of_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_states, of_weight, of_bias = ctx.saved_tensors
        of_bias = (gradient * of_bias).to(ctx.dtype) if ctx.learns_bias else None
        return gradient * of_states, (gradient * of_weight).to(ctx.dtype), of_bias, None, None
