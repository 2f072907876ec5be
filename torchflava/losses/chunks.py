"""Cross-entropy of a chunk of rows with its gradient at the logits, made at once, so that the logits need not be kept.

Letters: R rows, V columns: codes, words, or the other side of all pairs.
"""

import torch
from torch import Tensor


def cross_entropy_with_gradient(
    logits: Tensor, labels: Tensor, skipped: Tensor, *, wanted: bool
) -> tuple[Tensor, Tensor]:
    """(R, V), labels (R, 1) int64 in [0, V), skipped (R, 1) bool -> the sum (), and its gradient (R, V) if wanted; float32."""
    table = torch.log_softmax(logits, dim=1, dtype=torch.float32)
    del logits  # or they would be there beside the table
    total = -torch.where(skipped, 0.0, table.gather(1, labels)).sum()
    if wanted:
        table.exp_().scatter_add_(1, labels, table.new_full((), -1.0).expand_as(labels))
        table.masked_fill_(skipped, 0.0)
    return total, table
