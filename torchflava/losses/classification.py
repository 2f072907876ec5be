"""Losses of fine-tuning: of classes, of scores and of answers that are worth something each (paper, appendix C).

Letters: B batch, C classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from torchflava.losses.loss import Loss


def class_loss(logits: Tensor, labels: Tensor) -> Loss:
    """(B, C), labels (B,) int64 -> the sum of cross-entropies."""
    return _loss(F.cross_entropy(logits.float(), labels, reduction="sum"), logits)


def score_loss(logits: Tensor, scores: Tensor) -> Loss:
    """(B, 1), scores (B,) float -> the sum of squared errors."""
    return _loss(F.mse_loss(logits[:, 0].float(), scores.float(), reduction="sum"), logits)


def answers_loss(logits: Tensor, worth: Tensor) -> Loss:
    """(B, C), worth (B, C) float in [0, 1] -> the sum, over rows and answers, of binary cross-entropies.

    Of a row it is the sum and not the mean over answers, so that its size does not hang on their number.
    """
    return _loss(F.binary_cross_entropy_with_logits(logits.float(), worth.float(), reduction="sum"), logits)


def _loss(total: Tensor, logits: Tensor) -> Loss:
    return Loss(total, torch.tensor(float(len(logits)), device=total.device))
