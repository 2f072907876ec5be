"""CLIP's parts, against loops written out: who sees whom, what is normed, what is refused."""

import pytest
import torch
import torch.nn.functional as F
from tiny import stirred
from torch import Tensor

from torchflava.layers import CausalAttention, NormedPatchEmbedding, PlainTokenEmbedding, causal_transformer


def by_hand(part: CausalAttention, x: Tensor, keep: Tensor) -> Tensor:
    """Each place, each head: a softmax over itself and what was kept before it."""
    size, length, width = x.shape
    each = width // part.num_heads
    q, k, v = (x @ part.qkv.weight.T + part.qkv.bias).split(width, dim=-1)
    y = torch.zeros_like(x)
    for row in range(size):
        for at in range(length):
            seen = [key for key in range(at + 1) if keep[row, key]]
            for head in range(part.num_heads):
                part_of = slice(head * each, (head + 1) * each)
                scores = torch.stack([q[row, at, part_of] @ k[row, key, part_of] for key in seen]) / each**0.5
                weights = scores.exp() / scores.exp().sum()
                y[row, at, part_of] = sum(w * v[row, key, part_of] for w, key in zip(weights, seen, strict=True))
    return y @ part.out.weight.T + part.out.bias


@pytest.mark.parametrize("masked", [False, True])
def test_causal_attention_is_a_softmax_over_what_came_before(masked: bool) -> None:
    part = stirred(CausalAttention(14, 2))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 14, generator=generator)
    keep = torch.ones(3, 5, dtype=torch.bool)
    if masked:
        keep[0, 2], keep[1, 3:] = False, False
    found = part(x, keep if masked else None)
    torch.testing.assert_close(found, by_hand(part, x, keep), rtol=1e-4, atol=1e-5)


def test_a_later_place_changes_no_earlier_one() -> None:
    trunk = stirred(causal_transformer(14, 3, 2, hidden=17))
    x = torch.randn(2, 7, 14, generator=torch.Generator().manual_seed(0))
    states = trunk(x)
    for at in range(7):
        changed = x.clone()
        changed[:, at] *= -1
        other = trunk(changed)
        torch.testing.assert_close(other[:, :at], states[:, :at], rtol=0, atol=1e-6)
        assert (other[:, at:] - states[:, at:]).abs().amax((0, 2)).min() > 1e-3


def test_patches_are_normed_with_class_token_and_positions() -> None:
    embed = stirred(NormedPatchEmbedding(11, 15, 5))
    images = torch.randn(2, 3, 15, 15, generator=torch.Generator().manual_seed(0))
    rows = []
    for image in images:
        patches = [image[:, r : r + 5, c : c + 5] for r in (0, 5, 10) for c in (0, 5, 10)]
        rows.append(
            torch.stack([embed.cls_token[0, 0], *((embed.projection.weight * p).sum((1, 2, 3)) for p in patches)])
        )
    x = torch.stack(rows) + embed.positions
    due = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(embed(images), due * embed.norm.weight + embed.norm.bias, rtol=1e-4, atol=1e-5)
    assert embed.projection.bias is None


def test_positions_are_resized_for_good_and_on_the_fly() -> None:
    embed, flying = (stirred(NormedPatchEmbedding(11, 15, 5, interpolate=i)) for i in (False, True))
    flying.load_state_dict(embed.state_dict())
    images = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"images are 20 x 20, the encoder is made for 15 x 15"):
        embed(images)
    embed.resize(20)
    assert (embed.num_patches, embed.image_size) == (16, 20)
    torch.testing.assert_close(embed(images), flying(images))
    square = flying.positions[:, 1:].reshape(1, 3, 3, 11).permute(0, 3, 1, 2)
    due = F.interpolate(square, size=(4, 4), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embed.positions[:, 1:], due)


def test_words_are_words_plus_positions() -> None:
    embed = stirred(PlainTokenEmbedding(13, 7, 5))
    ids = torch.tensor([[3, 0, 12], [1, 1, 2]])
    due = torch.stack([torch.stack([embed.words.weight[i] + embed.positions.weight[at] for at, i in enumerate(row)])
                       for row in ids])  # fmt: skip
    torch.testing.assert_close(embed(ids), due, rtol=0, atol=0)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="CausalAttention: width 14 is no multiple of num_heads 3; choose a divisor"):
        CausalAttention(14, 3)
    with pytest.raises(ValueError, match="NormedPatchEmbedding: image_size 16 is no multiple of patch_size 5"):
        NormedPatchEmbedding(11, 16, 5)
    embed = NormedPatchEmbedding(11, 15, 5)
    with pytest.raises(ValueError, match="resize: image_size 16 is no multiple of patch_size 5"):
        embed.resize(16)
    with pytest.raises(ValueError, match="CLIP's image encoder has no mask token to hide patches with"):
        embed(torch.zeros(2, 3, 15, 15), torch.zeros(2, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match="id 13 is beyond the vocabulary of 13"):
        PlainTokenEmbedding(13, 7, 5)(torch.tensor([[13]]))
    with pytest.raises(ValueError, match="texts are 6 tokens long, the encoder takes 5"):
        PlainTokenEmbedding(13, 7, 5)(torch.ones(1, 6, dtype=torch.int64))
