"""First weights and the picking of rows."""

import pytest
import torch
from torch import nn

from torchflava.layers import LayerNorm, init_weights, take_rows


def test_weights_are_normal_with_deviation_0_02_and_biases_zero() -> None:
    torch.manual_seed(0)
    linear, conv, words = nn.Linear(211, 223), nn.Conv2d(3, 211, 11), nn.Embedding(211, 223)
    init_weights(linear, conv, words)
    for weight in (linear.weight, conv.weight, words.weight):
        assert weight.mean().abs() < 1e-3
        assert abs(weight.std().item() - 0.02) < 5e-4
        assert weight.abs().max() > 0.06, "cut, but only bare parameters are"
    assert not linear.bias.any()
    assert not conv.bias.any()


@pytest.mark.parametrize(("width", "std"), [(1024, 0.02), (768, 0.02), (384, 0.04), (64, 0.125), (16, 0.25)])
def test_narrow_states_get_wider_weights(width: int, std: float) -> None:
    """0.02 * 768 / width, at most 1 / sqrt(width), at least 0.02 (docs/decisions/0005); not for ids and tokens."""
    torch.manual_seed(0)
    linear, conv, words, token = nn.Linear(211, 223), nn.Conv2d(3, 211, 11), nn.Embedding(211, 223), torch.empty(99, 99)
    init_weights(linear, conv, words, nn.Parameter(token), width=width)
    assert linear.weight.std().item() == pytest.approx(std, rel=0.02)
    assert conv.weight.std().item() == pytest.approx(std, rel=0.02)
    assert words.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert token.abs().max() <= 0.04


def test_bare_parameters_are_cut_at_two_deviations_and_norms_set() -> None:
    token, norm = nn.Parameter(torch.empty(1, 211, 223)), LayerNorm(7)
    nn.init.constant_(norm.weight, 5.0)
    nn.init.constant_(norm.bias, 5.0)
    init_weights(token, norm)
    assert token.abs().max() <= 0.04
    assert 0.0170 < token.std() < 0.0180, "a normal cut at two deviations has .88 of its deviation"
    assert torch.equal(norm.weight, torch.ones(7))
    assert not norm.bias.any()


def test_the_seed_decides_the_weights() -> None:
    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        linear = nn.Linear(5, 3, bias=False)
        init_weights(linear)
        return linear.weight

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_a_part_without_a_rule_is_refused() -> None:
    with pytest.raises(TypeError, match="no rule for a Sequential; give it leaves"):
        init_weights(nn.Sequential(nn.Linear(2, 3)))


def test_rows_are_taken_as_a_loop_would_forward_and_gradient() -> None:
    states = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    positions = torch.tensor([[6, 0], [2, 2], [0, 1]])
    slow = torch.stack([torch.stack([states[b, i] for i in row]) for b, row in enumerate(positions.tolist())])
    fast = take_rows(states, positions)
    assert torch.equal(fast, slow)
    weights = torch.linspace(1, 2, 30).reshape(3, 2, 5)
    a, b = (torch.autograd.grad((y * weights).sum(), states)[0] for y in (fast, slow))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shape", [(2, 5), (3,), (3, 5, 1)])
def test_rows_of_the_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"positions are .*; \(3, K\) is due: one row for each sample"):
        take_rows(torch.zeros(3, 7, 5), torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("place", [-1, 7])
def test_a_place_of_another_sample_is_refused(place: int) -> None:
    with pytest.raises(ValueError, match=rf"position {place} lies outside \[0, 7\)"):
        take_rows(torch.zeros(3, 7, 5), torch.tensor([[0, 6], [1, place], [2, 3]]))
