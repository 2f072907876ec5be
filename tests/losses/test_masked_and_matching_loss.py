"""Masked prediction and matching against loops.

Letters: B batch, K rows asked for, V codes.
"""

import math

import pytest
import torch
from torch import Tensor

from torchflava.batch import IGNORE
from torchflava.losses import masked_prediction_loss, matching_loss

B, K, V = 3, 5, 11


def logits(*shape: int) -> Tensor:
    return (3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).requires_grad_()


def labels() -> Tensor:
    drawn = torch.randint(0, V, (B, K), generator=torch.Generator().manual_seed(1))
    drawn[0, 3:], drawn[2] = IGNORE, IGNORE
    return drawn


def test_masked_prediction_is_a_loop_forward_and_gradient() -> None:
    x, y = logits(B, K, V), labels()
    loss = masked_prediction_loss(x, y)
    each = [
        x[b, k].double().exp().sum().log() - x[b, k, y[b, k]] for b in range(B) for k in range(K) if y[b, k] != IGNORE
    ]
    slow = torch.stack(each).sum()
    torch.testing.assert_close(loss.total.double(), slow)
    assert loss.num_rows == len(each) == 8
    assert loss.mean.item() == pytest.approx(slow.item() / 8)
    a, b = (torch.autograd.grad(value, x)[0] for value in (loss.total, slow))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert not a[2].any()


@pytest.mark.parametrize("width", [1, 2, V, 8192])
def test_uniform_logits_cost_the_logarithm_of_the_codes(width: int) -> None:
    loss = masked_prediction_loss(torch.full((B, K, width), 7.0), torch.zeros(B, K, dtype=torch.int64))
    assert loss.mean.item() == pytest.approx(math.log(width), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("rows", [0, K])
def test_nothing_labelled_costs_exactly_nothing(rows: int) -> None:
    x = logits(B, rows, V)
    loss = masked_prediction_loss(x, torch.full((B, rows), IGNORE))
    assert loss.mean.item() == 0.0
    assert loss.num_rows == 0
    (grad,) = torch.autograd.grad(loss.mean, x)
    assert not grad.any()


def test_sums_are_taken_in_float32() -> None:
    x, y = logits(B, K, V).detach().bfloat16(), labels()
    loss = masked_prediction_loss(x, y)
    assert loss.total.dtype == loss.num_rows.dtype == torch.float32
    assert torch.equal(loss.total, masked_prediction_loss(x.float(), y).total)


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels are \(3, 4\), logits \(3, 5, 11\): one label for each row is due"):
        masked_prediction_loss(logits(B, K, V), labels()[:, :4])


def test_matching_is_a_loop_forward_and_gradient() -> None:
    x, matched = logits(B, 2), torch.tensor([True, False, True])
    loss = matching_loss(x, matched)
    slow = torch.stack([(1 + (x[b, 1 - int(m)] - x[b, int(m)]).exp()).log() for b, m in enumerate(matched)]).sum()
    torch.testing.assert_close(loss.total, slow)
    assert loss.num_rows == B
    a, b = (torch.autograd.grad(value, x)[0] for value in (loss.total, slow))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_undecided_matching_costs_log_2() -> None:
    loss = matching_loss(torch.zeros(B, 2).bfloat16(), torch.tensor([True, False, False]))
    assert loss.mean.item() == pytest.approx(math.log(2))
    assert loss.total.dtype == torch.float32


@pytest.mark.parametrize(
    "matched", [torch.ones(2, dtype=torch.bool), torch.ones(B, 1, dtype=torch.bool), torch.ones(B)]
)
def test_matched_of_the_wrong_shape_or_type_is_refused(matched: Tensor) -> None:
    with pytest.raises(ValueError, match=r"matched is \(.*; one bool for each of 3 rows is due"):
        matching_loss(logits(B, 2), matched)


@pytest.mark.parametrize("label", [7, 9, -1, -99])
def test_a_label_outside_the_codes_is_named(label: int) -> None:
    with pytest.raises(ValueError, match=rf"label {label} lies outside \[0, 7\)"):
        masked_prediction_loss(torch.zeros(2, 3, 7), torch.tensor([[0, -100, 6], [1, label, 2]]))
