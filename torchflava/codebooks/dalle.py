"""The codebook of the paper: the encoder of DALL-E's discrete VAE (paper §3.2; facts from openai/DALL-E@5be4b23).

Letters: B batch, N patches, K codes, s side of the view in pixels, W width of the first group. Four groups of blocks of
widths W, 2W, 4W, 8W; the first three end by halving the side, so 112 px give 14 x 14 codes. A block adds to its input
`post_gain` times four convolutions, each after a ReLU, of a quarter of its width inside.
"""

import os
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchflava.codebooks.codebook import check_pixels, check_precision
from torchflava.codebooks.dalle_blocks import encoder_blocks
from torchflava.codebooks.dalle_names import OPENAI_CLASSES, dalle_names, dalle_shapes
from torchflava.codebooks.dalle_pixels import map_pixels
from torchflava.files import load_metadata, read_state, save_tensors
from torchflava.layers import take_rows

Precision = Literal["fp32", "bf16", "fp16"]
"""Of all convolutions but the last, which is computed in float32 as OpenAI's is."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class DalleCodebook(nn.Module):
    """The dVAE's encoder, frozen: its weights are buffers, so that no optimizer, sharding or decay can reach them.

    It computes in float32 under any autocast, because codes change with the precision, unless it is told another one: OpenAI
    ran it in fp16 on GPUs. (Whether float32 convolutions may use TF32 there is torch's setting,
    `torch.backends.cudnn.conv.fp32_precision`.) Weights are kept in float32.

    Args:
        tensors: the weights under OpenAI's names (`blocks.group_1.block_1.res_path.conv_1.w`), of any float type; the
            sizes are read off them.
        image_size: s, a multiple of 8; 112 gives the paper's 196 codes.
        at_most: images encoded at once, which bounds the memory (about 50 MB an image at the full size).
        precision: see `Precision`.

    Raises:
        ValueError: for tensors that are missing, too many or of another shape, all named; for an image size that is
            no multiple of 8.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        *,
        image_size: int = 112,
        at_most: int = 16,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__()
        check_dalle_tensors(tensors, dalle_shapes(tensors), "encoder")
        if precision not in _DTYPES:
            raise ValueError(f"precision must be one of {', '.join(_DTYPES)}, got {precision!r}")
        if image_size < 8 or image_size % 8:
            raise ValueError(f"image_size is {image_size}; the dVAE needs a multiple of 8, such as 112")
        if at_most < 1:
            raise ValueError(f"at_most is {at_most}; encode at least one image at once")
        weights = {name: tensor.detach().to(torch.float32) for name, tensor in tensors.items()}
        self.blocks = encoder_blocks(weights, lambda name: Convolution(weights, name))
        self.image_size = image_size
        self.grid = (image_size // 8, image_size // 8)
        self.num_codes = len(tensors["blocks.output.conv.b"])
        self.at_most = at_most
        self.precision = precision
        self.eval()

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        part: str | None = None,
        image_size: int | None = None,
        precision: Precision = "fp32",
    ) -> Self:
        """The codebook in a file or folder, whoever wrote it.

        Read are: what `save` wrote; OpenAI's `encoder.pkl` (its pickle is parsed, not run; `dall_e` is not needed);
        transformers' `FlavaImageCodebook`, alone or within a `FlavaForPreTraining`; the same of TorchMultimodal's.
        Without `image_size` it is the saved one, or 112 where the file tells none. Of several state dicts `part` is read.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, or its tensors are not those of a dVAE's encoder.
        """
        tensors, told = read_state(path, OPENAI_CLASSES, part=part), load_metadata(path)
        if told.get("codebook") == "dalle-decoder":
            raise ValueError(f"{path} is the decoder of a dVAE; give its encoder, the codebook.safetensors of that run")
        try:
            if image_size is None:
                image_size = int(told.get("image_size", 112))
            return cls(dalle_names(tensors), image_size=image_size, precision=precision)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights to a safetensors file under OpenAI's names."""
        save_tensors(path, self.state_dict(), {"codebook": "dalle", "image_size": str(self.image_size)})

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation, whatever the model around it does."""
        return super().train(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, s, s) uint8 -> (B, K, s/8, s/8) float32 logits, without gradient.

        Raises:
            ValueError: for pixels of another type or size, and if the weights were cast to a lower precision.
        """
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            logits: Tensor = self.blocks.get_submodule("output.conv")(self._seen(pixels))
            return logits

    def _seen(self, pixels: Tensor) -> Tensor:
        """(B, 3, s, s) uint8 -> (B, D, s/8, s/8) float32: what the last convolution is given."""
        check_pixels(pixels, self.image_size)
        check_precision(self.blocks.get_buffer("input.w"), torch.float32)
        x = map_pixels(pixels)
        if self.precision != "fp32":
            x = x.to(_DTYPES[self.precision], memory_format=torch.channels_last)
        for name, part in self.blocks.named_children():
            x = part.get_submodule("relu")(x) if name == "output" else part(x)
        return x.float()

    def encode_at(self, pixels: Tensor, positions: Tensor) -> Tensor:
        """(B, 3, s, s) uint8, positions (B, K) int64 in [0, N) -> (B, K) int64 codes there, for less than all cost.

        Raises:
            ValueError: as `encode`.
        """
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            parts = zip(torch.split(pixels, self.at_most), torch.split(positions, self.at_most), strict=True)
            return torch.cat([self._codes_at(*part) for part in parts])

    def _codes_at(self, pixels: Tensor, positions: Tensor) -> Tensor:
        last = self.blocks.get_submodule("output.conv")
        states = take_rows(self._seen(pixels).flatten(2).transpose(1, 2), positions)
        return F.linear(states, last.get_buffer("w").flatten(1), last.get_buffer("b")).argmax(-1)

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, s, s) uint8 -> (B, N) int64 codes, row by row.

        Raises:
            ValueError: for pixels of another type or size, and if the weights were cast to a lower precision.
        """
        check_pixels(pixels, self.image_size)
        return torch.cat([self(part).argmax(1).flatten(1) for part in torch.split(pixels, self.at_most)])


class Convolution(nn.Module):
    """A convolution that keeps the side; its weights are buffers under OpenAI's names."""

    w: Tensor
    b: Tensor

    def __init__(self, weights: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        self.register_buffer("w", weights[f"{name}.w"])
        self.register_buffer("b", weights[f"{name}.b"])
        self._low: tuple[Tensor, Tensor] | None = None
        self._made_of: tuple[Any, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        w, b = (self.w, self.b) if x.dtype == self.w.dtype else self._cast(x)
        return F.conv2d(x, w, b, padding=self.w.shape[-1] // 2)

    def _cast(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The weights as `x` is, made once for these weights."""
        made_of = (x.dtype, x.device, id(self.w), self.w._version, self.b._version)
        if self._low is None or self._made_of != made_of:
            self._low = self.w.to(x, memory_format=torch.channels_last), self.b.to(x)
            self._made_of = made_of
        return self._low


def check_dalle_tensors(tensors: Mapping[str, Tensor], needed: Mapping[str, tuple[int, ...]], part: str) -> None:
    """Nothing, if every tensor is one of a dVAE's `part`, and none is missing.

    Args:
        tensors: what is there.
        needed: the names and shapes of the part's.
        part: encoder or decoder.

    Raises:
        ValueError: naming all that is wrong, the first ten of it.
    """
    wrong = [
        *(f"missing {name}" for name in needed if name not in tensors),
        *(f"unexpected {name}" for name in tensors if name not in needed),
        *(
            f"{name} has shape {tuple(tensors[name].shape)} instead of {shape}"
            for name, shape in needed.items()
            if name in tensors and tensors[name].shape != shape
        ),
        *(f"{name} is {t.dtype}" for name, t in tensors.items() if not t.is_floating_point()),
    ]
    if wrong:
        told = "; ".join(wrong[:10]) + (f" and {len(wrong) - 10} more" if len(wrong) > 10 else "")
        raise ValueError(f"no dVAE {part}: {told}; give the weights of one whole {part}")
