"""CLIP, the paper's baseline: an image encoder and a text encoder whose embeddings are compared, and nothing else.

Source: Radford et al. 2021, CLIP, §2.4 and fig. 3; openai/CLIP@main, clip/model.py.
Letters: B batch, S side in pixels, N patches, T tokens, D width, E embedding width.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from torchflava.encoders import (
    ImagePart,
    TextPart,
    clip_image_encoder,
    clip_text_encoder,
    first_rows,
    keep_tokens,
    last_kept,
    normed_at,
)
from torchflava.layers import init_weights
from torchflava.models.parts import check_widths, resize_encoder, units_of
from torchflava.models.sizes import CLIP_TEXTS, SIZES


class ClipOutput(NamedTuple):
    """The embeddings of a batch of pairs; their products are the cosines."""

    image: Tensor
    """(B, E) of length 1, float32."""
    text: Tensor
    """(B, E) of length 1, float32."""


class Clip(nn.Module):
    """Two encoders and the projections into a space in which images and texts are compared.

    A part is anything with a `width` that keeps the signature of the encoder it stands in for.

    Args:
        image: (pixels, masked) -> `Encoded`, whose first state stands for the image.
        text: (ids, keep) -> `Encoded`, whose state at the last token stands for the text.
        embed_dim: E.
    """

    def __init__(self, image: ImagePart, text: TextPart, *, embed_dim: int = 512) -> None:
        super().__init__()
        check_widths({"image": image, "text": text})
        self.image_encoder = image
        self.text_encoder = text
        self.image_projection = nn.Linear(image.width, embed_dim, bias=False)
        self.text_projection = nn.Linear(text.width, embed_dim, bias=False)
        self.reset_parameters()

    @property
    def embed_dim(self) -> int:
        """E."""
        return self.image_projection.out_features

    def reset_parameters(self) -> None:
        """Draw the projections' weights anew."""
        init_weights(self.image_projection, width=self.image_encoder.width)
        init_weights(self.text_projection, width=self.text_encoder.width)

    def resize(self, image_size: int) -> None:
        """Resize the image encoder's positions, for good, to images of another size."""
        resize_encoder(self.image_encoder, image_size)

    def units(self) -> list[nn.Module]:
        """The parts to shard one by one: each encoder's `units()`, or the encoder itself where it offers none."""
        return [unit for name in ("image", "text") for unit in units_of(self.get_submodule(f"{name}_encoder"))]

    def keep(self, ids: Tensor, keep: Tensor | None) -> Tensor:
        """(B, T) ids -> (B, T) bool, True for a token; unless given as the text encoder's `kept` says, or by the padding id."""
        if hasattr(self.text_encoder, "kept"):
            kept: Tensor = self.text_encoder.kept(ids, keep)
            return kept
        return keep_tokens(ids, keep, getattr(self.text_encoder, "pad_id", 0))

    def project_image(self, cls: Tensor) -> Tensor:
        """(..., D) normed states of class tokens -> (..., E) of length 1, float32."""
        return F.normalize(self.image_projection(cls).float(), dim=-1)

    def project_text(self, last: Tensor) -> Tensor:
        """(..., D) normed states of last tokens -> (..., E) of length 1, float32."""
        return F.normalize(self.text_projection(last).float(), dim=-1)

    def embed_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) float, normalised -> (B, E) of length 1, for retrieval and zero-shot classification."""
        return self.project_image(normed_at(self.image_encoder, (pixels, None), first_rows(pixels))[:, 0])

    def embed_text(self, ids: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, T) int64, padded at the end -> (B, E) of length 1."""
        keep = self.keep(ids, keep)
        return self.project_text(normed_at(self.text_encoder, (ids, keep), last_kept(keep)[:, None])[:, 0])

    def forward(self, pixels: Tensor, ids: Tensor, keep: Tensor | None = None) -> ClipOutput:
        """(B, 3, S, S) float, (B, T) int64, keep (B, T) bool, derived from the padding id unless given -> `ClipOutput`.

        Raises:
            ValueError: for unequal batch sizes, a wrong image size, ids beyond the vocabulary, a mask of the wrong shape, and
                padding that is not at the end.
        """
        if pixels.shape[0] != ids.shape[0]:
            raise ValueError(f"{pixels.shape[0]} images meet {ids.shape[0]} texts; give one text for each image")
        return ClipOutput(self.embed_image(pixels), self.embed_text(ids, keep))


def clip_model(
    size: str = "base",
    *,
    image: ImagePart | None = None,
    text: TextPart | None = None,
    embed_dim: int | None = None,
    image_size: int | None = None,
    patch_size: int | None = None,
    vocab_size: int | None = None,
    max_length: int | None = None,
) -> Clip:
    """CLIP's ViT-B/16 without arguments: 12 + 12 layers, 768 and 512 wide, 77 tokens, embed_dim 512, over BERT's 30,522 words.

    Args:
        size: a name in `CLIP_TEXTS`: `tiny`, `mini`, `small`, `medium` or `base`; the image encoder's sizes are FLAVA's.
        image, text: parts of your own in place of the size's.
        embed_dim: the width of the shared space.
        image_size: side of an image in pixels, 224 by default.
        patch_size: side of a patch in pixels, 16 by default.
        vocab_size: the number of ids, 30,522 by default; 49,408 in CLIP's own.
        max_length: the longest text, in tokens, 77 by default.

    Raises:
        ValueError: for an unknown size, and for a number that a part given would leave without effect.
    """
    if size not in CLIP_TEXTS:
        raise ValueError(f"no CLIP is of size {size!r}; there are {', '.join(CLIP_TEXTS)}")
    if image is not None and (image_size or patch_size):
        raise ValueError("image_size and patch_size go to the image part, which you gave; set them there")
    if text is not None and (vocab_size or max_length):
        raise ValueError("vocab_size and max_length go to the text part, which you gave; set them there")
    of_image, of_text = SIZES[size], CLIP_TEXTS[size]
    if image is None:
        image = clip_image_encoder(
            width=of_image.width,
            depth=of_image.depth,
            num_heads=of_image.num_heads,
            hidden=of_image.hidden,
            image_size=image_size or 224,
            patch_size=patch_size or 16,
        )
    if text is None:
        text = clip_text_encoder(**of_text._asdict(), vocab_size=vocab_size or 30522, max_length=max_length or 77)
    return Clip(image, text, embed_dim=embed_dim or of_image.embed_dim)
