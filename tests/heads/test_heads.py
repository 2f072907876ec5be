"""The heads, written out, and what they say with an empty decoder.

Letters: B batch, K rows, D width.
"""

import math

import pytest
import torch
from tiny import stirred
from torch import Tensor, nn

from torchflava.heads import MaskedPredictionHead, MatchHead, MlpClassifier
from torchflava.losses import masked_prediction_loss, matching_loss

B, K, D = 3, 5, 11


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return x @ layer.weight.T + layer.bias


def states(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("eps", [1e-5, 1e-12, 0.5])
def test_masked_prediction_is_linear_gelu_norm_linear(eps: float) -> None:
    head, x = stirred(MaskedPredictionHead(D, 37, eps)), states(B, K, D)
    inner = norm(head.norm, gelu(linear(head.dense, x)))
    assert head.norm.eps == eps
    torch.testing.assert_close(head.transform(x), inner, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(head(x), linear(head.decoder, inner), rtol=1e-5, atol=1e-5)
    assert head.num_codes == 37
    assert head(x).shape == (B, K, 37)


def test_masked_prediction_with_an_empty_decoder_costs_the_logarithm_of_the_codes() -> None:
    head = stirred(MaskedPredictionHead(D, 37))
    nn.init.zeros_(head.decoder.weight)
    nn.init.zeros_(head.decoder.bias)
    labels = torch.randint(0, 37, (B, K), generator=torch.Generator().manual_seed(1))
    loss = masked_prediction_loss(head(states(B, K, D)), labels)
    assert loss.mean.item() == pytest.approx(math.log(37), rel=1e-6)
    assert loss.num_rows == B * K


def test_matching_is_linear_tanh_linear() -> None:
    head, x = stirred(MatchHead(D)), states(B, D)
    torch.testing.assert_close(head(x), linear(head.decoder, torch.tanh(linear(head.dense, x))))
    nn.init.zeros_(head.decoder.weight)
    nn.init.zeros_(head.decoder.bias)
    loss = matching_loss(head(x), torch.tensor([True, False, True]))
    assert loss.mean.item() == pytest.approx(math.log(2), rel=1e-6)


def test_classifier_is_linear_norm_gelu_linear() -> None:
    head, x = stirred(MlpClassifier(D, 7, 13)), states(B, D)
    due = linear(head.decoder, gelu(norm(head.norm, linear(head.dense, x))))
    torch.testing.assert_close(head(x), due, rtol=1e-5, atol=1e-5)
    assert head.num_classes == 7


def test_classifier_has_the_papers_hidden_width_and_drops_only_in_training() -> None:
    head = MlpClassifier(D, 7, dropout=0.5)
    assert head.dense.out_features == 1536
    x = states(B, D)
    torch.manual_seed(0)
    assert not torch.equal(head(x), head(x))
    head.eval()
    assert torch.equal(head(x), head(x))


@pytest.mark.parametrize(("width", "std"), [(101, 0.0995), (307, 0.0500), (769, 0.02)])
def test_first_weights_are_normal_and_wider_where_the_states_are_narrow(width: int, std: float) -> None:
    """1 / sqrt(101); 0.02 * 768 / 307; the paper's 0.02 from 768 on (docs/decisions/0005)."""
    torch.manual_seed(0)
    for head in (MaskedPredictionHead(width, 103), MatchHead(width), MlpClassifier(width, 103, 107)):
        weight, bias = head.dense.weight, head.dense.bias
        assert weight.std().item() == pytest.approx(std, rel=0.03)
        assert weight.abs().max() > 3 * std, "a normal draw reaches further than a uniform one"
        assert not bias.any()


@pytest.mark.parametrize("width", [64, 768])
def test_a_new_classifier_says_next_to_nothing_at_any_width(width: int) -> None:
    torch.manual_seed(0)
    logits = MlpClassifier(width, 7)(torch.nn.functional.layer_norm(torch.randn(101, width), (width,)))
    assert 0.2 < float(logits.detach().std()) < 0.7  # sqrt(1536) * .02 * the 2nd moment of GELU's root, .65
