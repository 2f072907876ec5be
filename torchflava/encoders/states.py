"""What an encoder returns.

Letters: B batch, L length, N patches, T tokens, D width.
"""

from typing import NamedTuple, Protocol

from torch import Tensor


class Encoded(NamedTuple):
    """The states of one modality: FLAVA fuses the state before the last norm and predicts from the one after it."""

    hidden: Tensor
    """(B, L, D): the last block's output."""
    normed: Tensor
    """(B, L, D): the same after the last layer norm; row 0 is the class token."""


class Fused(NamedTuple):
    """The normed states of the fusion encoder, cut where the sequence was joined."""

    cls: Tensor
    """(B, D): CLS_M."""
    image: Tensor
    """(B, 1 + N, D): CLS_I and the patches."""
    text: Tensor
    """(B, T, D): the tokens, CLS_T first."""


class ImagePart(Protocol):
    """What may stand as FLAVA's image encoder."""

    width: int
    """D."""

    def __call__(self, pixels: Tensor, masked: Tensor | None = None) -> Encoded:
        """(B, 3, S, S) float, masked (B, N) bool, True where hidden -> (B, 1 + N, D)."""


class TextPart(Protocol):
    """What may stand as FLAVA's text encoder."""

    width: int
    """D."""
    vocab_size: int
    """The number of ids."""

    def __call__(self, ids: Tensor, keep: Tensor | None = None) -> Encoded:
        """(B, T) int64, keep (B, T) bool, True for a token -> (B, T, D)."""


class FusionPart(Protocol):
    """What may stand as FLAVA's fusion encoder."""

    width: int
    """D."""

    def __call__(self, image: Tensor, text: Tensor, keep: Tensor) -> Fused:
        """(B, 1 + N, D), (B, T, D), keep (B, T) bool -> the joined sequence, encoded and cut."""
