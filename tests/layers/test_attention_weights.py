"""Attention's weights against the formula written out, and against what the layer itself makes of them; rollout by a loop."""

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import tiny

from torchflava.layers import (
    Attention,
    CausalAttention,
    attention_rollout,
    attention_weights,
    watched_attention,
)

B, L, D, H = 2, 7, 15, 3


def layer() -> tuple[Attention, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    attention = tiny.stirred(Attention(D, H))
    keep = torch.ones(B, L, dtype=torch.bool)
    keep[1, 4:] = False
    return attention, torch.randn(B, L, D), keep


@torch.no_grad()
def test_weights_are_the_softmax_of_products_written_out() -> None:
    attention, x, keep = layer()
    weights = attention_weights(attention, x, keep)
    of = attention.qkv.weight.view(3, H, D // H, D), attention.qkv.bias.view(3, H, D // H)
    for b in range(B):
        for h in range(H):
            q, k = ([of[0][part, h] @ x[b, at] + of[1][part, h] for at in range(L)] for part in (0, 1))
            for i in range(L):
                powers = [math.exp(float(q[i] @ k[j]) / math.sqrt(D // H)) if keep[b, j] else 0.0 for j in range(L)]
                expected = torch.tensor([power / sum(powers) for power in powers])
                torch.testing.assert_close(weights[b, h, i], expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("masked", [True, False])
def test_weights_times_values_projected_are_the_layers_output(masked: bool) -> None:
    attention, x, keep = layer()
    given = (x, keep) if masked else (x,)
    values = attention.qkv(x)[..., 2 * D :].view(B, L, H, D // H).transpose(1, 2)
    output = attention.out((attention_weights(attention, *given) @ values).transpose(1, 2).reshape(B, L, D))
    torch.testing.assert_close(output, attention(*given))


@torch.no_grad()
def test_watching_a_fusion_encoder_yields_each_blocks_weights_and_changes_nothing() -> None:
    torch.manual_seed(0)
    fusion = tiny.stirred(tiny.fusion_encoder(depth=3))
    torch.manual_seed(1)
    image, text = torch.randn(B, 4, tiny.FUSION_WIDTH), torch.randn(B, 5, tiny.FUSION_WIDTH)
    keep = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    before = fusion(image, text, keep)
    with watched_attention(fusion) as weights:
        watched = fusion(image, text, keep)
    assert all(torch.equal(one, other) for one, other in zip(before, watched, strict=True))
    x = torch.cat([fusion.cls_token.expand(B, -1, -1), image, text], 1)
    mask = torch.cat([torch.ones(B, 5, dtype=torch.bool), keep], 1)
    assert len(weights) == 3
    for block, seen in zip(fusion.trunk.blocks, weights, strict=True):
        torch.testing.assert_close(seen, attention_weights(block.attention, block.attention_norm(x), mask))
        assert seen.shape == (B, 2, 10, 10)
        assert float(seen[1, :, :, 8:].max()) == 0  # padding is not looked at
        x = block(x, mask)
    fusion(image, text, keep)
    assert len(weights) == 3  # afterwards nobody watches


def test_what_has_no_such_attention_cannot_be_watched() -> None:
    with (
        pytest.raises(ValueError, match="CausalAttention has no layers"),
        watched_attention(CausalAttention(D, H)),
    ):
        pass


def test_rollout_is_the_sum_over_all_paths() -> None:
    """Each path from an output back to an input, layer by layer, written out."""
    torch.manual_seed(2)
    layers = [torch.rand(B, H, 3, 3).softmax(-1) for _ in range(3)]
    rolled = attention_rollout(layers)
    for b in range(B):
        steps = [[[float(w[b, :, i, j].mean()) / 2 + (i == j) / 2 for j in range(3)] for i in range(3)] for w in layers]
        for end in range(3):
            for start in range(3):
                paths = sum(steps[2][end][i] * steps[1][i][j] * steps[0][j][start] for i in range(3) for j in range(3))
                assert float(rolled[b, end, start]) == pytest.approx(paths, rel=1e-5)
    with pytest.raises(ValueError, match="no layers"):
        attention_rollout([])
