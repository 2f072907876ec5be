"""Which heads predict without logits, and that losses, gradients, verbs and hooks are the same."""

import re

import pytest
import tiny
import torch
from torch import Tensor, nn

from torchflava.heads import MaskedPredictionHead
from torchflava.losses import masked_prediction_loss
from torchflava.models import predicted
from torchflava.models.predicted import pays, prediction_loss

B, K, D, V = 3, 5, 7, 11


@pytest.fixture
def chunked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """All sizes pay; what is returned grows with each loss in chunks."""
    calls: list[int] = []
    fused = predicted.fused_prediction_loss

    def counted(*given: Tensor, labels: Tensor) -> object:
        calls.append(labels.numel())
        return fused(*given, labels=labels, at_a_time=4)

    monkeypatch.setattr(predicted, "pays", lambda *_: True)
    monkeypatch.setattr(predicted, "fused_prediction_loss", counted)
    return calls


def given() -> tuple[MaskedPredictionHead, Tensor, Tensor]:
    torch.manual_seed(0)
    return tiny.stirred(MaskedPredictionHead(D, V)), torch.randn(B, K, D), torch.randint(0, V, (B, K))


@pytest.mark.parametrize(("kind", "due"), [("image", 1), ("text", 1), ("pair", 2)])
def test_losses_and_gradients_of_the_model_are_the_same(kind: str, due: int, chunked: list[int]) -> None:
    model, batch = tiny.pretraining(), tiny.batch_of(kind)
    tiny.total(model, batch).backward()
    assert len(chunked) == due
    other = tiny.pretraining()
    for name in ("mim", "mlm", "mmm_image", "mmm_text"):
        head = other.get_submodule(name)
        setattr(other, name, nn.Sequential(head))  # any module, so it is called
    slow = tiny.total(other, batch)
    slow.backward()
    assert len(chunked) == due
    torch.testing.assert_close(tiny.total(model, batch), slow, rtol=1e-6, atol=1e-6)
    expected = {re.sub(r"^(m\w+)\.0\.", r"\1.", name): gradient for name, gradient in tiny.gradients(other).items()}
    got = tiny.gradients(model)
    assert set(got) == set(expected)
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


class Low(nn.Linear):
    """A projection that was wrapped: what it does is not its weight's alone."""

    def forward(self, states: Tensor) -> Tensor:
        return 2 * super().forward(states)


def test_a_projection_that_was_replaced_or_a_head_with_hooks_is_called(chunked: list[int]) -> None:
    head, states, labels = given()
    prediction_loss(head, states, labels)
    assert len(chunked) == 1
    seen: list[object] = []
    for part in (head, head.decoder):
        for add in (part.register_forward_hook, part.register_forward_pre_hook, part.register_full_backward_hook):
            hook = add(lambda *given: seen.append(given[0]))
            torch.testing.assert_close(
                prediction_loss(head, states, labels), masked_prediction_loss(head(states), labels)
            )
            hook.remove()
    assert len(seen) >= 8
    other, _, _ = given()
    other.decoder = Low(D, V)
    own = prediction_loss(other, states, labels)
    torch.testing.assert_close(own, masked_prediction_loss(other(states), labels))
    head.forward = lambda states: other(states)
    torch.testing.assert_close(prediction_loss(head, states, labels), own)
    assert len(chunked) == 1


def test_it_pays_where_logits_are_many_and_weigh_more_than_the_weight() -> None:
    assert pays(12 * 96, 30522, 768)
    assert not pays(12 * 64, 30522, 768), "a chunk and no more"
    assert pays(75 * 64, 8192, 768)
    assert not pays(75 * 32, 8192, 768), "80 MB"
    assert not pays(3000, 30522, 4096), "the weight's gradient is larger"
    assert not pays(10_000, 512, 128)


def test_small_batches_have_the_logits_that_they_had() -> None:
    head, states, labels = given()
    loss = prediction_loss(head, states, labels)
    assert torch.equal(loss.total, masked_prediction_loss(head(states), labels).total)
