"""Masked prediction through a head, with all logits or in chunks, whichever pays.

Letters: B batch, K rows asked for, D width, V codes or words.
"""

from torch import Tensor, nn

from torchflava.heads import MaskedPredictionHead
from torchflava.layers.bare import is_bare
from torchflava.losses import Loss, fused_prediction_loss, masked_prediction_loss
from torchflava.losses.fused import ROWS

_CELLS = 2**25  # logits, 134 MB in float32; with fewer there is little to spare


def prediction_loss(head: nn.Module, states: Tensor, labels: Tensor) -> Loss:
    """(B, K, D), (B, K) int64 with `IGNORE` where nothing is asked -> the loss of what the head predicts.

    A `MaskedPredictionHead` as it was built needs no logits where they would be many; any other head, one whose projection was
    replaced or wrapped, and one with hooks, is called.
    """
    if (
        isinstance(head, MaskedPredictionHead)
        and is_bare(head, MaskedPredictionHead)
        and is_bare(head.decoder, nn.Linear)
    ):
        weight, bias = head.decoder.weight, head.decoder.bias
        if pays(labels.numel(), *weight.shape):
            return fused_prediction_loss(head.transform(states), weight, bias, labels=labels)
    return masked_prediction_loss(head(states), labels)


def pays(rows: int, num_codes: int, width: int) -> bool:
    """Whether chunks spare memory worth the name: logits are many, and weigh more than the weight's gradient."""
    return rows * num_codes > _CELLS and rows > max(ROWS, width)
