"""Batches: where data and model meet, and nowhere else (paper §2, §4.1).

Letters: B batch, N patches, T tokens, K predictions asked for in a row, S side of an image in pixels.

A `Raw…Batch` is what `transforms.collate` emits on the CPU (images still uint8); `data.prepare` turns it into the batch
that the model takes. The type says which objectives run: no flags and no optional fields.
"""

from typing import NamedTuple, TypeAlias

from torch import Tensor

IGNORE = -100
"""The label of a place where nothing is to be predicted (`torch.nn.CrossEntropyLoss`'s default)."""


class RawImageBatch(NamedTuple):
    """Images without captions, as they leave the loader."""

    pixels: Tensor
    """(B, 3, S, S) uint8: the encoder's view."""
    targets: Tensor
    """(B, 3, s, s) uint8: the codebook's view of the same crop; or (B, N) int64: its codes, read from a cache."""
    masked: Tensor
    """(B, N) bool: True where a patch is hidden from the encoder."""
    positions: Tensor
    """(B, K) int64: the masked patches of each row, ascending, padded with -1."""


class RawTextBatch(NamedTuple):
    """Texts without images, as they leave the loader."""

    masked_ids: Tensor
    """(B, T) int64: ids after masking."""
    keep: Tensor
    """(B, T) bool: True for a token, False for padding."""
    positions: Tensor
    """(B, K) int64: tokens to predict, padded with 0."""
    labels: Tensor
    """(B, K) int64: their true ids, `IGNORE` where padded."""


class RawPairBatch(NamedTuple):
    """Captioned images, as they leave the loader."""

    pixels: Tensor
    """(B, 3, S, S) uint8."""
    targets: Tensor
    """(B, 3, s, s) uint8, or (B, N) int64 codes from a cache."""
    masked: Tensor
    """(B, N) bool: True where a patch is hidden from the encoder."""
    patch_positions: Tensor
    """(B, K) int64, padded with -1."""
    ids: Tensor
    """(B, T) int64: the clean caption of the image."""
    keep: Tensor
    """(B, T) bool: True for a token of `ids`."""
    masked_ids: Tensor
    """(B, T') int64: the masked text; where `matched` is False, another image's."""
    masked_keep: Tensor
    """(B, T') bool: True for a token of `masked_ids`."""
    token_positions: Tensor
    """(B, K') int64: tokens of `masked_ids` to predict, padded with 0."""
    token_labels: Tensor
    """(B, K') int64: their true ids, `IGNORE` where padded."""
    matched: Tensor
    """(B,) bool: True where the masked text belongs to the image."""
    contrast: Tensor
    """(B,) bool: True where the clean text belongs to the image (a row of the contrastive loss)."""


class ImageBatch(NamedTuple):
    """Images for masked image modelling."""

    pixels: Tensor
    """(B, 3, S, S) float, normalised."""
    masked: Tensor
    """(B, N) bool: True where a patch is hidden from the encoder."""
    positions: Tensor
    """(B, K) int64: patches to predict, padded with 0."""
    labels: Tensor
    """(B, K) int64: their codes, `IGNORE` where padded."""


class TextBatch(NamedTuple):
    """Texts for masked language modelling."""

    masked_ids: Tensor
    """(B, T) int64: ids after masking."""
    keep: Tensor
    """(B, T) bool: True for a token, False for padding."""
    positions: Tensor
    """(B, K) int64: tokens to predict, padded with 0."""
    labels: Tensor
    """(B, K) int64: their true ids, `IGNORE` where padded."""


class PairBatch(NamedTuple):
    """Captioned images for the contrastive, masked multimodal and matching objectives."""

    pixels: Tensor
    """(B, 3, S, S) float, normalised."""
    masked: Tensor
    """(B, N) bool: True where a patch is hidden from the encoder."""
    patch_positions: Tensor
    """(B, K) int64: patches to predict, padded with 0."""
    patch_labels: Tensor
    """(B, K) int64: their codes, `IGNORE` where padded."""
    ids: Tensor
    """(B, T) int64: the clean text."""
    keep: Tensor
    """(B, T) bool: True for a token of `ids`."""
    masked_ids: Tensor
    """(B, T') int64: the masked text; where `matched` is False, another image's."""
    masked_keep: Tensor
    """(B, T') bool: True for a token of `masked_ids`."""
    token_positions: Tensor
    """(B, K') int64: tokens of `masked_ids` to predict, padded with 0."""
    token_labels: Tensor
    """(B, K') int64: their true ids, `IGNORE` where padded."""
    matched: Tensor
    """(B,) bool: True where the masked text belongs to the image."""
    contrast: Tensor
    """(B,) bool: True where the clean text belongs to the image."""


class CachedPairBatch(NamedTuple):
    """A part of a batch of pairs, on the second pass of cached-embedding accumulation (Gao et al. 2021, §3.2)."""

    pair: PairBatch
    image_grad: Tensor
    """(B, E) float: the gradient of the whole batch's contrastive loss, of all ranks, at these images' embeddings."""
    text_grad: Tensor
    """(B, E) float: the same at the texts'."""


RawBatch: TypeAlias = RawImageBatch | RawTextBatch | RawPairBatch
"""What leaves the loader."""
Batch: TypeAlias = ImageBatch | TextBatch | PairBatch | CachedPairBatch
"""What the model takes; its type says which objectives run."""


def split(raw: RawBatch, rows: int) -> list[RawBatch]:
    """A batch on the CPU as parts of at most so many rows, each with its texts trimmed to its own longest.

    Raises:
        ValueError: for parts of less than one row.
    """
    if rows < 1:
        raise ValueError(f"parts of {rows} rows hold nothing; 1 or more are due")
    num_rows = raw[0].shape[0]
    parts = [type(raw)(*(column[at : at + rows] for column in raw)) for at in range(0, num_rows, rows)]
    return [_trimmed(part) for part in parts]


def _trimmed(raw: RawBatch) -> RawBatch:
    if isinstance(raw, RawTextBatch):
        longest = _longest(raw.keep)
        return raw._replace(masked_ids=raw.masked_ids[:, :longest], keep=raw.keep[:, :longest])
    if isinstance(raw, RawPairBatch):
        clean, masked = _longest(raw.keep), _longest(raw.masked_keep)
        return raw._replace(
            ids=raw.ids[:, :clean],
            keep=raw.keep[:, :clean],
            masked_ids=raw.masked_ids[:, :masked],
            masked_keep=raw.masked_keep[:, :masked],
        )
    return raw


def _longest(keep: Tensor) -> int:
    """(B, T) bool -> the tokens of the longest text."""
    return int(keep.sum(1).max())


def check_grid(num_codes: int, num_patches: int) -> None:
    """Raise ValueError unless there is a code for each patch."""
    if num_codes != num_patches:
        raise ValueError(
            f"the codebook gives {num_codes} codes an image, the encoder sees {num_patches} patches; "
            "choose the codebook's image size and the patch size so that both grids are the same"
        )
