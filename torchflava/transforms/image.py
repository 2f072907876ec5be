"""Bytes to uint8 pixels, and pixels to views: one crop at two sizes (paper §2.1; torchmultimodal@3c2a85a, flava_transform.py).

Everything stays uint8 until `normalise`, which is for the device. Letters: H, W height and width, S, s sides of the views.
"""

from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from math import exp, log, sqrt
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from torchflava.transforms.jpeg import decode_jpeg, jpeg_size

Rng = np.random.Generator

MEAN = (0.48145466, 0.4578275, 0.40821073)
"""CLIP's, by channel, of pixels in [0, 1]; FLAVA's too."""
STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's, by channel."""
MAX_PIXELS = 1 << 26
"""A larger image (8192 x 8192) is refused before it is decoded."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")  # not EPS and its like, which run programs


class CorruptSample(ValueError):  # noqa: N818  # a kind of sample, not of error
    """A sample that cannot be read; the loader replaces it and counts."""


def decode_image(data: bytes) -> Tensor:
    """The bytes of an image file -> (3, H, W) uint8, upright (EXIF), the first frame, transparency laid over white.

    JPEG of one or three channels goes through torchcodec where it is installed, else through torchvision; everything else
    through Pillow.

    Raises:
        CorruptSample: if the bytes are no image, a damaged one, or one of more than `MAX_PIXELS`.
    """
    try:
        if (size := jpeg_size(data)) is not None:
            _refuse_large(*size)
            return decode_jpeg(data)
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            _refuse_large(image.height, image.width)
            return from_pillow(image)
    except (
        Exception
    ) as error:  # decoders raise whatever they like: OSError, SyntaxError, struct.error, RuntimeError ...
        start = data[:12]
        raise CorruptSample(
            f"{len(data)} bytes that begin with {start!r} are no readable image: {type(error).__name__}: {error}"
        ) from error


def _refuse_large(height: int, width: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are more than {MAX_PIXELS}")


def from_pillow(image: Image.Image) -> Tensor:
    """A Pillow image, whatever its mode -> (3, H, W) uint8, upright, transparency laid over white."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F":
        raise ValueError("a picture of floating-point numbers has no fixed range; store 8 or 16 bits a pixel")
    if upright.mode.startswith("I"):  # 16 bits a pixel, which `convert` would clip at 255
        grey = np.asarray(upright).astype(np.float64) / 257
        upright = Image.fromarray(grey.round().clip(0, 255).astype(np.uint8))
    if upright.has_transparency_data:
        colour = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour)
    return torch.from_numpy(np.array(upright.convert("RGB"))).permute(2, 0, 1).contiguous()


def decoded(image: Tensor | bytes) -> Tensor:
    """What a sample holds, (3, H, W) uint8 or the bytes of an image file -> (3, H, W) uint8.

    Raises:
        CorruptSample: for bytes that cannot be decoded.
    """
    return decode_image(image) if isinstance(image, bytes) else image


def normalise(pixels: Tensor) -> Tensor:
    """(..., 3, H, W) uint8 -> float32 of the same shape: in units of `STD` from `MEAN`.

    Raises:
        ValueError: if the pixels are not uint8 in three channels.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim < 3 or pixels.shape[-3] != 3:
        raise ValueError(
            f"pixels of {pixels.dtype} and shape {tuple(pixels.shape)}; give uint8 with 3 channels before height and width"
        )
    scale, shift = _affine(pixels.device)
    return torch.addcmul(shift, pixels.float(), scale)


@lru_cache(maxsize=16)
def _affine(device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale and shift (3, 1, 1), made once a device: making them anew would wait for the device at every step."""
    mean, std = torch.tensor(MEAN, dtype=torch.float64), torch.tensor(STD, dtype=torch.float64)
    scale, shift = (1 / (255 * std)).float(), (-mean / std).float()
    return scale.view(3, 1, 1).to(device), shift.view(3, 1, 1).to(device)


def crop_box(
    height: int, width: int, rng: Rng, *, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """A crop (top, left, height, width) of an image: area uniform in `scale`, width / height log-uniform in `ratio`.

    Ten tries; then the largest centred crop whose ratio is allowed (Szegedy et al. 2015, §6, as torchvision draws it).
    """
    for _ in range(10):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * rng.random())
        aspect = exp(log(ratio[0]) + log(ratio[1] / ratio[0]) * rng.random())
        w, h = round(sqrt(area * aspect)), round(sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.random() * (height - h + 1)), int(rng.random() * (width - w + 1)), h, w
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = max(1, min(width, round(height * aspect))), max(1, min(height, round(width / aspect)))
    return (height - h) // 2, (width - w) // 2, h, w


