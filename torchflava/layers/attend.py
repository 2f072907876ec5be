"""Attention itself: torch's fused kernels, and plain products where those are faster (docs/decisions/0006).

Letters: B batch, H heads, L length, d width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from torchflava.layers.attend_again import attend_again, split
from torchflava.layers.bare import learns_low_on_the_cpu

_LONGEST = 256  # places; beyond them plain products gain little, and their tables would take the memory
_AGAIN = range(192, 641)  # places: below, keeping tables is as fast; above, torch's kernel is


def attend_joined(qkv: Tensor, num_heads: int, keep: Tensor | None = None) -> Tensor:
    """(B, L, 3D), queries, keys and values as one linear layer gives them -> (B, L, D), heads side by side.

    What `attend` gives, without a table kept for backward where that pays (docs/decisions/0074).

    Args:
        num_heads: H.
        keep: (B, L) bool, True where a key may be attended to.
    """
    if qkv.shape[1] in _AGAIN and learns_low_on_the_cpu(qkv):
        return attend_again(qkv, num_heads, None if keep is None else _numbers(keep, qkv.dtype))
    mask = None if keep is None else keep[:, None, None, :]
    return attend(*split(qkv, num_heads), mask=mask).transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Queries, keys and values (B, H, L, d) -> (B, H, L, d).

    Args:
        q, k, v: of one type.
        mask: broadcasts to (B, H, L, L): bool, True where a key may be attended to, or numbers to be added to the scores.
        causal: each place sees itself and what came before; only without a mask.
    """
    if causal or not _by_products(q):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores += _numbers(mask, q.dtype) if mask.dtype == torch.bool else mask
    return scores.softmax(-1) @ v


def _by_products(q: Tensor) -> bool:
    """In training in low precision on the CPU: there torch's kernel goes back two to four times as slowly."""
    return q.is_cpu and q.dtype != torch.float32 and q.requires_grad and q.shape[-2] <= _LONGEST


def _numbers(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask as numbers to be added to scores."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)
