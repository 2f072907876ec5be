"""The discrete VAE as it is trained (Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation", §2.1 and appendix A.2).

The encoder says for each place of 8 x 8 pixels which of K codes stands there; a code is drawn, relaxed so that gradients pass
(Gumbel-softmax); the decoder says from the relaxed codes what the pixels are. Its encoder then is a `DalleCodebook`.

Letters: B batch, K codes, s side of an image in pixels, h = s / 8 side in codes, W width of the encoder's first group.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchflava.codebooks.dalle_blocks import Bottleneck, decoder_blocks, encoder_blocks
from torchflava.codebooks.dalle_names import dalle_layout, decoder_layout
from torchflava.codebooks.dalle_pixels import map_pixels, unmap_pixels
from torchflava.codebooks.kmeans import kmeans
from torchflava.files import save_tensors
from torchflava.layers import init_by_fan_in
from torchflava.losses import Loss, logit_laplace_loss, uniform_kl_loss

_ITERATIONS = 20  # of Lloyd's
_AT_ONCE = 16384  # places whose logits are held at once


class DvaeBatch(NamedTuple):
    """What the dVAE learns from in a step."""

    pixels: Tensor
    """(B, 3, s, s) uint8."""
    noise: Tensor
    """(B, K, h, h) float32, as `gumbel_noise` draws it."""
    temperature: float
    """Of the relaxation: the nearer to 0, the nearer to one code a place."""


class Reconstructed(NamedTuple):
    """What is left of images after codes."""

    codes: Tensor
    """(B, h * h) int64, row by row: the likeliest at each place."""
    pixels: Tensor
    """(B, 3, s, s) float32, 0 to 1: drawn from these codes."""


class DiscreteVae(nn.Module):
    """The trainable dVAE: called on a batch it returns its losses.

    Args:
        encoder: pixels from 0.1 to 0.9 -> (B, K, h, h) logits.
        decoder: (B, K, h, h) shares of codes -> (B, 6, s, s): μ of each colour, then log b of each.
        least_scale: see `logit_laplace_loss`.
    """

    def __init__(self, encoder: nn.Sequential, decoder: nn.Sequential, *, least_scale: float = 0.0) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.least_scale = least_scale

    def forward(self, batch: DvaeBatch) -> dict[str, Loss]:
        """(B, 3, s, s) uint8 -> `reconstruction`, a sum over pixels' values, and `kl`, a sum over places."""
        seen = map_pixels(batch.pixels)
        logits = self.encoder(_channels_last(seen)).float()
        said = self.decoder(_channels_last(relaxed_codes(logits, batch.noise, batch.temperature)))
        return {
            "reconstruction": logit_laplace_loss(said, seen, least_scale=self.least_scale),
            "kl": uniform_kl_loss(logits),
        }

    def features(self, pixels: Tensor) -> Tensor:
        """(B, 3, s, s) uint8 -> (B, 8W, h, h) float32: what the encoder's last convolution is given."""
        x = _channels_last(map_pixels(pixels))
        for name, part in self.encoder.named_children():
            x = part.get_submodule("relu")(x) if name == "output" else part(x)
        return x.float()

    def reconstruct(self, pixels: Tensor) -> Reconstructed:
        """(B, 3, s, s) uint8 -> the likeliest codes, and what the decoder draws from them alone."""
        logits = self.encoder(_channels_last(map_pixels(pixels)))
        codes = logits.argmax(1)
        said = self.decoder(_channels_last(F.one_hot(codes, logits.shape[1]).movedim(-1, 1).float()))
        return Reconstructed(codes.flatten(1), unmap_pixels(torch.sigmoid(said[:, :3].float())))

    def units(self) -> Iterator[nn.Module]:
        """What is sharded one by one: the blocks."""
        return (part for part in self.modules() if isinstance(part, Bottleneck))

    def exact(self) -> list[nn.Module]:
        """What stays in float32 in any precision: what makes logits, what reads codes, and what is said of pixels."""
        encoder, decoder = self.encoder.get_submodule, self.decoder.get_submodule
        return [encoder("output.conv"), decoder("input"), decoder("output.conv")]


def _channels_last(x: Tensor) -> Tensor:
    """A pixel's values side by side, as convolutions then pass it on: a step takes two thirds of the time on the CPU."""
    return x.contiguous(memory_format=torch.channels_last)


