"""The metrics of the paper's tasks (tables 4 and 5); which image tasks average over classes stands in Radford et al. 2021, A.2.

Those that torchmetrics has are computed by it, in float64; it is loaded when one is asked for, for it takes seconds.

Letters: N samples.
"""

import torch
from torch import Tensor


def accuracy(predictions: Tensor, targets: Tensor) -> float:
    """(N,), (N,) int64 -> the share of samples that are right (micro: classes weigh as they are frequent)."""
    _check(predictions, targets)
    return float((predictions == targets).double().mean())


def mean_per_class(predictions: Tensor, targets: Tensor) -> float:
    """(N,), (N,) int64 -> the mean, over the classes that occur in the targets, of the share of their samples that are right.

    A class that is predicted but never right does not count; `torchmetrics.MulticlassAccuracy(average="macro")` counts it.
    """
    _check(predictions, targets)
    _, own = torch.unique(targets, return_inverse=True)
    total = own.bincount().double()
    return float((own[predictions == targets].bincount(minlength=len(total)) / total).mean())


def matthews(predictions: Tensor, targets: Tensor) -> float:
    """(N,), (N,) int64 of 0 and 1 -> Matthews' correlation coefficient, of CoLA; 0 for predictions that are all equal.

    Raises:
        ValueError: also where all targets are equal, for which it is not defined.
    """
    from torchmetrics.functional.classification import binary_matthews_corrcoef

    _check_binary(predictions, targets)
    _check_varied(targets)
    # torchmetrics gives predictions that are all equal what lies near 0 on one side; scikit-learn's 0 is by definition.
    return float(binary_matthews_corrcoef(predictions, targets)) if _varies(predictions) else 0.0


def f1(predictions: Tensor, targets: Tensor) -> float:
    """(N,), (N,) int64 of 0 and 1 -> the F1 score of class 1; 0 where it is never right."""
    from torchmetrics.functional.classification import binary_f1_score

    _check_binary(predictions, targets)
    return float(binary_f1_score(predictions, targets))


def accuracy_and_f1(predictions: Tensor, targets: Tensor) -> float:
    """(N,), (N,) int64 of 0 and 1 -> the mean of accuracy and F1, as which MRPC and QQP count in the paper's average."""
    return (accuracy(predictions, targets) + f1(predictions, targets)) / 2


def pearson(predictions: Tensor, targets: Tensor) -> float:
    """(N,), (N,) float -> the correlation, of STS-B; 0 for predictions that are all equal.

    Raises:
        ValueError: also for numbers that are not finite and for targets that are all equal.
    """
    from torchmetrics.functional.regression import pearson_corrcoef

    _check_numbers(predictions, targets)
    return float(pearson_corrcoef(predictions.double(), targets.double())) if _varies(predictions) else 0.0


def spearman(predictions: Tensor, targets: Tensor) -> float:
    """(N,), (N,) float -> the correlation of the ranks, equal numbers sharing the mean of theirs; else as `pearson`."""
    from torchmetrics.functional.regression import spearman_corrcoef

    _check_numbers(predictions, targets)
    return float(spearman_corrcoef(predictions.double(), targets.double())) if _varies(predictions) else 0.0


def auroc(scores: Tensor, targets: Tensor) -> float:
    """(N,) float, (N,) int64 of 0 and 1 -> how often a 1 has a higher score than a 0, equal scores counting half.

    Scores are logits, differences of logits or probabilities: only their order counts. (torchmetrics makes probabilities of
    what lies outside [0, 1], by which large logits become equal; it is given ranks.)

    Raises:
        ValueError: also for scores that are not finite and for targets that are all equal.
    """
    from torchmetrics.functional.classification import binary_auroc

    _check_numbers(scores, targets)
    _check_binary(targets, targets)
    _, ranks = torch.unique(scores, return_inverse=True)
    return float(binary_auroc(ranks.double() / len(ranks), targets))


def _check_numbers(scores: Tensor, targets: Tensor) -> None:
    _check(scores, targets)
    for name, numbers in (("predictions", scores), ("targets", targets)):
        if not torch.isfinite(numbers).all():
            raise ValueError(
                f"{name} hold numbers that are not finite, the first in row {int((~torch.isfinite(numbers)).int().argmax())}"
            )
    _check_varied(targets)


def _check_varied(targets: Tensor) -> None:
    if not _varies(targets):
        raise ValueError(f"all {len(targets)} targets are {targets[0].item()}, for which this metric is not defined")


def _varies(numbers: Tensor) -> bool:
    return bool((numbers != numbers[0]).any())


def _check_binary(predictions: Tensor, targets: Tensor) -> None:
    _check(predictions, targets)
    for name, labels in (("predictions", predictions), ("targets", targets)):
        if ((labels != 0) & (labels != 1)).any():
            raise ValueError(f"{name} reach from {labels.min().item()} to {labels.max().item()}; give 0 and 1")


def _check(predictions: Tensor, targets: Tensor) -> None:
    if predictions.shape != targets.shape or targets.ndim != 1:
        raise ValueError(f"predictions {tuple(predictions.shape)}, targets {tuple(targets.shape)}; give (N,) of both")
    if not len(targets):
        raise ValueError("there is no sample to score; give one at least")
