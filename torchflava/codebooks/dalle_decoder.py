"""Codes back to pixels: the decoder of DALL-E's discrete VAE, frozen, to see what codes keep of a picture.

Letters: B batch, N codes of an image, K codes there are, h and w sides in codes; 8 pixels a code.
"""

import os
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchflava.codebooks.dalle import Convolution, check_dalle_tensors
from torchflava.codebooks.dalle_blocks import decoder_blocks
from torchflava.codebooks.dalle_names import OPENAI_DECODER_CLASSES, decoder_shapes
from torchflava.codebooks.dalle_pixels import unmap_pixels
from torchflava.files import read_state, save_tensors


class DalleDecoder(nn.Module):
    """The dVAE's decoder; its weights are buffers, in float32, as `DalleCodebook`'s are.

    Args:
        tensors: the weights under OpenAI's names; the sizes are read off them.

    Raises:
        ValueError: for tensors that are missing, too many or of another shape, all named.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        check_dalle_tensors(tensors, decoder_shapes(tensors), "decoder")
        weights = {name: tensor.detach().to(torch.float32) for name, tensor in tensors.items()}
        self.blocks = decoder_blocks(weights, lambda name: Convolution(weights, name))
        self.num_codes = tensors["blocks.input.w"].shape[1]
        self.eval()

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """The decoder in a file: what `save` or recipes/codebook.py wrote, or OpenAI's `decoder.pkl`, whose pickle is not run.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, or its tensors are not those of a dVAE's decoder.
        """
        tensors = read_state(path, OPENAI_DECODER_CLASSES)
        try:
            return cls(tensors)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights to a safetensors file under OpenAI's names."""
        save_tensors(path, self.state_dict(), {"codebook": "dalle-decoder"})

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, codes: Tensor) -> Tensor:
        """(B, h, w) int64 codes -> (B, 3, 8h, 8w) float32 pixels, 0 to 1: the middle of what is said of each.

        Raises:
            ValueError: for codes of another shape, or beyond K.
        """
        if codes.ndim != 3 or codes.dtype != torch.int64:
            raise ValueError(f"codes of shape {tuple(codes.shape)} and {codes.dtype}; give (B, h, w) int64")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.num_codes:
            raise ValueError(
                f"codes from {int(codes.min())} to {int(codes.max())}; they must be below {self.num_codes}"
            )
        chosen = F.one_hot(codes, self.num_codes).movedim(-1, 1).float()
        return unmap_pixels(torch.sigmoid(self.blocks(chosen)[:, :3]))
