"""The image encoder: a ViT with a mask token (paper §3.1).

Letters: B batch, S side in pixels, N patches, K rows asked for, D width.
"""

import torch
from torch import Tensor, nn

from torchflava.encoders.states import Encoded
from torchflava.encoders.views import View, trunk_at, trunk_both
from torchflava.layers import (
    LayerNorm,
    NormedPatchEmbedding,
    PatchEmbedding,
    RelativeAttention,
    beit_transformer,
    transformer,
)


class ImageEncoder(nn.Module):
    """Patch embedding, trunk, last norm.

    Anything with a `width` that maps (pixels, masked) to `Encoded` may stand in for it in `models.Flava`.
    """

    def __init__(self, embed: PatchEmbedding | NormedPatchEmbedding, trunk: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.embed = embed
        self.trunk = trunk
        self.norm = norm
        self.width = int(embed.positions.shape[-1])

    @property
    def image_size(self) -> int:
        """S."""
        return self.embed.image_size

    @property
    def num_patches(self) -> int:
        """N."""
        return self.embed.num_patches

    def resize(self, image_size: int) -> None:
        """Resize the learned positions, for good, to images of another size."""
        self.embed.resize(image_size)
        for part in self.trunk.modules():
            if isinstance(part, RelativeAttention):
                part.resize(image_size // self.embed.patch_size)

    def units(self) -> list[nn.Module]:
        """The parts to shard one by one."""
        return list(getattr(self.trunk, "blocks", []))

    def forward(self, pixels: Tensor, masked: Tensor | None = None) -> Encoded:
        """(B, 3, S, S) float, masked (B, N) bool, True where hidden -> `Encoded` of (B, 1 + N, D)."""
        hidden = self.trunk(self.embed(pixels, masked))
        return Encoded(hidden, self.norm(hidden))

    def at(self, pixels: Tensor, masked: Tensor | None = None, *, rows: Tensor) -> Tensor:
        """As `forward`, rows (B, K) int64 -> (B, K, D): the normed states at these rows, for less than all cost."""
        states: Tensor = self.norm(trunk_at(self.trunk, self.embed(pixels, masked), rows))
        return states

    def both(self, clean: View, masked: View, *, rows: Tensor) -> tuple[Tensor, Encoded]:
        """(pixels, None) and (the same, masked), rows (B, K) -> `at` of the first and `forward` of the second, in one pass."""
        both = getattr(self.embed, "both", None)  # an embedding of one's own may have none
        x = torch.cat([self.embed(*clean), self.embed(*masked)]) if both is None else both(*masked)
        first, hidden = trunk_both(self.trunk, x, rows)
        return self.norm(first), Encoded(hidden, self.norm(hidden))


def flava_image_encoder(
    *,
    width: int = 768,
    depth: int = 12,
    num_heads: int = 12,
    hidden: int | None = None,
    image_size: int = 224,
    patch_size: int = 16,
    interpolate: bool = False,
    eps: float = 1e-12,
) -> ImageEncoder:
    """ViT-B/16 at 224 px, unless told otherwise; `hidden` is the width inside the MLP, 4 * width by default.

    `interpolate` lets images of another size through, with positions resized on the fly; `eps` is that of the layer norms, 1e-6
    in DINO and timm.
    """
    return ImageEncoder(
        embed=PatchEmbedding(width, image_size, patch_size, interpolate=interpolate),
        trunk=transformer(width, depth, num_heads, hidden=hidden, eps=eps),
        norm=LayerNorm(width, eps),
    )


def beit_image_encoder(
    *,
    width: int = 768,
    depth: int = 12,
    num_heads: int = 12,
    hidden: int | None = None,
    image_size: int = 224,
    patch_size: int = 16,
    eps: float = 1e-12,
) -> ImageEncoder:
    """The same of BEiT's blocks, which add a learned bias by relative position to attention and scale their branches.

    It has absolute positions too, as FLAVA's; from BEiT's weights, which have none, they begin at 0.
    """
    return ImageEncoder(
        embed=PatchEmbedding(width, image_size, patch_size),
        trunk=beit_transformer(width, depth, num_heads, side=image_size // patch_size, hidden=hidden, eps=eps),
        norm=LayerNorm(width, eps),
    )
