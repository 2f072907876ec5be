"""FLAVA: an image encoder, a text encoder and a fusion encoder over both (paper §3.1).

Letters: B batch, S side in pixels, N patches, T tokens, D width, E embedding width.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from torchflava.encoders import (
    Encoded,
    Fused,
    FusionPart,
    ImagePart,
    TextPart,
    first_rows,
    flava_fusion_encoder,
    flava_image_encoder,
    flava_text_encoder,
    fused_at,
    keep_tokens,
    normed_at,
)
from torchflava.layers import init_weights
from torchflava.models.parts import check_widths, resize_encoder, units_of
from torchflava.models.sizes import SIZES


class FlavaOutput(NamedTuple):
    """All that one look at a batch of pairs yields."""

    image: Encoded
    """(B, 1 + N, D) states of the images."""
    text: Encoded
    """(B, T, D) states of the texts."""
    fused: Fused
    """The fusion encoder's states, cut into CLS_M, image and text."""


class Flava(nn.Module):
    """The three encoders and the projections between them.

    A part is anything with a `width` that keeps the signature of the encoder it stands in for; sizes are read off the
    parts, so three encoders of three widths go together.

    Args:
        image: (pixels, masked) -> `Encoded`.
        text: (ids, keep) -> `Encoded`.
        fusion: (image, text, keep) -> `Fused`.
        embed_dim: E, the width of the space in which images and texts are compared (512 in the paper, table C.1).
    """

    def __init__(self, image: ImagePart, text: TextPart, fusion: FusionPart, *, embed_dim: int = 512) -> None:
        super().__init__()
        check_widths({"image": image, "text": text, "fusion": fusion})
        self.image_encoder = image
        self.text_encoder = text
        self.fusion_encoder = fusion
        self.image_projection = nn.Linear(image.width, embed_dim)
        self.text_projection = nn.Linear(text.width, embed_dim)
        self.image_to_fusion = nn.Linear(image.width, fusion.width)
        self.text_to_fusion = nn.Linear(text.width, fusion.width)
        self.reset_parameters()

    @property
    def embed_dim(self) -> int:
        """E."""
        return self.image_projection.out_features

    def reset_parameters(self) -> None:
        """Draw the projections' weights anew."""
        init_weights(self.image_projection, self.image_to_fusion, width=self.image_encoder.width)
        init_weights(self.text_projection, self.text_to_fusion, width=self.text_encoder.width)

    def resize(self, image_size: int) -> None:
        """Resize the image encoder's positions, for good, to images of another size."""
        resize_encoder(self.image_encoder, image_size)

    def units(self) -> list[nn.Module]:
        """The parts to shard one by one: each encoder's `units()`, or the encoder itself where it offers none."""
        encoders = (self.get_submodule(f"{name}_encoder") for name in ("image", "text", "fusion"))
        return [unit for part in encoders for unit in units_of(part)]

    def keep(self, ids: Tensor, keep: Tensor | None) -> Tensor:
        """(B, T) ids -> (B, T) bool, True for a token; derived from the padding id unless given."""
        return keep_tokens(ids, keep, getattr(self.text_encoder, "pad_id", 0))

    def fuse(self, image: Encoded, text: Encoded, keep: Tensor) -> Fused:
        """The states before the encoders' last norms, projected and fused."""
        return self.fusion_encoder(self.image_to_fusion(image.hidden), self.text_to_fusion(text.hidden), keep)

    def fuse_at(self, image: Encoded, text: Encoded, keep: Tensor, *, rows: Tensor) -> Tensor:
        """As `fuse`, rows (B, K) int64 of CLS_M, image and text in a row -> (B, K, D) normed states."""
        states = self.image_to_fusion(image.hidden), self.text_to_fusion(text.hidden)
        return fused_at(self.fusion_encoder, *states, keep=keep, rows=rows)

    def project_image(self, cls: Tensor) -> Tensor:
        """(..., D) normed states of class tokens -> (..., E) of length 1, float32."""
        return F.normalize(self.image_projection(cls).float(), dim=-1)

    def project_text(self, cls: Tensor) -> Tensor:
        """(..., D) normed states of first tokens -> (..., E) of length 1, float32."""
        return F.normalize(self.text_projection(cls).float(), dim=-1)

    def embed_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) float, normalised -> (B, E) of length 1, for retrieval and zero-shot classification."""
        return self.project_image(normed_at(self.image_encoder, (pixels, None), first_rows(pixels))[:, 0])

    def embed_text(self, ids: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, T) int64 -> (B, E) of length 1."""
        return self.project_text(normed_at(self.text_encoder, (ids, self.keep(ids, keep)), first_rows(ids))[:, 0])

    def forward(self, pixels: Tensor, ids: Tensor, keep: Tensor | None = None) -> FlavaOutput:
        """(B, 3, S, S) float, (B, T) int64, keep (B, T) bool, derived from the padding id unless given -> `FlavaOutput`.

        Raises:
            ValueError: for unequal batch sizes, a wrong image size, ids beyond the vocabulary, a mask of the wrong shape.
        """
        if pixels.shape[0] != ids.shape[0]:
            raise ValueError(f"{pixels.shape[0]} images meet {ids.shape[0]} texts; give one text for each image")
        keep = self.keep(ids, keep)
        image, text = self.image_encoder(pixels), self.text_encoder(ids, keep)
        return FlavaOutput(image, text, self.fuse(image, text, keep))


def flava_model(
    size: str = "base",
    *,
    image: ImagePart | None = None,
    text: TextPart | None = None,
    fusion: FusionPart | None = None,
    embed_dim: int | None = None,
    image_size: int | None = None,
    patch_size: int | None = None,
    vocab_size: int | None = None,
) -> Flava:
    """The paper's model without arguments: 12 + 12 + 6 layers, 768 wide, ViT-B/16 at 224, 30,522 words, embed_dim 512.

    Args:
        size: a name in `SIZES`, from `tiny` (for tests) to `10b`.
        image, text, fusion: parts of your own in place of the size's.
        embed_dim: the width of the shared space.
        image_size: side of an image in pixels, 224 by default.
        patch_size: side of a patch in pixels, 16 by default.
        vocab_size: the number of ids, 30,522 by default.

    Raises:
        ValueError: for an unknown size, and for a number that a part given would leave without effect.
    """
    if size not in SIZES:
        raise ValueError(f"no size is called {size!r}; there are {', '.join(SIZES)}")
    if image is not None and (image_size or patch_size):
        raise ValueError("image_size and patch_size go to the image part, which you gave; set them there")
    if text is not None and vocab_size:
        raise ValueError("vocab_size goes to the text part, which you gave; set it there")
    width, depth, num_heads, hidden, fusion_depth, default_dim = SIZES[size]
    if image is None:
        image = flava_image_encoder(
            width=width,
            depth=depth,
            num_heads=num_heads,
            hidden=hidden,
            image_size=image_size or 224,
            patch_size=patch_size or 16,
        )
    if text is None:
        text = flava_text_encoder(
            width=width, depth=depth, num_heads=num_heads, hidden=hidden, vocab_size=vocab_size or 30522
        )
    if fusion is None:
        fusion = flava_fusion_encoder(width=width, depth=fusion_depth, num_heads=num_heads, hidden=hidden)
    return Flava(image, text, fusion, embed_dim=embed_dim or default_dim)
