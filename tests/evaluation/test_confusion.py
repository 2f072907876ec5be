"""Confusions against scikit-learn's matrix, and against a count of pairs."""

from collections import Counter

import numpy as np
import pytest
import torch

from torchflava.evaluation import confusion, most_confused


def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 10, 500))  # class 10 has no sample
    noise = torch.from_numpy(rng.integers(0, 11, 500))
    return torch.where(torch.from_numpy(rng.random(500) < 0.6), labels, noise), labels


def test_the_matrix_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    predicted, labels = drawn()
    expected = metrics.confusion_matrix(labels, predicted, labels=range(11))
    assert confusion(predicted, labels, 11).tolist() == expected.tolist()


def test_the_most_confused_come_first_and_by_their_classes() -> None:
    predicted, labels = drawn()
    counts = Counter((t, p) for t, p in zip(labels.tolist(), predicted.tolist(), strict=True) if t != p)
    of_class = Counter(labels.tolist())
    expected = sorted(((t, p, n, n / of_class[t]) for (t, p), n in counts.items()), key=lambda c: (-c[2], c[0], c[1]))
    assert most_confused(confusion(predicted, labels, 11), 7) == expected[:7]
    assert most_confused(confusion(predicted, labels, 11), 10**6) == expected  # what never happened is not listed


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) predictions for \(3,\) labels"):
        confusion(torch.tensor([0, 1]), torch.tensor([0, 1, 1]), 2)
    with pytest.raises(ValueError, match="predictions reach from 0 to 2, and num_classes is 2"):
        confusion(torch.tensor([0, 2]), torch.tensor([0, 1]), 2)
    with pytest.raises(ValueError, match="labels reach from -1 to 1"):
        confusion(torch.tensor([0, 1]), torch.tensor([-1, 1]), 2)
