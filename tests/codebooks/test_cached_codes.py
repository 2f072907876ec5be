"""Codes from an array: what the codebook gave comes back, and a third codebook needs nothing but the protocol's names."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from torchflava.codebooks import CachedCodes, Codebook, encode_all


class Brightness:
    """A codebook of one's own: how bright each quarter of an image is."""

    image_size = 6
    grid = (2, 2)

    def __init__(self, num_codes: int) -> None:
        self.num_codes = num_codes

    def encode(self, pixels: Tensor) -> Tensor:
        bright = torch.nn.functional.avg_pool2d(pixels.double().mean(1, keepdim=True), 3) / 256
        return (bright * self.num_codes).long().flatten(1)


def batches() -> list[Tensor]:
    draws = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (count, 3, 6, 6), generator=draws, dtype=torch.uint8) for count in (5, 5, 3)]


@pytest.mark.parametrize(("num_codes", "dtype"), [(7, np.uint16), (65_536, np.uint16), (100_000, np.int32)])
def test_codes_come_back_by_index(tmp_path: Path, num_codes: int, dtype: type) -> None:
    codebook: Codebook = Brightness(num_codes)
    codes = encode_all(codebook, batches())
    assert codes.dtype == dtype
    np.save(tmp_path / "codes.npy", codes)
    cached = CachedCodes(np.load(tmp_path / "codes.npy", mmap_mode="r"), num_codes=num_codes, grid=codebook.grid)
    assert len(cached) == 13
    found = torch.stack([cached[i] for i in range(13)])
    assert found.dtype == torch.int64
    assert torch.equal(found, codebook.encode(torch.cat(batches())))


def test_bad_arrays_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(M, 4\) for a grid of 2 x 2, got int64 \(3, 5\)"):
        CachedCodes(np.zeros((3, 5), np.int64), num_codes=7, grid=(2, 2))
    with pytest.raises(ValueError, match="got float64"):
        CachedCodes(np.zeros((3, 4)), num_codes=7, grid=(2, 2))
    cached = CachedCodes(np.array([[0, 6, 7, 1]]), num_codes=7, grid=(2, 2))
    with pytest.raises(ValueError, match="image 0 has codes from 0 to 7, num_codes is 7"):
        cached[0]
    with pytest.raises(IndexError):
        cached[1]
    with pytest.raises(ValueError, match="no batches"):
        encode_all(Brightness(3), [])
