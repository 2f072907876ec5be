"""Pictures that stand in a page itself: data URIs, masks as the path of an SVG, codes as colours."""

import base64
import io
from colorsys import hsv_to_rgb

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_SMALL = 96
"""Pixels of a side up to which a picture is stored as it is (PNG); larger ones are JPEG."""
_THUMBNAIL = 200  # pixels of its longer side
_QUALITY = 82  # of JPEG
_GOLDEN = 0.618034  # of a turn of hue between a code and the next, so that near numbers look unlike


def data_uri(pixels: Tensor) -> str:
    """(3, H, W) uint8 -> a data URI."""
    return _encoded(_image(pixels))


def thumbnail(pixels: Tensor) -> str:
    """(3, H, W) uint8 -> a data URI of at most 200 pixels a side, in the image's own proportions."""
    image = _image(pixels)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    return _encoded(image)


def mask_path(masked: Tensor, columns: int) -> str:
    """(N,) bool -> the path of an SVG in which a patch has a unit: a square for each that is hidden."""
    places = torch.nonzero(masked.flatten()).flatten().tolist()
    return "".join(f"M{at % columns} {at // columns}h1v1h-1z" for at in places)


def code_map(codes: Tensor, columns: int) -> str:
    """(N,) int64 -> a data URI of one pixel a patch, equal codes in equal colours."""
    colours = [hsv_to_rgb(code * _GOLDEN % 1, 0.45 + code % 3 * 0.2, 0.9 - code % 5 * 0.12) for code in codes.tolist()]
    pixels = (np.array(colours) * 255).round().astype(np.uint8).reshape(-1, columns, 3)
    return _encoded(Image.fromarray(pixels))


def _image(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _encoded(image: Image.Image) -> str:
    file, small = io.BytesIO(), max(image.size) <= _SMALL
    image.save(file, "PNG") if small else image.save(file, "JPEG", quality=_QUALITY)
    told = base64.b64encode(file.getvalue()).decode()
    return f"data:image/{'png' if small else 'jpeg'};base64,{told}"
