"""The contrastive loss on one rank, against its closed form and its gradient written out.

Letters: B rows, E embedding width.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torchflava.losses import ContrastiveLoss, contrastive_loss

B, E = 7, 11


def embeddings(rows: int = B, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = F.normalize(torch.randn(2, rows, E, generator=torch.Generator().manual_seed(seed)), dim=-1)
    return x[0].clone().requires_grad_(), x[1].clone().requires_grad_()


def loss_by_hand(image: Tensor, text: Tensor, scale: Tensor, rows: list[int]) -> Tensor:
    """The sum over `rows` of -log softmax, one row at a time, both directions halved, in float64."""
    image, text, scale = image.double(), text.double(), scale.double()
    each = []
    for i in rows:
        to_text = [scale * image[i] @ t for t in text]
        to_image = [scale * text[i] @ j for j in image]
        each += [(torch.stack(s).exp().sum().log() - s[i]) / 2 for s in (to_text, to_image)]
    return torch.stack(each).sum() if each else 0 * scale.sum() * (image.sum() + text.sum())


@pytest.mark.parametrize("size", [2, 3, 11])
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_orthonormal_pairs_cost_log_1_plus_others_times_exp_minus_scale(size: int, scale: float) -> None:
    basis = torch.eye(E)[:size]
    loss = contrastive_loss(basis, basis, torch.tensor([scale]))
    assert loss.num_rows == size
    assert loss.mean.item() == pytest.approx(math.log1p((size - 1) * math.exp(-scale)), rel=1e-5, abs=1e-7)


def test_equal_embeddings_cost_the_logarithm_of_the_rows() -> None:
    same = F.normalize(torch.ones(B, E), dim=-1)
    assert contrastive_loss(same, same, torch.tensor(20.0)).mean.item() == pytest.approx(math.log(B), rel=1e-5)


@pytest.mark.parametrize("contrast", [None, [True, False, True, True, False, False, True], [False] * B])
def test_forward_and_gradient_are_those_of_a_loop(contrast: list[bool] | None) -> None:
    image, text = embeddings()
    log_scale = torch.tensor([2.6592], requires_grad=True)
    rows = [i for i in range(B) if contrast is None or contrast[i]]
    mask = None if contrast is None else torch.tensor(contrast)
    fast = contrastive_loss(image, text, log_scale.exp(), contrast=mask)
    slow = loss_by_hand(image, text, log_scale.exp(), rows)
    torch.testing.assert_close(fast.total.double(), slow.reshape(()), rtol=1e-5, atol=1e-5)
    assert fast.num_rows == len(rows)
    leaves = [image, text, log_scale]
    for a, b in zip(torch.autograd.grad(fast.total, leaves), torch.autograd.grad(slow, leaves), strict=True):
        torch.testing.assert_close(a, b.float(), rtol=1e-4, atol=1e-5)


def test_no_row_costs_exactly_nothing_and_one_row_too() -> None:
    image, text = embeddings()
    none = contrastive_loss(image, text, torch.tensor([14.3]), contrast=torch.zeros(B, dtype=torch.bool))
    assert none.mean.item() == 0.0
    assert none.mean.requires_grad
    one, its_text = embeddings(1)
    alone = contrastive_loss(one, its_text, torch.tensor([14.3]))
    assert alone.mean.item() == 0.0
    for grad in torch.autograd.grad(alone.mean, [one, its_text]):
        assert not grad.any()


def test_rows_that_do_not_count_stay_as_columns() -> None:
    image, text = embeddings()
    contrast = torch.tensor([True] * 3 + [False] * 4)
    with_columns = contrastive_loss(image, text, torch.tensor([14.3]), contrast=contrast).mean
    without = contrastive_loss(image[:3], text[:3], torch.tensor([14.3])).mean
    assert with_columns > without + 1e-3


def test_gradients_none_is_constant_columns_and_the_same_loss() -> None:
    image, text = embeddings()
    scale = torch.tensor([14.3])
    loss = contrastive_loss(image, text, scale, gradients="none")
    assert torch.equal(loss.total, contrastive_loss(image, text, scale).total)
    got = torch.autograd.grad(loss.total, [image, text])
    logits = scale * image @ text.T
    rows = logits.softmax(1) - torch.eye(B), logits.T.softmax(1) - torch.eye(B)
    for grad, row, other in zip(got, rows, (text, image), strict=True):
        torch.testing.assert_close(grad, scale / 2 * row @ other, rtol=1e-4, atol=1e-5)


def test_it_is_computed_in_float32_under_autocast() -> None:
    image, text = embeddings()
    exact = contrastive_loss(image, text, torch.tensor([100.0])).total
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrastive_loss(image, text, torch.tensor([100.0]))
        low = F.cross_entropy(100 * image @ text.T, torch.arange(B), reduction="sum")
    assert loss.total.dtype == loss.num_rows.dtype == torch.float32
    assert torch.equal(loss.total, exact)
    sharp = F.cross_entropy(100 * image @ text.T, torch.arange(B), reduction="sum")
    assert (low - sharp).abs() > 1e-2, "bfloat16 would not show"


def test_what_is_refused() -> None:
    image, text = embeddings()
    scale = torch.tensor([1.0])
    with pytest.raises(ValueError, match=r"image embeddings are \(7, 11\), text's \(5, 11\); equal shapes are due"):
        contrastive_loss(image, text[:5], scale)
    for wrong in (torch.ones(5, dtype=torch.bool), torch.ones(B, 1, dtype=torch.bool), torch.ones(B)):
        with pytest.raises(ValueError, match=r"contrast is \(.*; one bool for each of 7 rows is due"):
            contrastive_loss(image, text, scale, contrast=wrong)
    with pytest.raises(ValueError, match="'global', 'local' or 'none', got 'all'"):
        contrastive_loss(image, text, scale, gradients="all")
    with pytest.raises(ValueError, match=r"temperature 0.005 lies outside \[0.01, 1\]"):
        ContrastiveLoss(temperature=0.005)
    with pytest.raises(ValueError, match=r"temperature 1.5 lies outside"):
        ContrastiveLoss(temperature=1.5)


def test_the_temperature_starts_at_0_07_and_is_the_only_parameter() -> None:
    loss = ContrastiveLoss()
    assert {name: tuple(p.shape) for name, p in loss.named_parameters()} == {"log_scale": (1,)}
    assert loss.log_scale.item() == pytest.approx(2.6592, abs=1e-4)  # spec §2.1
    image, text = embeddings()
    torch.testing.assert_close(loss(image, text).total, contrastive_loss(image, text, torch.tensor(1 / 0.07)).total)


@pytest.mark.parametrize(("value", "due"), [(9.0, math.log(100)), (-3.0, 0.0), (2.5, 2.5)])
def test_the_temperature_is_clamped_when_asked_and_not_in_forward(value: float, due: float) -> None:
    loss = ContrastiveLoss()
    torch.nn.init.constant_(loss.log_scale, value)
    loss(*embeddings())
    assert loss.log_scale.item() == value
    loss.clamp_()
    assert loss.log_scale.item() == pytest.approx(due)
    assert loss.log_scale.requires_grad


def test_another_greatest_scale() -> None:
    loss = ContrastiveLoss(max_scale=10.0, temperature=0.5)
    torch.nn.init.constant_(loss.log_scale, 9.0)
    loss.clamp_()
    assert loss.log_scale.exp().item() == pytest.approx(10.0)
