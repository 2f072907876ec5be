"""Attention in training in low precision on the CPU that keeps no table: probabilities are computed again in backward.

Forward is torch's fused kernel. Its own backward computes in float32; here it is whole products in the low precision, some
samples at a time, whose tables are written over by the next (docs/decisions/0074).
Letters: B batch, L length, D width, H heads, d width of a head, S samples at a time, P places: L and some more.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from torchflava.layers.mlp_again import gradients_of

_CELLS = 2**19  # of a table at a time: one sample of 12 heads and 197 places, which leaves room in a core's cache
_LINE = 32  # numbers; torch's softmax takes what a row has beyond a multiple of them one by one


def attend_again(qkv: Tensor, num_heads: int, mask: Tensor | None = None) -> Tensor:
    """(B, L, 3D), queries, keys and values of all heads -> (B, L, D).

    Args:
        num_heads: H.
        mask: (B, L), numbers of the same type to be added to the scores of each key, without a gradient. One of a sample's is
            finite.
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
    probabilities = (scores if mask is None else scores + mask[:, None, None]).softmax(-1)
    return (probabilities @ v).transpose(1, 2).flatten(2)


class _Again(Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, num_heads: int, mask: Tensor | None) -> Tensor:
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
        y: Tensor = fused(*split(qkv, num_heads), attn_mask=None if mask is None else mask[:, None, None])[0]
        ctx.num_heads = num_heads
        ctx.save_for_backward(qkv, mask)
        return y.transpose(1, 2).flatten(2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        qkv, mask = ctx.saved_tensors
        if torch.is_grad_enabled():
            y = _plain(qkv, ctx.num_heads, mask)
            return gradients_of(y, [qkv], gradient, wanted=(True, False, False))
        of_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
        q, k, v = split(qkv, ctx.num_heads)
        batch, num_heads, length, width = q.shape
        heads_first = gradient.view(batch, length, num_heads, width).transpose(1, 2)
        parts = [q, k, v, heads_first, *split(of_qkv, num_heads)]
        if mask is not None:
            parts.append(mask[:, None].expand(batch, num_heads, length))
        at_a_time = max(1, min(batch, _CELLS // (num_heads * length**2)))
        room = _room(qkv, at_a_time, num_heads, length=length, width=width)
        for some in zip(*(torch.split(part, at_a_time) for part in parts), strict=True):
            _go_back(_Samples(*some), _Room(*(space[: len(some[0])] for space in room)))
        return of_qkv, None, None


class _Samples(NamedTuple):
    """Of some samples, views of all; (S, H, L, d)."""

    q: Tensor
    k: Tensor
    v: Tensor
    gradient: Tensor
    """Of what attention gave."""
    of_q: Tensor
    of_k: Tensor
    of_v: Tensor
    """To be written."""
    mask: Tensor | None = None
    """(S, H, L)."""


class _Room(NamedTuple):
    """What is written anew for all samples in turn."""

    q: Tensor
    """(S, H, L, d + 1): the last column is 1, so that"""
    k: Tensor
    """(S, H, P, d + 1) has in its last what is added to the scores of each key, which hides those beyond L."""
    v: Tensor
    states: Tensor
    """(S, H, P, d)."""
    gradient: Tensor
    """(S, H, L, d)."""
    probabilities: Tensor
    scores: Tensor
    """(S, H, L, P)."""


def _room(like: Tensor, samples: int, num_heads: int, *, length: int, width: int) -> _Room:
    places = -(-length // _LINE) * _LINE

    def new(*rows: int) -> Tensor:
        return like.new_empty(samples, num_heads, *rows)

    q, k, v = new(length, width + 1), new(places, width + 1).zero_(), new(places, width).zero_()
    q[..., width] = 1
    k[..., length:, width] = -torch.inf
    tables = new(length, places), new(length, places)
    return _Room(q, k, v, new(places, width), new(length, width), *tables)


def _go_back(some: _Samples, room: _Room) -> None:
    """Write the gradients of queries, keys and values."""
    length, width = some.q.shape[-2:]
    scale = width**-0.5
    torch.mul(
        some.q, scale, out=room.gradient
    )  # a strided product is slower, and there is room until the gradient comes
    room.q[..., :width] = room.gradient
    room.k[..., :length, :width] = some.k
    if some.mask is not None:
        room.k[..., :length, width] = some.mask
    room.v[..., :length, :] = some.v
    room.gradient.copy_(some.gradient)
    q, k, v, states, gradient, probabilities, scores = (space.flatten(0, 1) for space in room)
    torch.bmm(q, k.transpose(1, 2), out=scores)
    torch.softmax(scores, -1, out=probabilities)
    torch.bmm(probabilities.transpose(1, 2), gradient, out=states)
    some.of_v.copy_(room.states[..., :length, :])
    torch.bmm(gradient, v.transpose(1, 2), out=scores)
    torch._softmax_backward_data(scores, probabilities, -1, scores.dtype, grad_input=scores)
    torch.bmm(scores.transpose(1, 2), q[..., :width], out=states)
    some.of_k.copy_(room.states[..., :length, :])
    torch.bmm(scores, k[..., :width], out=gradient)
    some.of_q.copy_(room.gradient.mul_(scale))
