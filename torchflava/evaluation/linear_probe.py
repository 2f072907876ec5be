"""The linear probe of CLIP (Radford et al. 2021, appendix A.3; paper §4.2): logistic regression on frozen features.

λ is searched on the validation split, on 96 logarithmic steps between 1e-6 and 1e6: first a hundredfold apart, then at half the
distance on both sides of the best, until the steps are eight to a decade. The classifier is fitted again to training and
validation split together and tested once. The objective is the sum of the cross-entropies plus λ/2 ‖W‖², the bias unpenalised:
scikit-learn's with C = 1/λ. L-BFGS stops at `max_iter` iterations.

Letters: N samples, D features, C classes.
"""

import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from torchflava.evaluation.metrics import accuracy
from torchflava.evaluation.softmax_regression import TOLERANCE, fit_softmax

Backend = Literal["torch", "sklearn"]
Metric = Callable[[Tensor, Tensor], float]
"""(N,) predicted and (N,) true classes -> a number, the higher the better."""

STEPS_A_DECADE = 8
_LAST = 96  # the grid's numbers are 0 to 96: λ = 10 ** (number / 8 - 6)
_FIRST_STEP = 2 * STEPS_A_DECADE


class Labelled(NamedTuple):
    """Features and what they show."""

    features: Tensor
    """(N, D) float; float64 is fitted in float64, all else in float32."""
    labels: Tensor
    """(N,) int64 of 0..C-1."""


class ProbeResult(NamedTuple):
    """What a linear probe found."""

    lambda_: float
    """The penalty that was best on the validation split; of equally good ones the largest."""
    readings: dict[float, float]
    """The metric on the validation split for each λ that was tried, in ascending order."""
    value: float
    """The metric on the test split."""
    predictions: Tensor
    """(N,) int64: the classes of the test split, on the CPU."""
    converged: bool
    """Whether the last fit ended before `max_iter`."""


def linear_probe(
    train: Labelled,
    valid: Labelled | None,
    test: Labelled,
    *,
    num_classes: int,
    backend: Backend = "torch",
    max_iter: int = 1000,
    metric: Metric = accuracy,
    device: torch.device | str = "cpu",
) -> ProbeResult:
    """Search λ on `valid`, fit to `train` and `valid`, test once.

    Args:
        train: what λ's candidates are fitted to.
        valid: what λ is chosen on; without one, a fifth of each class of `train`, as `held_out` draws it.
        test: looked at once, with the λ that was chosen.
        num_classes: C; a class may be missing in a split, and one that is missing in training is never predicted.
        backend: "torch" fits several λ at once, on `device`; "sklearn" one after the other, on the CPU (the extra `eval`).
        max_iter: iterations of L-BFGS at most, for each fit.
        metric: of the task: `accuracy` or `mean_per_class`.
        device: where torch computes; it must hold the features of `train` and `valid`.

    Raises:
        ValueError: for an empty split, splits that differ in width, labels out of range, features that are not finite, or
            training labels of one class only.
    """
    if backend not in ("torch", "sklearn"):
        raise ValueError(f"backend {backend!r} is unknown; choose 'torch' or 'sklearn'")
    if backend == "sklearn" and torch.device(device).type != "cpu":
        raise ValueError(
            f"scikit-learn computes on the CPU, not on {device}; leave device out or choose backend='torch'"
        )
    splits = {"train": train, "test": test} | ({} if valid is None else {"valid": valid})
    for name, split in splits.items():
        _check(name, split, num_classes, width=train.features.shape[-1])
    if valid is None:
        train, valid = held_out(train)
    fit = _with_torch if backend == "torch" else _with_sklearn
    place = _Place(num_classes, max_iter, torch.device(device))
    chosen, readings = _search(lambda lambdas: fit(train, valid.features, lambdas, place)[0], valid.labels, metric)
    both = Labelled(torch.cat([train.features, valid.features]), torch.cat([train.labels, valid.labels]))
    (predictions,), converged = fit(both, test.features, [chosen], place)
    return ProbeResult(chosen, readings, metric(predictions, test.labels.cpu()), predictions, converged)