class TrainViews:
    """One crop at two sizes: the encoder's view (bicubic) and the codebook's (Lanczos), both from the image's own pixels.

    Args:
        image_size: S, side of the encoder's view.
        code_size: s, side of the codebook's view.
        scale: range of the crop's share of the image's area.
        ratio: range of the crop's width / height.
        flip: probability of mirroring both views; FLAVA's 0, BEiT's 0.5.
        warp: applied before the crop, so that both views show the same, (3, H, W) uint8 -> the same.
        augment: applied to the encoder's view alone, (3, S, S) uint8 -> the same.
    """

    def __init__(
        self,
        image_size: int,
        code_size: int,
        *,
        scale: tuple[float, float] = (0.9, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.0,
        warp: Callable[[Tensor, Rng], Tensor] | None = None,
        augment: Callable[[Tensor, Rng], Tensor] | None = None,
    ) -> None:
        _check_size(image_size)
        _check_size(code_size)
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale {scale} must rise from above 0 to at most 1")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"ratio {ratio} must be above 0 and rise")
        if not 0 <= flip <= 1:
            raise ValueError(f"flip {flip} is a probability between 0 and 1")
        self.image_size, self.code_size = image_size, code_size
        self.scale, self.ratio = scale, ratio
        self.flip, self.warp, self.augment = flip, warp, augment

    def __call__(self, image: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """(3, H, W) uint8 -> (3, S, S) and (3, s, s) uint8.

        Raises:
            ValueError: if the image is not (3, H, W) uint8.
        """
        crop = self.crop(image, rng)
        return self.view(crop, rng), self.target(crop)

    def crop(self, image: Tensor, rng: Rng) -> Tensor:
        """(3, H, W) uint8 -> (3, h, w) uint8: what both views show, at the image's own resolution.

        Raises:
            ValueError: if the image is not (3, H, W) uint8.
        """
        check_image(image)
        image = image if self.warp is None else self.warp(image, rng)
        top, left, height, width = crop_box(image.shape[1], image.shape[2], rng, scale=self.scale, ratio=self.ratio)
        crop = image[:, top : top + height, left : left + width]
        crop = crop.flip(-1) if rng.random() < self.flip else crop
        # A pixel's three values side by side, without gaps: both resizings read it so, and would each make the copy.
        return crop.permute(1, 2, 0).contiguous().permute(2, 0, 1)

    def view(self, crop: Tensor, rng: Rng) -> Tensor:
        """A crop -> (3, S, S) uint8: the encoder's view."""
        view = _resized(crop, self.image_size, "bicubic")
        return view if self.augment is None else self.augment(view, rng)

    def target(self, crop: Tensor) -> Tensor:
        """A crop -> (3, s, s) uint8: the codebook's view."""
        return _resized(crop, self.code_size, "lanczos")

    def told(self) -> dict[str, Any]:
        """What fixes the codebook's view of an image, but for the generator, in numbers that JSON can hold.

        Raises:
            ValueError: if there is a warp, which numbers do not tell of.
        """
        if self.warp is not None:
            raise ValueError("views with a warp show another picture each time; leave it out where codes are kept")
        return {"code_size": self.code_size, "scale": [*self.scale], "ratio": [*self.ratio], "flip": self.flip}


class EvalView:
    """The shorter side resized to S (bicubic), the centre cut out: no randomness."""

    def __init__(self, image_size: int) -> None:
        _check_size(image_size)
        self.image_size = image_size

    def __call__(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 -> (3, S, S) uint8.

        Raises:
            ValueError: if the image is not (3, H, W) uint8.
        """
        check_image(image)
        side = min(image.shape[1:])
        top, left = (image.shape[1] - side) // 2, (image.shape[2] - side) // 2
        square = image[:, top : top + side, left : left + side]
        return _resized(square, self.image_size, "bicubic")


class WholeView:
    """All of the image, resized to S x S (bicubic) whatever its shape, as both references' FLAVA sees it: no randomness."""

    def __init__(self, image_size: int) -> None:
        _check_size(image_size)
        self.image_size = image_size

    def __call__(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 -> (3, S, S) uint8.

        Raises:
            ValueError: if the image is not (3, H, W) uint8.
        """
        check_image(image)
        return _resized(image, self.image_size, "bicubic")


def _resized(image: Tensor, size: int, mode: str) -> Tensor:
    """(3, H, W) uint8 -> (3, size, size) uint8: torchvision's `resize` without its dispatch."""
    resized = F.interpolate(image[None], size=[size, size], mode=mode, antialias=True)
    return resized[0].contiguous()


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"a view of {size} pixels; its side must be 1 or more")


def check_image(image: Tensor) -> None:
    """Raises ValueError unless `image` is (3, H, W) uint8 and not empty."""
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(
            f"an image of {image.dtype} and shape {tuple(image.shape)}; give (3, H, W) uint8, as decode_image"
        )
