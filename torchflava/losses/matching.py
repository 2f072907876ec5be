"""Image-text matching: does the text belong to the image? (paper §3.2, L_ITM).

Letters: B batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from torchflava.losses.loss import Loss


def matching_loss(logits: Tensor, matched: Tensor) -> Loss:
    """(B, 2), (B,) bool, True for a true pair -> `Loss` over all rows, in float32.

    Raises:
        ValueError: if `matched` is not one bool a row.
    """
    if matched.shape != logits.shape[:1] or matched.dtype != torch.bool:
        raise ValueError(
            f"matched is {tuple(matched.shape)} {matched.dtype}; one bool for each of {len(logits)} rows is due"
        )
    total = F.cross_entropy(logits.float(), matched.long(), reduction="sum")
    return Loss(total, total.new_full((), len(logits)))
