"""The named sizes (base: paper §4.1; 900m to 10b: facebookresearch/multimodal@3c2a85a, examples/flava/native/configs)."""

from typing import NamedTuple


class Size(NamedTuple):
    """The numbers that a named size stands for."""

    width: int
    """Of the states in all three encoders."""
    depth: int
    """Blocks in the image and in the text encoder."""
    num_heads: int
    """Of attention, in all blocks."""
    hidden: int
    """Inside the MLPs."""
    fusion_depth: int
    """Blocks in the fusion encoder."""
    embed_dim: int
    """Of the space in which images and texts are compared."""


SIZES = {
    "tiny": Size(64, 2, 2, 128, 1, 32),
    "mini": Size(128, 3, 4, 384, 2, 64),
    "small": Size(192, 6, 3, 768, 3, 128),
    "medium": Size(384, 12, 6, 1536, 6, 256),
    "base": Size(768, 12, 12, 3072, 6, 512),
    "900m": Size(1024, 24, 16, 4096, 12, 512),
    "1.8b": Size(1280, 32, 16, 5120, 16, 512),
    "2.7b": Size(1408, 40, 16, 6144, 20, 512),
    "4.8b": Size(1664, 48, 16, 8192, 24, 512),
    "10b": Size(2048, 64, 16, 10240, 40, 512),
}
"""Sizes by name: `tiny` for tests, `mini` and `small` for a laptop, `base` is the paper's."""


class TextSize(NamedTuple):
    """The numbers of CLIP's text encoder, which is narrower than its image encoder."""

    width: int
    """Of the states."""
    depth: int
    """Blocks."""
    num_heads: int
    """Of attention."""
    hidden: int
    """Inside the MLPs."""


CLIP_TEXTS = {
    "tiny": TextSize(48, 2, 2, 96),
    "mini": TextSize(96, 3, 3, 288),
    "small": TextSize(128, 6, 2, 512),
    "medium": TextSize(256, 12, 4, 1024),
    "base": TextSize(512, 12, 8, 2048),
}
"""Text encoders of CLIP beside image encoders of these `SIZES`: `base` is ViT-B/16's (Radford et al. 2021, table 20), the others
have about its share of the image encoder's width, two thirds."""
