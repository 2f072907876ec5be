"""The layer norm against its formula in float64."""

import pytest
import torch
from torch import Tensor

from torchflava.layers import LayerNorm


def norm_by_hand(layer: LayerNorm, x: Tensor) -> Tensor:
    """In float64."""
    y = x.double() - x.double().mean(-1, keepdim=True)
    y = y / (y.square().mean(-1, keepdim=True) + layer.eps).sqrt()
    return y * layer.weight.double() + layer.bias.double()


def norm_of(width: int, dtype: torch.dtype, eps: float = 1e-12) -> LayerNorm:
    generator = torch.Generator().manual_seed(0)
    layer = LayerNorm(width, eps)
    with torch.no_grad():
        layer.weight.copy_(1 + 0.3 * torch.randn(width, generator=generator))
        layer.bias.copy_(0.3 * torch.randn(width, generator=generator))
    return layer.to(dtype)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("states", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_layer_norm_is_computed_in_float32(states: torch.dtype, weights: torch.dtype, autocast: bool) -> None:
    layer = norm_of(101, weights)
    x = (32 + torch.randn(7, 101, generator=torch.Generator().manual_seed(1))).to(states)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(x)
    assert y.dtype == states
    exact = norm_by_hand(layer, x)
    # Right to the last place that the states' type can hold: float32 inside, rounded once.
    torch.testing.assert_close(y, exact.to(states), rtol=torch.finfo(states).eps, atol=1e-5)


def test_a_norm_in_bfloat16_would_fail_that_test() -> None:
    layer = norm_of(101, torch.bfloat16)
    x = (32 + torch.randn(7, 101, generator=torch.Generator().manual_seed(1))).bfloat16()
    centred = x - x.mean(-1, keepdim=True)
    low = centred / centred.square().mean(-1, keepdim=True).sqrt() * layer.weight + layer.bias
    assert (low.double() - norm_by_hand(layer, x)).abs().max() > 0.05


def test_eps_is_far_below_small_variances() -> None:
    x = 1e-5 * torch.randn(2, 101, generator=torch.Generator().manual_seed(2))
    assert LayerNorm(101)(x).var(unbiased=False).sub(1).abs() < 0.02
    assert LayerNorm(101, 1e-5)(x).var() < 1e-3


def test_layer_norm_gradient() -> None:
    layer = norm_of(11, torch.float32)
    x = torch.randn(3, 11, generator=torch.Generator().manual_seed(3), requires_grad=True)
    weights = torch.linspace(-1, 1, 33).reshape(3, 11)
    leaves = [x, layer.weight, layer.bias]
    fast = torch.autograd.grad((layer(x) * weights).sum(), leaves)
    slow = torch.autograd.grad((norm_by_hand(layer, x) * weights).sum(), leaves)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
