"""Codes read from an array instead of encoded again: the dVAE costs more than the image encoder (paper §3.2).

A sample's codes are only right for the very crop that was encoded: give the encoder that crop too.
Letters: M images, B batch, N patches, s side of the codebook's view in pixels.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torchflava.codebooks.codebook import Codebook


class CachedCodes:
    """The codes of M images, by index, to stand in a row's place of codebook pixels.

    Args:
        codes: (M, N) of whole numbers, such as a memory map; it is not copied.
        num_codes: of the codebook that made them.
        grid: rows and columns; N is their product.

    Raises:
        ValueError: for an array of another shape or type.
    """

    def __init__(self, codes: NDArray[np.integer], *, num_codes: int, grid: tuple[int, int]) -> None:
        if codes.ndim != 2 or codes.shape[1] != grid[0] * grid[1] or codes.dtype.kind not in "iu":
            raise ValueError(
                f"codes are whole numbers of shape (M, {grid[0] * grid[1]}) for a grid of {grid[0]} x {grid[1]}, "
                f"got {codes.dtype} {codes.shape}; give the array and the grid of one codebook"
            )
        self.codes = codes
        self.num_codes = num_codes
        self.grid = grid

    def __len__(self) -> int:
        """M."""
        return len(self.codes)

    def __getitem__(self, index: int) -> Tensor:
        """(N,) int64: the codes of one image.

        Raises:
            IndexError: for an index beyond the last.
            ValueError: for a code beyond `num_codes`.
        """
        codes = torch.from_numpy(self.codes[index].astype(np.int64))
        if int(codes.min()) < 0 or int(codes.max()) >= self.num_codes:
            raise ValueError(
                f"image {index} has codes from {int(codes.min())} to {int(codes.max())}, num_codes is {self.num_codes}; "
                "the array was made with another codebook or is damaged, encode it again"
            )
        return codes


def fingerprint(codebook: nn.Module) -> str:
    """Tells a codebook from any other: a number for its class, its image size and all of its tensors."""
    told = hashlib.blake2b(f"{type(codebook).__name__} {codebook.image_size}".encode(), digest_size=16)
    for name, tensor in sorted(codebook.state_dict().items()):
        told.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        told.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return told.hexdigest()


def encode_all(codebook: Codebook, batches: Iterable[Tensor]) -> NDArray[np.uint16] | NDArray[np.int32]:
    """Batches of (B, 3, s, s) uint8 -> (M, N) codes of all their images, in the smallest type that holds them.

    Raises:
        ValueError: for no images.
    """
    dtype = np.uint16 if codebook.num_codes <= 2**16 else np.int32
    parts = [codebook.encode(pixels).cpu().numpy().astype(dtype) for pixels in batches]
    if not parts:
        raise ValueError("encode_all: no batches; give at least one image")
    return np.concatenate(parts)
