"""Pixels and ids to states (paper §3.1; facebookresearch/multimodal@3c2a85a, models/flava/image_encoder.py, text_embedding.py).

Letters: B batch, S side of an image in pixels, N patches, T tokens, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchflava.layers.init import init_weights
from torchflava.layers.norm import LayerNorm


def resize_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """(1, 1 + N, D) learned positions of a class token and a square grid -> (1, 1 + rows * columns, D), bicubic.

    Source: Dosovitskiy et al. 2021, §3.2; computed in float32, the class token's position is left alone.
    """
    side = round((positions.shape[1] - 1) ** 0.5)
    if side * side != positions.shape[1] - 1:
        raise ValueError(f"resize_positions: {positions.shape[1] - 1} positions are no square grid")
    if grid == (side, side):
        return positions
    square = positions[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], resized.flatten(2).transpose(1, 2).to(positions.dtype)], dim=1)


def resized_for_good(positions: Tensor, image_size: int, patch_size: int) -> nn.Parameter:
    """(1, 1 + N, D) -> learned positions for images of `image_size` pixels.

    Raises:
        ValueError: if that is no multiple of `patch_size`.
    """
    if image_size < patch_size or image_size % patch_size:
        raise ValueError(f"resize: image_size {image_size} is no multiple of patch_size {patch_size}")
    side = image_size // patch_size
    with torch.no_grad():
        return nn.Parameter(resize_positions(positions, (side, side)).clone())


class PatchProjection(nn.Conv2d):
    """A convolution that strides by its own side, as one product with the pixels of all patches; the weights are a convolution's.

    Args:
        width: D.
        patch_size: p, the side of a patch in pixels.
        bias: whether to add one.
    """

    def __init__(self, width: int, patch_size: int, *, bias: bool = True) -> None:
        super().__init__(3, width, patch_size, patch_size, bias=bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, rows * p, columns * p) -> (B, N, D), row by row."""
        side = self.kernel_size[0]
        patches = pixels.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5)
        return F.linear(patches.flatten(3).flatten(1, 2), self.weight.flatten(1), self.bias)


class PatchEmbedding(nn.Module):
    """Patches by a strided convolution, a mask token in place of hidden ones, a class token in front, positions added.

    Args:
        width: D.
        image_size: S, a multiple of `patch_size`.
        patch_size: the side of a patch in pixels.
        interpolate: resize the positions on the fly to images of another size; without it such an image is an error.
    """

    def __init__(self, width: int, image_size: int, patch_size: int, *, interpolate: bool = False) -> None:
        super().__init__()
        if patch_size < 1 or image_size < patch_size or image_size % patch_size:
            raise ValueError(f"PatchEmbedding: image_size {image_size} is no multiple of patch_size {patch_size}")
        self.image_size = image_size
        self.patch_size = patch_size
        self.interpolate = interpolate
        self.projection = PatchProjection(width, patch_size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + self.num_patches, width))
        self.reset_parameters()

    @property
    def num_patches(self) -> int:
        """N for images of `image_size`."""
        return (self.image_size // self.patch_size) ** 2

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        width = self.projection.out_channels
        init_weights(self.projection, self.cls_token, self.mask_token, self.positions, width=width)

    def resize(self, image_size: int) -> None:
        """Resize the learned positions, for good, to images of another size (224 to 480 for VQAv2, paper table C.2)."""
        self.positions = resized_for_good(self.positions, image_size, self.patch_size)
        self.image_size = image_size

    def forward(self, pixels: Tensor, masked: Tensor | None = None) -> Tensor:
        """(B, 3, S, S) float, masked (B, N) bool, True where hidden -> (B, 1 + N, D).

        Raises:
            ValueError: for images of another size, and for a mask of another shape than the patches'.
        """
        grid = self._grid(pixels)
        return self._placed(self.projection(pixels), grid, masked)

    def both(self, pixels: Tensor, masked: Tensor) -> Tensor:
        """(B, 3, S, S), masked (B, N) -> (2B, 1 + N, D): B images as they are, then the same with their patches hidden.

        Raises:
            ValueError: as `forward`.
        """
        grid = self._grid(pixels)
        x = self.projection(pixels)
        return torch.cat([self._placed(x, grid), self._placed(x, grid, masked)])

    def _grid(self, pixels: Tensor) -> tuple[int, int]:
        return patch_grid(pixels, self.image_size, self.patch_size, interpolate=self.interpolate)

    def _placed(self, x: Tensor, grid: tuple[int, int], masked: Tensor | None = None) -> Tensor:
        """(B, N, D) projected patches -> (B, 1 + N, D)."""
        if masked is not None:
            if masked.shape != x.shape[:2] or masked.dtype != torch.bool:
                raise ValueError(
                    f"masked is {tuple(masked.shape)} {masked.dtype}, but the image has {tuple(x.shape[:2])} patches; "
                    "give a bool for each patch"
                )
            x = torch.where(masked[..., None], self.mask_token.to(x.dtype), x)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)
        return x + resize_positions(self.positions, grid).to(x.dtype)


