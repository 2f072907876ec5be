"""Metrics against scikit-learn, SciPy and sums written out, and the traps of torchmetrics' defaults."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk
from torchmetrics.functional.classification import binary_auroc, multiclass_accuracy

from torchflava.evaluation import accuracy, accuracy_and_f1, auroc, f1, matthews, mean_per_class, pearson, spearman


def drawn(seed: int, high: int = 7, n: int = 41) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(high, (n,), generator=g), torch.randint(high, (n,), generator=g)


@given(seed=st.integers(0, 999))
def test_classification_equals_scikit_learn(seed: int) -> None:
    predictions, targets = drawn(seed)
    assert accuracy(predictions, targets) == pytest.approx(sk.accuracy_score(targets, predictions))
    present = np.unique(targets)
    recalls = sk.recall_score(targets, predictions, labels=present, average=None, zero_division=0)
    assert mean_per_class(predictions, targets) == pytest.approx(recalls.mean())


@given(seed=st.integers(0, 999))
def test_two_classes_equal_scikit_learn(seed: int) -> None:
    predictions, targets = drawn(seed, 2)
    assert matthews(predictions, targets) == pytest.approx(sk.matthews_corrcoef(targets, predictions))
    assert f1(predictions, targets) == pytest.approx(sk.f1_score(targets, predictions))
    both = (sk.accuracy_score(targets, predictions) + sk.f1_score(targets, predictions)) / 2
    assert accuracy_and_f1(predictions, targets) == pytest.approx(both)


@given(seed=st.integers(0, 999), values=st.integers(2, 99), scale=st.sampled_from([1e-6, 1.0, 1e4]))
def test_numbers_equal_scipy_and_scikit_learn_with_ties(seed: int, values: int, scale: float) -> None:
    predictions, targets = drawn(seed, values)
    scores = predictions.float() * scale - 3 * scale
    if len(set(predictions.tolist())) == 1 or len(set(targets.tolist())) == 1:
        return
    assert pearson(scores, targets.float()) == pytest.approx(stats.pearsonr(scores.double(), targets).statistic)
    assert spearman(scores, targets.float()) == pytest.approx(stats.spearmanr(scores, targets).statistic, abs=1e-6)
    true = (targets > targets.min()).long()
    assert auroc(scores, true) == pytest.approx(sk.roc_auc_score(true, scores), abs=1e-6)


def test_a_class_that_only_occurs_in_predictions_does_not_count() -> None:
    predictions, targets = torch.tensor([0, 2, 1, 2]), torch.tensor([0, 0, 1, 1])
    assert mean_per_class(predictions, targets) == 0.5
    assert float(multiclass_accuracy(predictions, targets, 3, average="macro")) == pytest.approx(1 / 3)


def test_large_logits_keep_their_order() -> None:
    scores, targets = torch.tensor([40.0, 50.0, 60.0, 30.0]), torch.tensor([0, 1, 1, 0])
    assert auroc(scores, targets) == 1.0
    assert float(binary_auroc(scores, targets)) < 1  # their sigmoids are equal


def test_predictions_that_are_all_equal_say_nothing() -> None:
    targets = torch.tensor([0, 1, 1, 0])
    assert matthews(torch.ones(4, dtype=torch.int64), targets) == 0
    uneven = torch.tensor([0, 1, 1, 1, 0])  # of which torchmetrics makes .26
    for same in (0, 1):
        assert matthews(torch.full((5,), same), uneven) == sk.matthews_corrcoef(uneven, torch.full((5,), same)) == 0
    assert f1(torch.zeros(4, dtype=torch.int64), targets) == 0
    assert pearson(torch.ones(4), targets.float()) == spearman(torch.ones(4), targets.float()) == 0
    assert auroc(torch.ones(4), targets) == 0.5


WRONG = [
    (accuracy, torch.tensor([0, 1]), torch.tensor([0]), r"predictions \(2,\), targets \(1,\)"),
    (mean_per_class, torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64), "no sample to score"),
    (matthews, torch.tensor([0, 1]), torch.tensor([1, 1]), "all 2 targets are 1"),
    (f1, torch.tensor([0, 2]), torch.tensor([0, 1]), "predictions reach from 0 to 2; give 0 and 1"),
    (pearson, torch.tensor([0.0, torch.nan]), torch.tensor([0.0, 1.0]), "not finite, the first in row 1"),
    (spearman, torch.tensor([0.0, 1.0]), torch.tensor([2.0, 2.0]), "all 2 targets are 2.0"),
    (auroc, torch.tensor([0.0, 1.0]), torch.tensor([0, 0]), "all 2 targets are 0"),
    (auroc, torch.tensor([0.0, torch.inf]), torch.tensor([0, 1]), "not finite"),
]


@pytest.mark.parametrize(("metric", "predictions", "targets", "message"), WRONG)
def test_names_what_is_wrong(metric, predictions, targets, message) -> None:
    with pytest.raises(ValueError, match=message):
        metric(predictions, targets)
