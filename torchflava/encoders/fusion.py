"""The fusion encoder: CLS_M, image states and text states in one sequence, no positions of its own (paper §3.1).

Letters: B batch, N patches, T tokens, K rows asked for, D width.
"""

import torch
from torch import Tensor, nn

from torchflava.encoders.states import Fused
from torchflava.encoders.views import trunk_at
from torchflava.layers import LayerNorm, init_weights, transformer


class FusionEncoder(nn.Module):
    """A learned CLS_M in front of the joined sequence, trunk, last norm.

    Anything with a `width` that maps (image, text, keep) to `Fused` may stand in for it in `models.Flava`.

    Args:
        width: D.
        trunk: states to states.
        norm: the last norm.
        attend_to_padding: let the sequence see the text's padding, as TorchMultimodal's FLAVA does.
    """

    def __init__(self, width: int, trunk: nn.Module, norm: nn.Module, *, attend_to_padding: bool = False) -> None:
        super().__init__()
        self.width = width
        self.trunk = trunk
        self.norm = norm
        self.attend_to_padding = attend_to_padding
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw CLS_M anew."""
        init_weights(self.cls_token)

    def units(self) -> list[nn.Module]:
        """The parts to shard one by one."""
        return list(getattr(self.trunk, "blocks", []))

    def forward(self, image: Tensor, text: Tensor, keep: Tensor) -> Fused:
        """(B, 1 + N, D), (B, T, D), keep (B, T) bool, True for a token -> `Fused`.

        Raises:
            ValueError: if the batches are of unequal size, or `keep` does not fit the text.
        """
        x = self.norm(self.trunk(*self._joined(image, text, keep)))
        return Fused(x[:, 0], x[:, 1 : 1 + image.shape[1]], x[:, 1 + image.shape[1] :])

    def at(self, image: Tensor, text: Tensor, keep: Tensor, *, rows: Tensor) -> Tensor:
        """As `forward`, rows (B, K) int64 of CLS_M, image and text in a row -> (B, K, D) normed states at less cost."""
        x, mask = self._joined(image, text, keep)
        states: Tensor = self.norm(trunk_at(self.trunk, x, rows, keep=mask))
        return states

    def _joined(self, image: Tensor, text: Tensor, keep: Tensor) -> tuple[Tensor, Tensor | None]:
        """The sequence (B, 2 + N + T, D), and which of it may be attended to."""
        if image.shape[0] != text.shape[0]:
            raise ValueError(f"{image.shape[0]} images meet {text.shape[0]} texts; give one text for each image")
        if keep.shape != text.shape[:2] or keep.dtype != torch.bool:
            raise ValueError(
                f"keep is {tuple(keep.shape)} {keep.dtype}; a bool for each of {tuple(text.shape[:2])} tokens is due"
            )
        cls = self.cls_token.expand(image.shape[0], -1, -1).to(image.dtype)
        x = torch.cat([cls, image, text.to(image.dtype)], dim=1)
        front = torch.ones_like(keep[:, :1]).expand(-1, 1 + image.shape[1])
        return x, None if self.attend_to_padding else torch.cat([front, keep], dim=1)


def flava_fusion_encoder(
    *,
    width: int = 768,
    depth: int = 6,
    num_heads: int = 12,
    hidden: int | None = None,
    attend_to_padding: bool = False,
) -> FusionEncoder:
    """Six layers of the towers' size, unless told otherwise."""
    return FusionEncoder(
        width,
        trunk=transformer(width, depth, num_heads, hidden=hidden),
        norm=LayerNorm(width),
        attend_to_padding=attend_to_padding,
    )
