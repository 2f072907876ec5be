"""An MLP's products in training in low precision on the CPU: what GELU gives is computed again in backward, not kept.

GELU is two hundredths of a step and what it gives a fifth of what a block keeps (docs/decisions/0074).
Letters: N rows, D width, F width inside.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def mlp_again(x: Tensor, up: Tensor, up_bias: Tensor, *, down: Tensor, down_bias: Tensor) -> Tensor:
    """(..., D), up (F, D), down (D, F) -> (..., D): `_plain`, its numbers to the bit, and its gradients, second ones too."""
    y: Tensor = _Again.apply(x, up, up_bias, down, down_bias)
    return y


def _plain(x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor) -> Tensor:
    return F.linear(F.gelu(F.linear(x, up, up_bias)), down, down_bias)


class _Again(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor) -> Tensor:
        inner = F.linear(x, up, up_bias)
        ctx.save_for_backward(x, up, up_bias, down, down_bias, inner)
        return F.linear(F.gelu(inner), down, down_bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *given, inner = ctx.saved_tensors
        wanted: tuple[bool, ...] = ctx.needs_input_grad
        if torch.is_grad_enabled():
            return _gradients(_plain(*given), given, gradient, wanted)
        x, up, _, down, _ = given
        gradient, inner = (rows.reshape(-1, rows.shape[-1]) for rows in (gradient, inner))
        made: list[Tensor | None] = [None] * 5
        states = F.gelu(inner)
        if wanted[3]:
            # transposed first: a product whose first operand is a transposed view runs at half the rate
            made[3] = gradient.t().contiguous() @ states
        if wanted[4]:
            made[4] = gradient.sum(0)
        if any(wanted[:3]):
            of_inner = torch.mm(gradient, down, out=states)
            torch.ops.aten.gelu_backward.grad_input(of_inner, inner, grad_input=of_inner)
            made[0] = (of_inner @ up).view(x.shape) if wanted[0] else None
            made[1] = of_inner.t() @ x.reshape(-1, x.shape[-1]) if wanted[1] else None
            made[2] = of_inner.sum(0) if wanted[2] else None
        return tuple(made)


def _gradients(y: Tensor, given: list[Tensor], gradient: Tensor, wanted: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    """Those of `y`, computed with a graph, as far as they are wanted; they have gradients themselves."""
    learning = [x for x, learns in zip(given, wanted, strict=True) if learns]
    found = iter(torch.autograd.grad(y, learning, gradient, create_graph=True))
    return tuple(next(found) if learns else None for learns in wanted)
