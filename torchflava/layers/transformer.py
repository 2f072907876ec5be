"""The pre-norm transformer that all three encoders share (paper §3.1; Dosovitskiy et al. 2021, fig. 1).

Letters: B batch, L length, K rows asked for, D width, H heads.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from torchflava.layers.attend import attend
from torchflava.layers.bare import is_bare, learns_low_on_the_cpu
from torchflava.layers.init import init_weights
from torchflava.layers.mlp_again import mlp_again
from torchflava.layers.norm import LayerNorm
from torchflava.layers.rows import take_rows


class Attention(nn.Module):
    """Multi-head self-attention, every projection biased.

    Args:
        width: D.
        num_heads: H, a divisor of D.

    Raises:
        ValueError: if D is no multiple of H.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or width % num_heads:
            raise ValueError(f"Attention: width {width} is no multiple of num_heads {num_heads}; choose a divisor")
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        init_weights(self.qkv, self.out, width=self.out.in_features)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, L, D), keep (B, L) bool, True where a key may be attended to -> (B, L, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None if keep is None else keep[:, None, None, :]
        return self.out(attend(q, k, v, mask=mask).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers round an exact (erf) GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        init_weights(self.up, self.down, width=self.up.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D); in training in low precision on the CPU with less kept (docs/decisions/0074)."""
        if is_bare(self.up, nn.Linear) and is_bare(self.down, nn.Linear):
            up, up_bias, down, down_bias = self.up.weight, self.up.bias, self.down.weight, self.down.bias
            if learns_low_on_the_cpu(x, up, up_bias, down, down_bias):
                return mlp_again(x, up, up_bias, down=down, down_bias=down_bias)
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). Any module of the same signature may stand in for a part."""

    takes_rows = True
    """A block of one's own without this is given no `rows`."""

    def __init__(self, attention: nn.Module, mlp: nn.Module, attention_norm: nn.Module, *, mlp_norm: nn.Module) -> None:
        super().__init__()
        self.attention_norm = attention_norm
        self.attention = attention
        self.mlp_norm = mlp_norm
        self.mlp = mlp

    def forward(self, x: Tensor, keep: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """(B, L, D), keep (B, L) bool -> (B, L, D), or (B, K, D) at the `rows` (B, K) int64 that are asked for."""
        x = x + self.attention(self.attention_norm(x), keep)
        x = x if rows is None else take_rows(x, rows)
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    """Blocks in a row, without a norm at the end: FLAVA fuses the states before it."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, L, D), keep (B, L) bool -> (B, L, D)."""
        for block in self.blocks:
            x = block(x, keep)
        return x

    def at(self, x: Tensor, rows: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, L, D), rows (B, K) int64 -> (B, K, D): `forward` at these rows, which are all that the last block's MLP sees."""
        return self.last_at(self.before_last(x, keep), rows, keep)

    def before_last(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D): what the last block is given."""
        for block in self.blocks[:-1]:
            x = block(x, keep)
        return x

    def last(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, L, D), as `before_last` gives it -> (B, L, D)."""
        return self.blocks[-1](x, keep) if len(self.blocks) else x

    def last_at(self, x: Tensor, rows: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, L, D), as `before_last` gives it, rows (B, K) int64 -> (B, K, D)."""
        if len(self.blocks) and getattr(self.blocks[-1], "takes_rows", False):
            return self.blocks[-1](x, keep, rows)
        return take_rows(self.last(x, keep), rows)


def transformer(
    width: int,
    depth: int,
    num_heads: int,
    *,
    hidden: int | None = None,
    eps: float = 1e-12,
    attention: Callable[[int, int], nn.Module] = Attention,
    mlp: Callable[[int, int], nn.Module] = Mlp,
) -> Transformer:
    """Build a `Transformer` of `depth` blocks.

    Args:
        width: D.
        depth: the number of blocks.
        num_heads: H, a divisor of D.
        hidden: the width inside the MLPs, 4 * width unless given.
        eps: of the norms.
        attention: (D, H) -> a block's attention.
        mlp: (D, hidden) -> a block's MLP.
    """
    return Transformer(
        [
            Block(
                attention(width, num_heads),
                mlp(width, hidden or 4 * width),
                LayerNorm(width, eps),
                mlp_norm=LayerNorm(width, eps),
            )
            for _ in range(depth)
        ]
    )
