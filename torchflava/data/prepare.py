"""From the loader's batch to the model's, once a step: to the device, normalised there, codes looked up there.

Letters: B batch, N patches, K rows asked for.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from torchflava.batch import IGNORE, Batch, ImageBatch, PairBatch, RawBatch, RawImageBatch, RawTextBatch, TextBatch

Normalise = Callable[[Tensor], Tensor]
"""(B, 3, S, S) uint8 -> float."""
Encode = Callable[[Tensor], Tensor]
"""(B, 3, s, s) uint8 -> (B, N) int64 codes, such as a codebook's `encode`."""


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
    codes = encode(targets) if targets.ndim == 4 else targets
    if codes.shape != masked.shape:
        raise ValueError(
            f"the codebook gives {codes.shape[1]} codes an image, the encoder sees {masked.shape[1]} patches; "
            "choose the codebook's image size and the patch size so that both grids are the same"
        )
    at = positions.clamp(min=0)
    return at, torch.where(positions < 0, IGNORE, codes.gather(1, at))
