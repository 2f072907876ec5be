"""The contrastive loss of a rank's rows against all ranks' columns, in chunks of rows: no table of all by all.

The loss is a sum over rows, so a chunk's gradients are made beside its loss, in forward, and its logits given back; backward
multiplies. No logit is computed twice, and a chunk's table is the same size whatever the batch (docs/decisions/0071).
Letters: B rows on this rank, N columns of all ranks, E embedding width.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from torchflava.losses.chunks import cross_entropy_with_gradient

CELLS = 2**22
"""Of a chunk's logits, 16 MB: on a CPU about the fastest power of two; whole tables are no faster, of 7 rows or of 8,192
(docs/decisions/0071)."""


def compare(
    pairs: Tensor, columns: Tensor, scale: Tensor, *, contrast: Tensor, first: int = 0, cells: int = CELLS
) -> Tensor:
    """The sum over rows of cross-entropy against all columns, the mean of both directions; () float32, with gradient.

    Args:
        pairs: (B, 2, E) float32, of this rank: images, and the texts that belong to them.
        columns: (N, 2, E) float32, of all ranks.
        scale: () or (1,) float32, which multiplies the cosines.
        contrast: (B,) bool: rows that count.
        first: the column of row 0; those of the others follow.
        cells: at most so many logits exist at once, but a row's at least.
    """
    learns = torch.is_grad_enabled() and (pairs.requires_grad or columns.requires_grad or scale.requires_grad)
    columns = columns.view_as(columns)  # on one rank they are `pairs`: "duplicate tensor input", says torch.compile
    at_a_time = max(1, cells // max(1, len(columns)))
    how = _How(first, at_a_time, learns, learns and columns.requires_grad)
    total: Tensor = _Compare.apply(pairs, columns, scale, contrast, how)
    return total


class _How(NamedTuple):
    first: int
    at_a_time: int
    learns: bool
    """Whether any gradient is wanted."""
    through: bool
    """Whether the columns' is."""


class _Compare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pairs: Tensor, columns: Tensor, scale: Tensor, contrast: Tensor, how: _How) -> Tensor:
        first, at_a_time, learns, through = how
        total, of_scale = pairs.new_zeros(()), torch.zeros_like(scale)
        of_pairs = torch.zeros_like(pairs, memory_format=torch.contiguous_format)
        of_columns = pairs.new_zeros(2, len(columns) if through else 0, pairs.shape[2])
        labels, skipped = torch.arange(first, first + len(pairs), device=pairs.device)[:, None], ~contrast[:, None]
        for way, other in ((0, 1), (1, 0)):
            for at in range(0, len(pairs), at_a_time):
                chunk = slice(at, at + at_a_time)
                rows, against = pairs[chunk, way], columns[:, other]
                loss, error = cross_entropy_with_gradient(
                    scale * rows @ against.T, labels[chunk], skipped[chunk], wanted=learns
                )
                total += loss / 2  # of two directions
                if learns:
                    error.div_(2)
                    back = error @ against
                    of_pairs[chunk, way] = scale * back
                    of_scale += (back * rows).sum()
                if through:
                    torch.addmm(of_columns[other], error.T, scale * rows, out=of_columns[other])
                del error  # or it would be there beside the next chunk's two
        ctx.through = through
        ctx.save_for_backward(of_pairs, of_columns, of_scale)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_pairs, of_columns, of_scale = ctx.saved_tensors
        through = gradient * of_columns.transpose(0, 1) if ctx.through else None
        return gradient * of_pairs, through, gradient * of_scale, None, None
