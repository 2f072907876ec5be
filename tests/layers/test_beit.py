"""BEiT's parts against loops written out; against timm and transformers: tests/parity/test_image_encoders.py."""

import math

import pytest
import torch
from tiny import stirred

from torchflava.encoders import beit_image_encoder
from torchflava.layers import LayerNorm, Mlp, RelativeAttention, ScaledBlock, resize_relative
from torchflava.layers.beit import num_relative, relative_index

SIDE = 3


def test_the_index_counts_distances_and_three_places_of_the_class_token() -> None:
    index = relative_index(SIDE, torch.device("cpu"))
    for query in range(SIDE**2):
        for key in range(SIDE**2):
            down, right = query // SIDE - key // SIDE, query % SIDE - key % SIDE
            assert index[1 + query, 1 + key] == (down + SIDE - 1) * (2 * SIDE - 1) + right + SIDE - 1
    num = num_relative(SIDE)
    assert num == 28
    assert index[0, 1:].unique().tolist() == [num - 3]
    assert index[1:, 0].unique().tolist() == [num - 2]
    assert index[0, 0] == num - 1


def test_attention_head_by_head() -> None:
    torch.manual_seed(0)
    part = stirred(RelativeAttention(14, 2, SIDE))
    x, keep = torch.randn(3, 10, 14), torch.rand(3, 10) < 0.7
    keep[:, 0] = True
    q, k, v = part.qkv(x).split(14, dim=-1)
    index = relative_index(SIDE, x.device)
    heads = []
    for head in range(2):
        at = slice(7 * head, 7 * head + 7)
        scores = q[..., at] @ k[..., at].transpose(1, 2) / math.sqrt(7) + part.positions[index, head]
        heads.append(scores.masked_fill(~keep[:, None], -1e9).softmax(-1) @ v[..., at])
    torch.testing.assert_close(part(x, keep), part.out(torch.cat(heads, -1)), atol=1e-5, rtol=1e-5)


def test_a_bias_of_the_keys_changes_nothing() -> None:
    part, x = stirred(RelativeAttention(14, 2, SIDE)), torch.randn(2, 10, 14)
    before = part(x)
    with torch.no_grad():
        part.qkv.bias[14:28] += torch.randn(14)
    torch.testing.assert_close(part(x), before, atol=1e-5, rtol=1e-5)


def test_a_block_scales_each_branch_by_feature() -> None:
    block = ScaledBlock(RelativeAttention(14, 2, SIDE), Mlp(14, 17), LayerNorm(14), mlp_norm=LayerNorm(14))
    assert block.attention_scale.unique().tolist() == block.mlp_scale.unique().tolist() == [pytest.approx(0.1)]
    stirred(block)
    x = torch.randn(2, 10, 14)
    y = x + block.attention(block.attention_norm(x)) @ torch.diag(block.attention_scale)
    torch.testing.assert_close(block(x), y + block.mlp(block.mlp_norm(y)) @ torch.diag(block.mlp_scale))


def test_biases_are_resized_by_distance_and_the_class_tokens_stay() -> None:
    far = torch.arange(-2.0, 3.0).abs()
    table = torch.cat([(far[:, None] + far).flatten(), torch.tensor([7.0, 8.0, 9.0])])[:, None]
    larger = resize_relative(table, 5)
    assert larger.shape == (num_relative(5), 1)
    assert larger[-3:].flatten().tolist() == [7, 8, 9]
    square = larger[:-3].reshape(9, 9)
    torch.testing.assert_close(square, square.flip(0))
    torch.testing.assert_close(square, square.T)
    assert resize_relative(table, SIDE) is table
    with pytest.raises(ValueError, match="27 biases are of no square"):
        resize_relative(table[1:], 5)


def test_an_encoder_of_beits_blocks_resizes_whole_and_refuses_other_grids() -> None:
    encoder = beit_image_encoder(width=14, depth=2, num_heads=2, hidden=17, image_size=15, patch_size=5)
    with pytest.raises(ValueError, match="16 patches meet biases for 3 x 3"):
        encoder.trunk(torch.randn(1, 17, 14))
    encoder.resize(20)
    assert encoder(torch.randn(2, 3, 20, 20)).normed.shape == (2, 17, 14)
    with pytest.raises(ValueError, match="width 14 is no multiple of num_heads 3"):
        RelativeAttention(14, 3, SIDE)
