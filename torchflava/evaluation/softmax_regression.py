"""Multinomial logistic regression on fixed features, for several strengths of the penalty at once.

The objective is the sum of the cross-entropies plus λ/2 ‖W‖², the bias unpenalised, that is scikit-learn's with C = 1/λ. It is
minimised divided by N, and is done when no entry of the gradient exceeds 1e-4, as scikit-learn is. Two classes have one logit, as
there, whose weights are the difference of two columns: the penalty is on that difference.

Letters: N samples, D features, C classes, K penalties.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from torchflava.evaluation.lbfgs import minimise

TOLERANCE = 1e-4
"""Of the gradient of the summed loss."""
_AT_ONCE = 2**24
"""Logits computed at once, which bounds memory: N samples of ImageNet have 9e9 for 7 penalties."""


class Fits(NamedTuple):
    """K fitted classifiers."""

    weight: Tensor
    """(K, C, D)."""
    bias: Tensor
    """(K, C)."""
    converged: Tensor
    """(K,) bool."""
    iterations: Tensor
    """(K,) int64."""

    def predict(self, features: Tensor) -> Tensor:
        """(N, D) -> (K, N) int64: the class of the largest logit."""
        num, classes, width = self.weight.shape
        parts = torch.split(features.to(self.weight), max(1, _AT_ONCE // (num * classes)))
        flat = self.weight.reshape(-1, width).T
        return torch.cat([(part @ flat).view(-1, num, classes).add(self.bias).argmax(2) for part in parts]).T


def fit_softmax(features: Tensor, labels: Tensor, lambdas: list[float], *, num_classes: int, max_iter: int) -> Fits:
    """(N, D), (N,) int64 of 0..C-1, K penalties -> K classifiers, from zero weights, on the features' device in their precision.

    Each iteration multiplies the features with the weights of all K at once.
    """
    count, width = features.shape
    penalty = features.new_tensor(lambdas) * (2 if num_classes == 2 else 1) / count

    def objective(x: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = x[:, : num_classes * width], x[:, num_classes * width :]
        values, slopes = _cross_entropy(features, labels, weight.reshape(-1, width), bias=bias)
        values = values / count + 0.5 * penalty[which].double() * weight.double().square().sum(1)
        slopes /= count
        slopes[:, : num_classes * width] += penalty[which, None] * weight
        return values, slopes

    start = features.new_zeros(len(lambdas), num_classes * (width + 1))
    found = minimise(objective, start, max_iter=max_iter, tolerance=TOLERANCE / count)
    weight, bias = torch.split(found.parameters, [num_classes * width, num_classes], 1)
    return Fits(weight.reshape(-1, num_classes, width), bias, found.converged, found.iterations)


def _cross_entropy(features: Tensor, labels: Tensor, weight: Tensor, *, bias: Tensor) -> tuple[Tensor, Tensor]:
    """(N, D), (N,), (K * C, D), (K, C) -> (K,) float64 sums over the samples and their gradients (K, C * D + C)."""
    num, classes = bias.shape
    total = torch.zeros(num, dtype=torch.float64, device=bias.device)
    to_weight, to_bias = torch.zeros_like(weight), torch.zeros_like(bias)
    chunk = max(1, _AT_ONCE // (num * classes))
    for x, y in zip(torch.split(features, chunk), torch.split(labels, chunk), strict=True):
        logits = torch.addmm(bias.reshape(-1), x, weight.T).view(-1, num, classes)
        at = y[:, None, None].expand(-1, num, 1)
        others = logits.sub_(logits.gather(2, at)).scatter_(2, at, -torch.inf)
        odds = others.logsumexp(2, keepdim=True)  # of the other classes against the right one
        loss = F.softplus(odds)
        total += loss[:, :, 0].sum(0, dtype=torch.float64)
        error = others.sub_(loss).exp_().scatter_(2, at, -odds.sigmoid())
        to_weight.addmm_(error.flatten(1).T, x)
        to_bias += error.sum(0)
    return total, torch.cat([to_weight.view(num, -1), to_bias], 1)