def discrete_vae(
    *, width: int = 256, blocks: int = 2, num_codes: int = 8192, first_width: int = 128, least_scale: float = 0.0
) -> DiscreteVae:
    """A dVAE of these sizes, OpenAI's unless told otherwise.

    Args:
        width: W, of the encoder's first and the decoder's last group, a multiple of 4.
        blocks: in each of four groups.
        num_codes: K.
        first_width: of the decoder's first convolution.
        least_scale: see `logit_laplace_loss`.

    Raises:
        ValueError: for sizes that cannot be.
    """
    if width < 4 or width % 4:
        raise ValueError(f"width is {width}; a multiple of 4 is due")
    if min(blocks, first_width) < 1 or num_codes < 2:
        raise ValueError(
            f"blocks {blocks} and first_width {first_width} must be above 0, num_codes {num_codes} above 1"
        )
    encoder, decoder = (
        dalle_layout(width, blocks, num_codes),
        decoder_layout(width, blocks, num_codes, first_width=first_width),
    )
    return DiscreteVae(
        encoder_blocks(encoder, lambda name: TrainedConvolution(encoder[f"{name}.w"])),
        decoder_blocks(decoder, lambda name: TrainedConvolution(decoder[f"{name}.w"])),
        least_scale=least_scale,
    )


class TrainedConvolution(nn.Module):
    """A convolution that keeps the side, with OpenAI's names for its weights, in whose precision it computes.

    Args:
        shape: (outputs, inputs, k, k).
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.empty(*shape))
        self.b = nn.Parameter(torch.empty(shape[0]))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        init_by_fan_in(self.w, self.b)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, s, s) -> (B, outputs, s, s)."""
        return F.conv2d(x.to(self.w.dtype), self.w, self.b, padding=self.w.shape[-1] // 2)


def clustered_logits(
    features: Tensor,
    num_codes: int,
    *,
    spread: float,
    generator: torch.Generator,
    between: Callable[[], object] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """Weights of the encoder's last convolution, (K, D, 1, 1) and (K,), by which each code stands for a cluster of what it sees.

    As drawn, an encoder answers nearly the same to all images, and a short training ends with a single code. With these the
    likeliest code is the one whose centre is nearest, for logits are minus half the squared distances, times a factor.

    Args:
        features: (P, D), what the convolution is given at P places of some images.
        num_codes: K.
        spread: the standard deviation over codes that logits have, on average over the places.
        generator: of the draws of k-means.
        between: see `kmeans`.

    Raises:
        ValueError: if fewer than K of the places differ.
    """
    points = features.double()
    weights = torch.ones(len(points), dtype=torch.float64)
    centres, _ = kmeans(
        points, num_codes, weights=weights, iterations=_ITERATIONS, generator=generator, between=between
    )
    mean = points.mean(0)  # which moves all logits of a place alike
    weight, bias = centres - mean, (mean.square().sum() - centres.square().sum(1)) / 2
    spreads = [(part @ weight.T + bias).std(1) for part in torch.split(points, _AT_ONCE)]
    factor = spread / torch.cat(spreads).mean()
    return (factor * weight).float()[:, :, None, None], (factor * bias).float()


def gumbel_noise(keys: Sequence[int], shape: Sequence[int], device: torch.device) -> Tensor:
    """(B, ...) float32 from the standard Gumbel distribution, each row by its own key, whatever stands in the others.

    Args:
        keys: B numbers of 64 bits, such as of seed, step and row.
        shape: of a row, (K, h, h).
        device: on which it is drawn; another kind of device draws others.
    """
    draws, rows = torch.Generator(device), []
    for key in keys:
        draws.manual_seed(key % 2**63)
        rows.append(torch.empty(*shape, device=device).exponential_(generator=draws))
    return -torch.log(torch.stack(rows).clamp(min=torch.finfo(torch.float32).tiny))


def relaxed_codes(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """(B, K, h, h), (B, K, h, h) -> (B, K, h, h) shares of codes at each place, drawn from the softmax of the logits (Jang et al.
    2017; Maddison et al. 2017): the greatest share stands where a code drawn from it would.

    Raises:
        ValueError: for a temperature that is not above 0.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    return torch.softmax((logits.float() + noise.float()) / temperature, dim=1)


def save_codebook(weights: Mapping[str, Tensor], folder: str | os.PathLike[str], image_size: int) -> None:
    """Write a trained dVAE's halves as the files that `DalleCodebook.from_file` and `DalleDecoder.from_file` read.

    Args:
        weights: a whole `DiscreteVae`'s.
        folder: receives `codebook.safetensors`, the encoder, and `decoder.safetensors`.
        image_size: s, of the images that it was trained on.
    """
    for half, file, told in (
        ("encoder", "codebook.safetensors", {"codebook": "dalle", "image_size": str(image_size)}),
        ("decoder", "decoder.safetensors", {"codebook": "dalle-decoder"}),
    ):
        own = {f"blocks.{k.removeprefix(f'{half}.')}": v for k, v in weights.items() if k.startswith(f"{half}.")}
        save_tensors(os.path.join(folder, file), own, told)
