"""Pure functions of logits or embeddings; the only parameter is the temperature. No head lives here."""

from torchflava.losses.classification import answers_loss, class_loss, score_loss
from torchflava.losses.contrastive import ContrastiveLoss, contrastive_loss
from torchflava.losses.dvae import logit_laplace_loss, uniform_kl_loss
from torchflava.losses.fused import fused_prediction_loss
from torchflava.losses.loss import Loss
from torchflava.losses.masked import masked_prediction_loss
from torchflava.losses.matching import matching_loss
from torchflava.losses.total import LOSSES, mean_losses, weighted_sum

__all__ = [
    "LOSSES",
    "ContrastiveLoss",
    "Loss",
    "answers_loss",
    "class_loss",
    "contrastive_loss",
    "fused_prediction_loss",
    "logit_laplace_loss",
    "masked_prediction_loss",
    "matching_loss",
    "mean_losses",
    "score_loss",
    "uniform_kl_loss",
    "weighted_sum",
]
