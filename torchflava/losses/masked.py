"""Masked prediction: cross-entropy over the labelled rows (paper §3.2, L_MIM, L_MLM, L_MMM).

Letters: B batch, K rows asked for, V codes or words.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from torchflava.batch import IGNORE
from torchflava.losses.loss import Loss


def masked_prediction_loss(logits: Tensor, labels: Tensor) -> Loss:
    """(B, K, V), (B, K) int64 with `IGNORE` where nothing is asked -> `Loss`, in float32.

    Raises:
        ValueError: if the labels do not fit the logits; and (on the CPU, where looking costs nothing) for a label beyond V.
    """
    check_labels(labels, logits.shape)
    total = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE, reduction="sum")
    return Loss(total, (labels != IGNORE).sum().float())


def check_labels(labels: Tensor, shape: Sequence[int]) -> None:
    """Refuse labels that do not fit logits of a shape (B, K, V); on the CPU alone, a label beyond V."""
    if tuple(shape[:2]) != tuple(labels.shape):
        raise ValueError(f"labels are {tuple(labels.shape)}, logits {tuple(shape)}: one label for each row is due")
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = labels[(labels >= shape[-1]) | ((labels < 0) & (labels != IGNORE))]
        if len(wrong):
            raise ValueError(
                f"label {int(wrong[0])} lies outside [0, {shape[-1]}); build the head for this codebook or vocabulary"
            )