class TokenEmbedding(nn.Module):
    """Word, position and segment embeddings, added and normalised (Devlin et al. 2019, §3).

    Args:
        vocab_size: the number of ids; id 0 is padding, whose row starts at zero and never learns, as in BERT.
        width: D.
        max_length: the longest text, in tokens.
        num_segments: BERT's token types; FLAVA uses type 0 alone.
        eps: of the layer norm.
    """

    def __init__(
        self, vocab_size: int, width: int, max_length: int = 512, *, num_segments: int = 2, eps: float = 1e-12
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.max_length = max_length
        self.words = nn.Embedding(vocab_size, width, padding_idx=0)
        self.positions = nn.Embedding(max_length, width)
        self.segments = nn.Embedding(num_segments, width)
        self.norm = LayerNorm(width, eps)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        init_weights(self.words, self.positions, self.segments, self.norm)

    def forward(self, ids: Tensor, segments: Tensor | None = None) -> Tensor:
        """(B, T) int64, segments (B, T) int64, zeros unless given -> (B, T, D).

        Raises:
            ValueError: for a text that is empty or too long, and (on the CPU, where looking costs nothing) for an id
                beyond the vocabulary.
        """
        check_ids(ids, self.vocab_size, self.max_length)
        at = torch.arange(ids.shape[1], device=ids.device)
        kinds = torch.zeros_like(ids) if segments is None else segments
        return self.norm(self.words(ids) + self.positions(at) + self.segments(kinds))


def patch_grid(pixels: Tensor, image_size: int, patch_size: int, *, interpolate: bool = False) -> tuple[int, int]:
    """(B, 3, S, S) float -> the rows and columns of their patches.

    Raises:
        ValueError: for what is no batch of images, and for images of another size than `image_size` unless `interpolate` lets
            them through.
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.is_floating_point():
        raise ValueError(
            f"pixels are {tuple(pixels.shape)} {pixels.dtype}; (B, 3, S, S) float is due, after transforms.normalise"
        )
    if pixels.shape[0] == 0:
        raise ValueError("pixels hold no image: the batch is empty")
    height, width = pixels.shape[2:]
    if (height, width) != (image_size, image_size) and not interpolate:
        raise ValueError(
            f"images are {height} x {width}, the encoder is made for {image_size} x {image_size}; resize "
            "the images, call resize(image_size), or build with interpolate=True"
        )
    if height % patch_size or width % patch_size:
        raise ValueError(f"images are {height} x {width}, no multiple of the patch size {patch_size}")
    return height // patch_size, width // patch_size


def check_ids(ids: Tensor, vocab_size: int, max_length: int) -> None:
    """See that ids can be embedded; their values only on the CPU, where looking costs nothing.

    Raises:
        ValueError: for a text that is empty or too long, and for an id beyond the vocabulary.
    """
    if ids.ndim != 2 or ids.dtype not in (torch.int64, torch.int32) or 0 in ids.shape:
        raise ValueError(f"ids are {tuple(ids.shape)} {ids.dtype}; (B, T) int64 with B and T above 0 is due")
    if ids.shape[1] > max_length:
        raise ValueError(f"texts are {ids.shape[1]} tokens long, the encoder takes {max_length}; truncate them")
    if ids.device.type == "cpu" and not torch.compiler.is_compiling():
        low, high = (int(x) for x in torch.aminmax(ids))
        if low < 0 or high >= vocab_size:
            raise ValueError(
                f"id {low if low < 0 else high} is beyond the vocabulary of {vocab_size}; "
                "tokenise with the vocabulary that the model was built for"
            )
