"""Attention itself: torch's fused kernels, and plain products where those are faster (docs/decisions/0006).

Letters: B batch, H heads, L length, d width of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_LONGEST = 256  # places; beyond them plain products gain little, and their tables would take the memory


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
        scores += torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, -torch.inf) if _is_bool(mask) else mask
    return scores.softmax(-1) @ v


def _by_products(q: Tensor) -> bool:
    """In training in low precision on the CPU: there torch's kernel goes back two to four times as slowly."""
    return q.is_cpu and q.dtype != torch.float32 and q.requires_grad and q.shape[-2] <= _LONGEST


def _is_bool(mask: Tensor) -> bool:
    return mask.dtype == torch.bool