def held_out(train: Labelled, *, share: float = 0.2, seed: int = 0) -> tuple[Labelled, Labelled]:
    """What is left of a split, and `share` of each class of it, to choose on; the same whenever labels and seed are.

    A class keeps one sample at least for training; both parts stay in the order that the split had.

    Raises:
        ValueError: if share is not between 0 and 1, or nothing would be held out.
    """
    if not 0 < share < 1:
        raise ValueError(f"share {share} must be above 0 and below 1")
    labels = train.labels.cpu()
    held = torch.zeros(len(labels), dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    for label in torch.unique(labels).tolist():
        (own,) = torch.where(labels == label)
        num = min(max(1, round(share * len(own))), len(own) - 1)
        held[own[torch.randperm(len(own), generator=generator)[:num]]] = True
    if not held.any():
        raise ValueError("no class has two samples, so none can be held out; give a validation split")
    keep, held = (~held).to(train.labels.device), held.to(train.labels.device)
    at = train.features.device
    return (
        Labelled(train.features[keep.to(at)], train.labels[keep]),
        Labelled(train.features[held.to(at)], train.labels[held]),
    )


class _Place(NamedTuple):
    num_classes: int
    max_iter: int
    device: torch.device


_Predict = Callable[[list[float]], list[Tensor]]


def _search(predict: _Predict, labels: Tensor, metric: Metric) -> tuple[float, dict[float, float]]:
    """The best λ, and the metric of each that was tried."""
    found: dict[int, float] = {}
    step, asked = _FIRST_STEP, list(range(0, _LAST + 1, _FIRST_STEP))
    while True:
        for number, predictions in zip(asked, predict([_lambda(number) for number in asked]), strict=True):
            found[number] = metric(predictions, labels.cpu())
        best = max(found, key=lambda number: (found[number], number))
        if step == 1:
            return _lambda(best), {_lambda(number): found[number] for number in sorted(found)}
        step //= 2
        asked = [n for n in (best - step, best + step) if 0 <= n <= _LAST and n not in found]


def _lambda(number: int) -> float:
    """The grid's λ; exact powers of ten where it has them."""
    return float(f"1e{number // STEPS_A_DECADE - 6}") * 10 ** (number % STEPS_A_DECADE / STEPS_A_DECADE)


def _with_torch(train: Labelled, features: Tensor, lambdas: list[float], place: _Place) -> tuple[list[Tensor], bool]:
    """The classes of `features` for each λ, on the CPU; and whether all fits ended before `max_iter`."""
    dtype = torch.float64 if train.features.dtype == torch.float64 else torch.float32
    present, labels = torch.unique(train.labels.to(place.device), return_inverse=True)
    fits = fit_softmax(
        train.features.to(place.device, dtype), labels, lambdas, num_classes=len(present), max_iter=place.max_iter
    )
    predicted = present[fits.predict(features.to(place.device))]
    return list(predicted.cpu()), bool(fits.converged.all())


def _with_sklearn(train: Labelled, features: Tensor, lambdas: list[float], place: _Place) -> tuple[list[Tensor], bool]:
    """The same by scikit-learn, one λ after the other."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ImportError("backend='sklearn' needs scikit-learn: pip install 'torchflava[eval]'") from error
    dtype = torch.float64 if train.features.dtype == torch.float64 else torch.float32
    x, y, asked = (t.cpu().numpy() for t in (train.features.to(dtype), train.labels, features.to(dtype)))
    predicted, ended = [], True
    for lambda_ in lambdas:
        model = LogisticRegression(C=1 / lambda_, max_iter=place.max_iter, tol=TOLERANCE / len(y))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it did not converge is told by the result
            model.fit(x, y)
        predicted.append(torch.from_numpy(model.predict(asked)))
        ended &= bool(model.n_iter_.max() < place.max_iter)
    return predicted, ended


def _check(name: str, split: Labelled, num_classes: int, *, width: int) -> None:
    features, labels = split
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"{name}: features {tuple(features.shape)} and labels {tuple(labels.shape)}; give (N, D) and (N,)"
        )
    if not len(labels):
        raise ValueError(f"{name} is empty; give a sample at least")
    if features.shape[1] != width:
        raise ValueError(
            f"{name} has features of width {features.shape[1]}, train of {width}; embed all with one model"
        )
    if not features.is_floating_point() or labels.dtype != torch.int64:
        raise ValueError(f"{name}: features are {features.dtype}, labels {labels.dtype}; give floats and int64")
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueError(
            f"{name}: labels reach from {int(labels.min())} to {int(labels.max())}, and num_classes is {num_classes}; "
            "number the classes from 0"
        )
    wrong = ~torch.isfinite(features).all(1)
    if wrong.any():
        raise ValueError(
            f"{name}: row {int(wrong.int().argmax())} and {int(wrong.sum()) - 1} more hold features that are not finite; "
            "look at the model that made them, and at those samples"
        )
    if name == "train" and bool((labels == labels[0]).all()):
        raise ValueError(f"train has samples of class {int(labels[0])} only; nothing can be learnt from one class")
