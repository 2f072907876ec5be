"""The transformer's parts against softmax, erf and loops written out.

Letters: B batch, L length, D width, H heads.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny import stirred
from torch import Tensor, nn

from torchflava.layers import Attention, Block, LayerNorm, Mlp, Transformer, transformer

B, L, H, D = 3, 5, 2, 14


def attention_by_hand(part: Attention, x: Tensor, keep: Tensor | None) -> Tensor:
    """Softmax of each query over its kept keys, one head and one query at a time."""
    q, k, v = (F.linear(x, w, b) for w, b in zip(part.qkv.weight.chunk(3), part.qkv.bias.chunk(3), strict=True))
    rows = []
    for sample in range(len(x)):
        kept = range(x.shape[1]) if keep is None else keep[sample].nonzero().flatten().tolist()
        for query in range(x.shape[1]):
            heads = []
            for head in torch.arange(x.shape[-1]).chunk(part.num_heads):
                scores = torch.stack([q[sample, query, head] @ k[sample, key, head] for key in kept])
                weights = scores.div(math.sqrt(len(head))).exp()
                weights = weights / weights.sum()
                heads.append(sum(w * v[sample, key, head] for w, key in zip(weights, kept, strict=True)))
            rows.append(torch.cat(heads))
    joined = torch.stack(rows).reshape(x.shape)
    return F.linear(joined, part.out.weight, part.out.bias)


def keep_mask() -> Tensor:
    keep = torch.ones(B, L, dtype=torch.bool)
    keep[1, 3:] = False
    keep[2, 1:4] = False
    return keep


def grads_of(y: Tensor, x: Tensor, part: nn.Module) -> list[Tensor]:
    """Of a sum in which every output has another weight."""
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    return list(torch.autograd.grad((y * weights).sum(), [x, *part.parameters()]))


@pytest.mark.parametrize("keep", [None, keep_mask()], ids=["all kept", "some kept"])
def test_attention_is_softmax_by_hand_forward_and_gradient(keep: Tensor | None) -> None:
    torch.manual_seed(0)
    part = stirred(Attention(D, H)).double()
    x = torch.randn(B, L, D, dtype=torch.float64, requires_grad=True)
    fast, slow = part(x, keep), attention_by_hand(part, x, keep)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    for a, b in zip(grads_of(fast, x, part), grads_of(slow, x, part), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_attention_does_not_see_what_is_not_kept() -> None:
    part = stirred(Attention(D, H))
    x, keep = torch.randn(B, L, D, generator=torch.Generator().manual_seed(0)), keep_mask()
    other = torch.where(keep[..., None], x, x + 100.0)
    torch.testing.assert_close(part(x, keep)[keep], part(other, keep)[keep], rtol=0, atol=0)
    assert not torch.allclose(part(x)[keep], part(other)[keep])


@pytest.mark.parametrize(("width", "num_heads"), [(14, 3), (14, 0)])
def test_attention_refuses_heads_that_do_not_divide_the_width(width: int, num_heads: int) -> None:
    with pytest.raises(ValueError, match=rf"width {width} is no multiple of num_heads {num_heads}; choose a divisor"):
        Attention(width, num_heads)


def test_mlp_has_the_exact_gelu() -> None:
    part = stirred(Mlp(D, 23))
    x = 3 * torch.randn(B, L, D, generator=torch.Generator().manual_seed(1))
    up = x @ part.up.weight.T + part.up.bias
    exact = 0.5 * up * (1 + torch.erf(up / math.sqrt(2)))
    by_tanh = F.gelu(up, approximate="tanh")
    slow, wrong = (h @ part.down.weight.T + part.down.bias for h in (exact, by_tanh))
    torch.testing.assert_close(part(x), slow, rtol=1e-5, atol=1e-5)
    assert (wrong - slow).abs().max() > 1e-4, "the test cannot tell the two GELUs apart"


def test_block_norms_before_each_part_and_adds_what_it_was_given() -> None:
    block = stirred(transformer(D, 1, H, hidden=23)).blocks[0]
    x, keep = torch.randn(B, L, D, generator=torch.Generator().manual_seed(2)), keep_mask()

    def norm(layer: nn.LayerNorm, y: Tensor) -> Tensor:
        y = y - y.mean(-1, keepdim=True)
        return y / (y.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias

    y = x + attention_by_hand(block.attention, norm(block.attention_norm, x), keep)
    y = y + block.mlp(norm(block.mlp_norm, y))
    torch.testing.assert_close(block(x, keep), y, rtol=1e-5, atol=1e-5)


class Noted(nn.Module):
    """Stands in for a block: adds its number and notes what it was given."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.seen: list[Tensor | None] = []

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        self.seen.append(keep)
        return x * self.number + self.number


def test_transformer_runs_its_blocks_in_order_with_the_mask_and_no_norm_at_the_end() -> None:
    blocks = [Noted(2), Noted(3), Noted(5)]
    keep = keep_mask()
    y = Transformer(list(blocks))(torch.ones(B, L, D), keep)
    torch.testing.assert_close(y, torch.full((B, L, D), ((1 * 2 + 2) * 3 + 3) * 5.0 + 5))
    assert all(block.seen == [keep] for block in blocks)


def test_transformer_builder_sizes() -> None:
    trunk = transformer(D, 3, H, eps=0.25)
    assert len(trunk.blocks) == 3
    assert all(isinstance(block, Block) and block.mlp.up.out_features == 4 * D for block in trunk.blocks)
    norms = [part for part in trunk.modules() if isinstance(part, LayerNorm)]
    assert [norm.eps for norm in norms] == [0.25] * 6
    assert transformer(D, 1, H, hidden=23).blocks[0].mlp.up.out_features == 23
    assert transformer(D, 1, H).blocks[0].attention_norm.eps == 1e-12


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_block_compiles_into_one_graph(backend: str) -> None:
    block = stirred(transformer(D, 1, H)).blocks[0]
    x = torch.randn(B, L, D, generator=torch.Generator().manual_seed(3), requires_grad=True)
    keep = keep_mask()
    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, backend=backend)
    expected = grads_of(block(x, keep), x, block)
    for a, b in zip(grads_of(compiled(x, keep), x, block), expected, strict=True):
        torch.testing.assert_close(a, b)
