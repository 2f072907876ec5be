"""From the loader's batch to the model's, once a step: to the device, normalised there, codes looked up there.

Letters: B batch, N patches, K rows asked for.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from torchflava.batch import (
    IGNORE,
    Batch,
    ImageBatch,
    PairBatch,
    RawBatch,
    RawImageBatch,
    RawTextBatch,
    TextBatch,
    check_grid,
)

Normalise = Callable[[Tensor], Tensor]
"""(B, 3, S, S) uint8 -> float."""


class Encode(Protocol):
    """What looks codes up, such as `codebooks.codes_at` of a codebook."""

    def __call__(self, pixels: Tensor, positions: Tensor, *, num_patches: int) -> Tensor:
        """(B, 3, s, s) uint8, positions (B, K) int64 in [0, N) -> (B, K) int64 codes."""


def prepare(raw: RawBatch, device: torch.device, normalise: Normalise, encode: Encode) -> Batch:
    """A raw batch -> the batch that the model takes.

    Raises:
        ValueError: if the codebook's grid is not the image encoder's.
    """
    moved = type(raw)(*(part.to(device, non_blocking=True) for part in raw))
    if isinstance(moved, RawTextBatch):
        return TextBatch(*moved)
    if isinstance(moved, RawImageBatch):
        positions, labels = _labels(moved.targets, moved.positions, moved.masked, encode)
        return ImageBatch(normalise(moved.pixels), moved.masked, positions, labels)
    positions, labels = _labels(moved.targets, moved.patch_positions, moved.masked, encode)
    return PairBatch(
        pixels=normalise(moved.pixels),
        masked=moved.masked,
        patch_positions=positions,
        patch_labels=labels,
        ids=moved.ids,
        keep=moved.keep,
        masked_ids=moved.masked_ids,
        masked_keep=moved.masked_keep,
        token_positions=moved.token_positions,
        token_labels=moved.token_labels,
        matched=moved.matched,
        contrast=moved.contrast,
    )


def _labels(targets: Tensor, positions: Tensor, masked: Tensor, encode: Encode) -> tuple[Tensor, Tensor]:
    """Positions padded with -1 -> positions padded with 0, and the codes that stand there."""
    at = positions.clamp(min=0)
    if targets.ndim == 4:
        codes = encode(targets, at, num_patches=masked.shape[1])
    else:
        check_grid(targets.shape[1], masked.shape[1])
        codes = targets.gather(1, at)
    return at, torch.where(positions < 0, IGNORE, codes)
