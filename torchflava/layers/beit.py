"""BEiT's own parts of a block: attention with biases by relative position, and branches that are scaled.

Source: Bao et al. 2022, BEiT, §2.1 and appendix A; microsoft/unilm@master, beit/modeling_finetune.py.
Letters: B batch, R patches a side, N = R * R patches, D width, H heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchflava.layers.attend import attend
from torchflava.layers.init import init_weights
from torchflava.layers.norm import LayerNorm
from torchflava.layers.rows import take_rows
from torchflava.layers.transformer import Mlp, Transformer

_SCALE = 0.1  # of the branches at first, in BEiT's base size


class RelativeAttention(nn.Module):
    """Self-attention over a class token and a square of patches, with a learned bias for each head and relative position.

    BEiT's keys have no bias of their own; here they have one, which changes no output: it adds the same to all scores of a query.

    Args:
        width: D.
        num_heads: H, a divisor of D.
        side: R.

    Raises:
        ValueError: if D is no multiple of H.
    """

    def __init__(self, width: int, num_heads: int, side: int) -> None:
        super().__init__()
        if num_heads < 1 or width % num_heads:
            raise ValueError(
                f"RelativeAttention: width {width} is no multiple of num_heads {num_heads}; choose a divisor"
            )
        self.num_heads = num_heads
        self.side = side
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        # `positions`, as all that does not decay: one for each distance in rows and columns, and three for the class token.
        self.positions = nn.Parameter(torch.empty(num_relative(side), num_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew; the biases begin at 0."""
        init_weights(self.qkv, self.out, width=self.out.in_features)
        nn.init.zeros_(self.positions)

    def resize(self, side: int) -> None:
        """Resize the biases, for good, to another number of patches a side."""
        with torch.no_grad():
            self.positions = nn.Parameter(resize_relative(self.positions, side).clone())
        self.side = side

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, 1 + N, D), keep (B, 1 + N) bool, True where a key may be attended to -> (B, 1 + N, D).

        Raises:
            ValueError: for another number of patches.
        """
        if x.shape[1] != 1 + self.side**2:
            raise ValueError(
                f"{x.shape[1] - 1} patches meet biases for {self.side} x {self.side}; call the encoder's resize first"
            )
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.positions[relative_index(self.side, x.device)].permute(2, 0, 1).to(q.dtype)[None]
        if keep is not None:
            bias = bias.masked_fill(~keep[:, None, None, :], float("-inf"))
        return self.out(attend(q, k, v, mask=bias).transpose(1, 2).flatten(2))


class ScaledBlock(nn.Module):
    """x + scale * attention(norm(x)), then the same of the MLP; a learned scale a feature (Touvron et al. 2021, CaiT)."""

    takes_rows = True

    def __init__(self, attention: nn.Module, mlp: nn.Module, attention_norm: LayerNorm, *, mlp_norm: LayerNorm) -> None:
        super().__init__()
        self.attention_norm = attention_norm
        self.attention = attention
        self.attention_scale = nn.Parameter(torch.empty(attention_norm.normalized_shape))
        self.mlp_norm = mlp_norm
        self.mlp = mlp
        self.mlp_scale = nn.Parameter(torch.empty(mlp_norm.normalized_shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the scales to 0.1, as in BEiT's base size."""
        nn.init.constant_(self.attention_scale, _SCALE)
        nn.init.constant_(self.mlp_scale, _SCALE)

    def forward(self, x: Tensor, keep: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """(B, L, D), keep (B, L) bool -> (B, L, D), or (B, K, D) at the `rows` (B, K) int64 that are asked for."""
        x = x + self.attention_scale.to(x.dtype) * self.attention(self.attention_norm(x), keep)
        x = x if rows is None else take_rows(x, rows)
        return x + self.mlp_scale.to(x.dtype) * self.mlp(self.mlp_norm(x))


def num_relative(side: int) -> int:
    """How many relative positions there are among R x R patches and a class token."""
    return (2 * side - 1) ** 2 + 3


def relative_index(side: int, device: torch.device) -> Tensor:
    """(1 + N, 1 + N) int64: which row of the biases holds for a query and a key.

    First come the distances in rows and columns, row by row, then class token to patch, patch to class token, and to itself.
    """
    at = torch.arange(side, device=device)
    rows, columns = at.repeat_interleave(side), at.repeat(side)
    down, right = rows[:, None] - rows + side - 1, columns[:, None] - columns + side - 1
    num = num_relative(side)
    index = F.pad(down * (2 * side - 1) + right, (1, 0, 1, 0), value=num - 3)
    index[1:, 0] = num - 2
    index[0, 0] = num - 1
    return index


def resize_relative(positions: Tensor, side: int) -> Tensor:
    """((2R - 1)^2 + 3, H) biases -> the same for `side` patches a side: distances bicubic, the class token's left alone.

    Raises:
        ValueError: if they are of no square of patches.
    """
    across = round(max(0, len(positions) - 3) ** 0.5)
    if across % 2 == 0 or across**2 + 3 != len(positions):
        raise ValueError(f"{len(positions)} biases are of no square of patches")
    if across == 2 * side - 1:
        return positions
    square = positions[:-3].float().T.reshape(1, -1, across, across)
    resized = F.interpolate(square, size=(2 * side - 1,) * 2, mode="bicubic", align_corners=False)
    return torch.cat([resized.flatten(2)[0].T.to(positions.dtype), positions[-3:]])


def beit_transformer(
    width: int, depth: int, num_heads: int, *, side: int, hidden: int | None = None, eps: float = 1e-12
) -> Transformer:
    """As `layers.transformer`, of BEiT's blocks over `side` x `side` patches."""
    return Transformer(
        [
            ScaledBlock(
                RelativeAttention(width, num_heads, side),
                Mlp(width, hidden or 4 * width),
                LayerNorm(width, eps),
                mlp_norm=LayerNorm(width, eps),
            )
            for _ in range(depth)
        ]
    )
