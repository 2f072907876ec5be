"""What a codebook is: pixels in, one whole number a patch out, outside the model and frozen (paper §3.2).

Letters: B batch, N patches, K patches asked for, s side of the codebook's view in pixels.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from torchflava.batch import check_grid


class Codebook(Protocol):
    """A frozen tokeniser of images; anything with these names can stand in for one."""

    num_codes: int
    """Codes are 0 ... num_codes - 1."""
    image_size: int
    """s, the side of the view that it reads, in pixels."""
    grid: tuple[int, int]
    """Rows and columns of codes; N is their product."""

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, s, s) uint8 -> (B, N) int64, row by row, without gradient."""


class CodeUsage(NamedTuple):
    """How codes are spread over patches."""

    counts: Tensor
    """(num_codes,) int64: patches of each code."""
    used: int
    """Codes that occur."""
    entropy: float
    """Of the codes, in nats: the loss of a model that knows their frequencies and nothing else."""
    top: float
    """Share of the most frequent code."""


def code_usage(codes: Tensor, num_codes: int) -> CodeUsage:
    """(...) int64 codes -> how they are spread.

    Raises:
        ValueError: for no codes, or a code beyond `num_codes`.
    """
    if codes.numel() == 0:
        raise ValueError("code_usage: no codes; encode at least one image")
    if int(codes.min()) < 0 or int(codes.max()) >= num_codes:
        wrong = int(codes.min()) if int(codes.min()) < 0 else int(codes.max())
        raise ValueError(f"code {wrong} is not below num_codes {num_codes}; give the codebook's own num_codes")
    counts = torch.bincount(codes.flatten(), minlength=num_codes)
    shares = counts[counts > 0].double() / codes.numel()
    return CodeUsage(counts, len(shares), float(-(shares * shares.log()).sum()), float(shares.max()))


def codes_at(codebook: Codebook, pixels: Tensor, positions: Tensor, *, num_patches: int) -> Tensor:
    """(B, 3, s, s) uint8, positions (B, K) int64 below N -> (B, K) int64 codes there.

    A codebook that offers `encode_at` computes no other codes; the numbers are the same.

    Raises:
        ValueError: if the codebook has another number of codes than the encoder has patches.
    """
    check_grid(codebook.grid[0] * codebook.grid[1], num_patches)
    at = getattr(codebook, "encode_at", None)
    codes: Tensor = codebook.encode(pixels).gather(1, positions) if at is None else at(pixels, positions)
    return codes


def check_pixels(pixels: Tensor, image_size: int) -> None:
    """Nothing, if `pixels` is a batch that a codebook of this size reads.

    Raises:
        ValueError: for another type, number of dimensions or size, or an empty batch.
    """
    if pixels.dtype != torch.uint8:
        raise ValueError(
            f"a codebook reads uint8 pixels from 0 to 255, got {pixels.dtype}; give them before normalising"
        )
    if pixels.ndim != 4 or pixels.shape[1:] != (3, image_size, image_size):
        raise ValueError(
            f"this codebook reads pixels of shape (B, 3, {image_size}, {image_size}), got {tuple(pixels.shape)}; "
            f"resize its view to {image_size} px (code_size={image_size} in the image transform)"
        )
    if pixels.shape[0] == 0:
        raise ValueError("a batch of no images; give at least one")


def check_precision(weights: Tensor, dtype: torch.dtype) -> None:
    """Nothing, if `weights` are still of the type that the codebook was made with.

    Raises:
        ValueError: if they were cast, as `model.half()` does to all that a model holds.
    """
    if weights.dtype != dtype:
        raise ValueError(f"the codebook was cast to {weights.dtype}, which changes its codes; load it anew in {dtype}")
