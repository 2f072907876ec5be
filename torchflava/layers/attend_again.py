"""Attention in training in low precision on the CPU that keeps no table: probabilities are computed again in backward.

Forward is torch's fused kernel, which keeps the logarithm of each query's sum. Backward makes the tables from it by whole
products, some samples at a time, where the kernel's own goes back in float32 (docs/decisions/0074). After Dao et al. 2022,
FlashAttention, §3.1, whose backward does it tile by tile.
Letters: B batch, L length, D width, H heads, d width of a head, S samples at a time.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from torchflava.layers.mlp_again import gradients_of

_CELLS = 2**19  # of a table at a time: one sample of 12 heads and 197 places, which leaves room in a core's cache


def attend_again(qkv: Tensor, num_heads: int, mask: Tensor | None = None) -> Tensor:
    """(B, L, 3D), queries, keys and values of all heads -> (B, L, D).

    Args:
        num_heads: H.
        mask: broadcasts to (B, H, L, L): numbers of the same type to be added to the scores, which get no gradient. A sample
            without keys gets zeros.
    """
    y: Tensor = _Again.apply(qkv, num_heads, mask)
    return y


def split(qkv: Tensor, num_heads: int) -> tuple[Tensor, ...]:
    """(B, L, 3D) -> queries, keys and values (B, H, L, d), as views."""
    width = qkv.shape[-1] // (3 * num_heads)
    return qkv.view(*qkv.shape[:-1], 3, num_heads, width).permute(2, 0, 3, 1, 4).unbind()


def _plain(qkv: Tensor, num_heads: int, mask: Tensor | None) -> Tensor:
    q, k, v = split(qkv, num_heads)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    probabilities = (scores if mask is None else scores + mask).softmax(-1)
    return (probabilities @ v).transpose(1, 2).flatten(2)


class _Again(Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, num_heads: int, mask: Tensor | None) -> Tensor:
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
        y, logsum = fused(*split(qkv, num_heads), attn_mask=mask)
        ctx.num_heads = num_heads
        ctx.save_for_backward(qkv, logsum, mask)
        flat: Tensor = y.transpose(1, 2).flatten(2)
        return flat

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        qkv, logsum, mask = ctx.saved_tensors
        if torch.is_grad_enabled():
            given = [qkv]
            y = _plain(qkv, ctx.num_heads, mask)
            return gradients_of(y, given, gradient, wanted=(True, False, False))
        of_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
        q, k, v = split(qkv, ctx.num_heads)
        batch, num_heads, length, width = q.shape
        heads_first = gradient.view(batch, length, num_heads, width).transpose(1, 2)
        parts = [q, k, v, heads_first, logsum, *split(of_qkv, num_heads)]
        if mask is not None:
            parts.append(mask.expand(batch, *mask.shape[1:]))
        at_a_time = min(batch, max(1, _CELLS // max(1, num_heads * length**2)))
        room = _room(qkv, (at_a_time, num_heads, length), width)
        for some in zip(*(part.split(max(1, at_a_time)) for part in parts), strict=True):
            _go_back(_Samples(*some), _Room(*(space[: len(some[0])] for space in room)))
        return of_qkv, None, None


class _Samples(NamedTuple):
    """Of some samples, views of all."""

    q: Tensor
    k: Tensor
    v: Tensor
    gradient: Tensor
    """(S, H, L, d), of what attention gave."""
    logsum: Tensor
    """(S, H, L) float32: the logarithm of the sum by which each query's probabilities were divided."""
    of_q: Tensor
    of_k: Tensor
    of_v: Tensor
    """(S, H, L, d), to be written."""
    mask: Tensor | None = None


class _Room(NamedTuple):
    """What is written anew for all samples in turn."""

    q: Tensor
    k: Tensor
    """(S, H, L, d + 2): two columns more make the product of queries and keys their scores less the logarithm of the sum, which
    a type of 8 bits' precision holds in two numbers; k's are -1."""
    v: Tensor
    gradient: Tensor
    states: Tensor
    """(S, H, L, d)."""
    probabilities: Tensor
    scores: Tensor
    """(S, H, L, L)."""


def _room(like: Tensor, rows: tuple[int, int, int], width: int) -> _Room:
    q, k = (like.new_empty(*rows, width + 2) for _ in range(2))
    k[..., width:] = -1
    states = (like.new_empty(*rows, width) for _ in range(3))
    return _Room(q, k, *states, *(like.new_empty(*rows, rows[-1]) for _ in range(2)))


def _go_back(some: _Samples, room: _Room) -> None:
    """Write the gradients of queries, keys and values."""
    width = some.q.shape[-1]
    scale = width**-0.5
    room.q[..., :width] = some.q
    room.q.mul_(scale)
    room.q[..., width] = some.logsum
    room.q[..., width + 1] = some.logsum - room.q[..., width]
    room.k[..., :width] = some.k
    room.v.copy_(some.v)
    room.gradient.copy_(some.gradient)
    q, k, v, gradient, states, probabilities, scores = (space.flatten(0, 1) for space in room)
    torch.bmm(q, k.transpose(1, 2), out=probabilities)
    if some.mask is not None:
        room.probabilities.add_(some.mask)
    probabilities.exp_()
    some.of_v.copy_(torch.bmm(probabilities.transpose(1, 2), gradient, out=states).view_as(some.v))
    torch.bmm(gradient, v.transpose(1, 2), out=scores)
    torch._softmax_backward_data(scores, probabilities, -1, scores.dtype, grad_input=scores)
    some.of_k.copy_(torch.bmm(scores.transpose(1, 2), q[..., :width], out=states).view_as(some.k))
    some.of_q.copy_(torch.bmm(scores, k[..., :width], out=states).mul_(scale).view_as(some.q))
