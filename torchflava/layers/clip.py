"""CLIP's own parts: attention to what came before, patches that are normed before the blocks, words without segments and norm.

Source: Radford et al. 2021, CLIP, §2.4; openai/CLIP@main, clip/model.py.
Letters: B batch, S side of an image in pixels, N patches, L length, T tokens, D width, H heads.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from torchflava.layers.attend import attend
from torchflava.layers.embedding import PatchProjection, check_ids, patch_grid, resize_positions, resized_for_good
from torchflava.layers.init import init_weights
from torchflava.layers.norm import LayerNorm
from torchflava.layers.transformer import Mlp, Transformer, transformer


class CausalAttention(nn.Module):
    """Self-attention of each place to itself and to what came before it.

    Args:
        width: D.
        num_heads: H, a divisor of D.

    Raises:
        ValueError: if D is no multiple of H.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or width % num_heads:
            raise ValueError(
                f"CausalAttention: width {width} is no multiple of num_heads {num_heads}; choose a divisor"
            )
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        init_weights(self.qkv, self.out, width=self.out.in_features)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, L, D), keep (B, L) bool, True where a key may be attended to, the first one always -> (B, L, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if keep is None:
            y = attend(q, k, v, causal=True)
        else:
            before = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
            y = attend(q, k, v, mask=keep[:, None, None, :] & before)
        return self.out(y.transpose(1, 2).flatten(2))


class QuickMlp(nn.Module):
    """Two linear layers round the GELU that OpenAI's released weights were trained with, x * sigmoid(1.702 x)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        init_weights(self.up, self.down, width=self.up.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        up = self.up(x)
        return self.down(up * torch.sigmoid(1.702 * up))


class NormedPatchEmbedding(nn.Module):
    """Patches by a strided convolution without a bias, a class token in front, positions added, all of it normed.

    It has no mask token: nothing is hidden from CLIP.

    Args:
        width: D.
        image_size: S, a multiple of `patch_size`.
        patch_size: the side of a patch in pixels.
        interpolate: resize the positions on the fly to images of another size; without it such an image is an error.
        eps: of the norm.
    """

    def __init__(
        self, width: int, image_size: int, patch_size: int, *, interpolate: bool = False, eps: float = 1e-5
    ) -> None:
        super().__init__()
        if patch_size < 1 or image_size < patch_size or image_size % patch_size:
            raise ValueError(f"NormedPatchEmbedding: image_size {image_size} is no multiple of patch_size {patch_size}")
        self.image_size = image_size
        self.patch_size = patch_size
        self.interpolate = interpolate
        self.projection = PatchProjection(width, patch_size, bias=False)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + self.num_patches, width))
        self.norm = LayerNorm(width, eps)
        self.reset_parameters()

    @property
    def num_patches(self) -> int:
        """N for images of `image_size`."""
        return (self.image_size // self.patch_size) ** 2

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        init_weights(self.projection, self.cls_token, self.positions, self.norm, width=self.projection.out_channels)

    def resize(self, image_size: int) -> None:
        """Resize the learned positions, for good, to images of another size."""
        self.positions = resized_for_good(self.positions, image_size, self.patch_size)
        self.image_size = image_size

    def forward(self, pixels: Tensor, masked: Tensor | None = None) -> Tensor:
        """(B, 3, S, S) float -> (B, 1 + N, D).

        Raises:
            ValueError: for images of another size, and where patches shall be hidden.
        """
        if masked is not None:
            raise ValueError("CLIP's image encoder has no mask token to hide patches with; leave `masked` out")
        grid = patch_grid(pixels, self.image_size, self.patch_size, interpolate=self.interpolate)
        x = self.projection(pixels)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)
        return self.norm(x + resize_positions(self.positions, grid).to(x.dtype))


class PlainTokenEmbedding(nn.Module):
    """Word and position embeddings, added.

    Args:
        vocab_size: the number of ids.
        width: D.
        max_length: the longest text, in tokens.
    """

    def __init__(self, vocab_size: int, width: int, max_length: int = 77) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.max_length = max_length
        self.words = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(max_length, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        init_weights(self.words, self.positions)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) int64 -> (B, T, D).

        Raises:
            ValueError: for a text that is empty or too long, and (on the CPU) for an id beyond the vocabulary.
        """
        check_ids(ids, self.vocab_size, self.max_length)
        return self.words(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))


def causal_transformer(
    width: int,
    depth: int,
    num_heads: int,
    *,
    hidden: int | None = None,
    eps: float = 1e-5,
    mlp: Callable[[int, int], nn.Module] = Mlp,
) -> Transformer:
    """As `layers.transformer`, with attention to what came before alone."""
    return transformer(width, depth, num_heads, hidden=hidden, eps=eps, attention=CausalAttention, mlp=mlp)
