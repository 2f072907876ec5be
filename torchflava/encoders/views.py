"""Only the states that are asked for, and two views of a batch in one pass, of any encoder.

The losses of a step ask for a class token here and for labelled rows there. An encoder that offers `at` and `both`, as this
project's do, computes its last block for these rows alone, and runs the clean and the masked view side by side, so that its
weights are gathered and their gradients added once. Any other encoder is called as it is, and gives the same numbers.

Letters: B batch, L length, K rows asked for, D width.
"""

from typing import Any

import torch
from torch import Tensor

from torchflava.encoders.states import Encoded, Fused
from torchflava.layers import Transformer, take_rows

View = tuple[Tensor, Tensor | None]
"""What an encoder is called with: (pixels, masked) or (ids, keep)."""


def normed_at(encoder: Any, view: View, rows: Tensor) -> Tensor:
    """A view of a batch, rows (B, K) int64 -> (B, K, D): the encoder's normed states at these rows."""
    if hasattr(encoder, "at"):
        states: Tensor = encoder.at(*view, rows=rows)
        return states
    return take_rows(encoder(*view).normed, rows)


def both_views(encoder: Any, clean: View, masked: View, *, rows: Tensor) -> tuple[Tensor, Encoded]:
    """Two views of a batch, rows (B, K) -> normed states (B, K, D) of the clean one at these rows, and all of the masked one."""
    if hasattr(encoder, "both"):
        found: tuple[Tensor, Encoded] = encoder.both(clean, masked, rows=rows)
        return found
    return normed_at(encoder, clean, rows), encoder(*masked)


def fused_at(encoder: Any, image: Tensor, text: Tensor, *, keep: Tensor, rows: Tensor) -> Tensor:
    """(B, 1 + N, D), (B, T, D), keep (B, T), rows (B, K) of CLS_M, image and text in a row -> (B, K, D) normed states."""
    if hasattr(encoder, "at"):
        states: Tensor = encoder.at(image, text, keep, rows=rows)
        return states
    fused: Fused = encoder(image, text, keep)
    return take_rows(torch.cat([fused.cls[:, None], fused.image, fused.text], dim=1), rows)


def first_rows(states: Tensor) -> Tensor:
    """(B, ...) -> (B, 1) int64 zeros: the rows of the class tokens."""
    return torch.zeros(states.shape[0], 1, dtype=torch.int64, device=states.device)


def trunk_at(trunk: Any, x: Tensor, rows: Tensor, *, keep: Tensor | None = None) -> Tensor:
    """(B, L, D), rows (B, K) -> (B, K, D) of any trunk."""
    if isinstance(trunk, Transformer):
        return trunk.at(x, rows, keep)
    return take_rows(trunk(x, keep), rows)


def trunk_both(trunk: Any, x: Tensor, rows: Tensor, *, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(2B, L, D), keep (2B, L), rows (B, K) -> (B, K, D) of the first half at these rows, and (B, L, D) of the second."""
    if not isinstance(trunk, Transformer):
        first, second = trunk(x, keep).chunk(2)
        return take_rows(first, rows), second
    first, second = trunk.before_last(x, keep).chunk(2)
    of_first, of_second = (None, None) if keep is None else keep.chunk(2)
    return trunk.last_at(first, rows, of_first), trunk.last(second, of_second)
