"""A codebook fitted on the spot to the images at hand, for where no dVAE's weights can be had (paper §3.2: any codes do).

A code is the nearest of K prototypes to a patch's coarse picture: its colours averaged over 4 x 4 cells. That is the
patch's colour and the shape of an edge through it, without the grain, so that noise does not change codes and a model
can predict them from the patches around. Prototypes are found by k-means++ and Lloyd's iterations.

Letters: M images, B batch, N patches, K codes, s side of an image in pixels, p of a patch, F numbers in a coarse picture.
"""

import os
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchflava.codebooks.codebook import check_pixels, check_precision
from torchflava.codebooks.kmeans import kmeans, nearest
from torchflava.files import load_metadata, load_tensors, save_tensors

_CELLS = 4
"""Coarse pictures have 4 x 4 cells: the position and slope of an edge, no texture."""
_ALIKE = 0.15
"""Patches are alike whose quarters' colours, 12 numbers from 0 to 1, are no further apart."""
_OTHERS = 512
"""How many patches each is compared with."""


class PatchCodebook(nn.Module):
    """Prototypes of patches, frozen: buffers, which no optimizer, sharding or decay can reach.

    Args:
        prototypes: (K, 3, 4, 4) float64, coarse pictures from 0 to 1.
        pictures: (K, 3, p, p) uint8, what `decode` draws for each code.
        image_size: s, a multiple of p.

    Raises:
        ValueError: for tensors of other shapes, or an image size that is no multiple of the patch size.
    """

    prototypes: Tensor
    pictures: Tensor

    def __init__(self, prototypes: Tensor, pictures: Tensor, image_size: int) -> None:
        super().__init__()
        if prototypes.ndim != 4 or prototypes.shape[1:] != (3, _CELLS, _CELLS) or not len(prototypes):
            raise ValueError(f"prototypes have shape (K, 3, {_CELLS}, {_CELLS}), got {tuple(prototypes.shape)}")
        patch_size = pictures.shape[-1] if pictures.ndim == 4 else 0
        if pictures.dtype != torch.uint8 or pictures.shape != (len(prototypes), 3, patch_size, patch_size):
            raise ValueError(f"pictures are (K, 3, p, p) uint8, got {pictures.dtype} {tuple(pictures.shape)}")
        _check_sizes(image_size, patch_size)
        self.register_buffer("prototypes", prototypes.detach().double())
        self.register_buffer("pictures", pictures.detach())
        self.num_codes = len(prototypes)
        self.image_size = image_size
        self.patch_size = patch_size
        self.grid = (image_size // patch_size, image_size // patch_size)
        self.eval()

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """What `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged or no fitted codebook.
        """
        tensors, metadata = load_tensors(path), load_metadata(path)
        told = metadata.get("codebook") == "patches" and metadata.get("image_size", "").isdigit()
        if not told or set(tensors) != {"prototypes", "pictures"}:
            raise ValueError(
                f"{path} is no fitted codebook (it holds {', '.join(list(tensors)[:3])}); fit one and save it"
            )
        return cls(tensors["prototypes"], tensors["pictures"], int(metadata["image_size"]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a safetensors file."""
        save_tensors(path, self.state_dict(), {"codebook": "patches", "image_size": str(self.image_size)})

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation, whatever the model around it does."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, s, s) uint8 -> (B, N) int64 codes, row by row.

        Computed in float64, so that codes change neither with autocast nor with the precision set for products.

        Raises:
            ValueError: for pixels of another type or size, and if the prototypes were cast to a lower precision.
        """
        check_pixels(pixels, self.image_size)
        check_precision(self.prototypes, torch.float64)
        coarse = _coarse(pixels, self.grid[0])
        return nearest(coarse.flatten(0, 1), self.prototypes.flatten(1))[0].view(len(pixels), -1)

    forward = encode

    def decode(self, codes: Tensor) -> Tensor:
        """(B, N) int64 codes -> (B, 3, s, s) uint8: the picture that they stand for.

        Raises:
            ValueError: for codes of another shape or beyond K.
        """
        rows, columns = self.grid
        if codes.ndim != 2 or codes.shape[1] != rows * columns:
            raise ValueError(f"codes have shape (B, {rows * columns}), got {tuple(codes.shape)}; give whole images'")
        if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= self.num_codes):
            raise ValueError(f"codes go from 0 to {self.num_codes - 1}, got {int(codes.min())} to {int(codes.max())}")
        patches = self.pictures[codes].view(-1, rows, columns, 3, self.patch_size, self.patch_size)
        return patches.permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, self.image_size, self.image_size)


@torch.no_grad()
def fit_patches(
    images: Tensor, *, num_codes: int = 256, patch_size: int = 8, seed: int = 0, iterations: int = 10
) -> PatchCodebook:
    """A codebook of the patches in (M, 3, s, s) uint8 images, in which every code occurs.

    The same images and seed give the same codebook; 512 images are enough and take about a second. Patches that look
    alike count less the more there are (the grain of a plain background would otherwise take many codes, which nothing
    predicts); a prototype that no patch is nearest to moves to the patch that is served worst.

    Args:
        images: what to fit to, such as 512 training images.
        num_codes: K.
        patch_size: p, a divisor of s: the encoder's, or what gives the encoder's grid.
        seed: of the random draws.
        iterations: of Lloyd's.

    Raises:
        ValueError: for images of another type or size, or with fewer different patches than codes.
    """
    images, size = images.cpu(), images.shape[-1] if images.ndim else 0
    check_pixels(images, size)
    _check_sizes(size, patch_size)
    if num_codes < 2 or iterations < 1:
        raise ValueError(f"num_codes is {num_codes} and iterations {iterations}; take at least 2 codes and 1 iteration")
    coarse = _coarse(images, size // patch_size).flatten(0, 1)
    generator = torch.Generator().manual_seed(seed)
    weights = _rarity(coarse, generator)
    prototypes, codes = kmeans(coarse, num_codes, weights=weights, iterations=iterations, generator=generator)
    patches = F.unfold(images.float(), patch_size, stride=patch_size).transpose(1, 2).flatten(0, 1)
    pictures = torch.zeros(num_codes, patches.shape[1]).index_add_(0, codes, patches)
    pictures = (pictures / torch.bincount(codes, minlength=num_codes)[:, None]).round().to(torch.uint8)
    return PatchCodebook(
        prototypes.view(-1, 3, _CELLS, _CELLS), pictures.view(-1, 3, patch_size, patch_size), image_size=size
    )


def _coarse(pixels: Tensor, side: int) -> Tensor:
    """(B, 3, s, s) uint8 -> (B, N, F) float64: each patch's 4 x 4 cells, from 0 to 1."""
    cells = F.adaptive_avg_pool2d(pixels.float(), side * _CELLS).double() / 255
    return F.unfold(cells, _CELLS, stride=_CELLS).transpose(1, 2)


def _rarity(coarse: Tensor, generator: torch.Generator) -> Tensor:
    """(P, F) -> (P,): each patch's weight, one over the root of the share of patches that look much like it."""
    quarters = coarse.view(-1, 3, 2, _CELLS // 2, 2, _CELLS // 2).mean((3, 5)).flatten(1)
    others = quarters[torch.randint(len(quarters), (_OTHERS,), generator=generator)]
    alike = [(torch.cdist(part, others) < _ALIKE).sum(1) for part in torch.split(quarters, 8192)]
    return (1 + torch.cat(alike)).double().rsqrt()


def _check_sizes(image_size: int, patch_size: int) -> None:
    if patch_size < 1 or image_size < 1 or image_size % patch_size:
        raise ValueError(f"patches of {patch_size} px do not fill images of {image_size} px; choose a divisor")
