"""JPEG bytes to pixels: the size by the frame's header (ITU-T T.81, B.2), the pixels by torchcodec or torchvision.

Letters: H, W height and width in pixels.
"""

from collections.abc import Callable
from functools import lru_cache
from struct import Struct

import torch
from torch import Tensor

_SEGMENT = Struct(">HH")
"""A marker, and the length of what belongs to it, these two bytes included."""
_FRAME = Struct(">BHHB")
"""Bits a sample, height, width, channels."""
_FRAMES = (0xFFC0, 0xFFC1, 0xFFC2)
"""Markers of frames in Huffman's code, of one pass or several: the kinds that are met with."""
_PASSED = frozenset((0xFFC4, 0xFFDB, 0xFFDD, 0xFFFE, *range(0xFFE0, 0xFFF0)))
"""Markers of what may stand before a frame: tables, a comment, what applications add."""


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """The bytes of a file -> (H, W), if it begins as a JPEG of 8 bits a sample in one or three channels.

    None for all else, which is for a reader that knows more: other files, four channels, fill bytes, damage. Pillow says the
    same in ten times the time, a fortieth of a captioned image's row.
    """
    if data[:2] != b"\xff\xd8":
        return None
    at, last = 2, len(data) - _SEGMENT.size - _FRAME.size
    while at <= last:
        marker, length = _SEGMENT.unpack_from(data, at)
        if marker in _FRAMES:
            bits, height, width, channels = _FRAME.unpack_from(data, at + _SEGMENT.size)
            return (height, width) if bits == 8 and channels in (1, 3) else None
        if marker not in _PASSED:
            return None
        at += 2 + length
    return None


def decode_jpeg(data: bytes) -> Tensor:
    """The bytes of a JPEG of one or three channels -> (3, H, W) uint8, upright (EXIF).

    Raises:
        Exception: of whatever kind the decoder has, for a damaged one.
    """
    return _decoder()(torch.frombuffer(bytearray(data), dtype=torch.uint8))


@lru_cache(maxsize=1)
def _decoder() -> Callable[[Tensor], Tensor]:
    """(bytes,) uint8 -> (3, H, W) uint8, upright."""
    try:
        from torchcodec.decoders import decode_jpeg as decode  # optional
    except (ImportError, OSError, RuntimeError):  # the last two: built for another torch
        pass
    else:
        return lambda data: decode(data, mode="RGB")
    from torchvision.io import ImageReadMode  # loads the operator

    # The operator itself: torchvision.io.decode_jpeg warns at each call that it is deprecated, and filters for warnings
    # are the process's, not a thread's.
    operator = torch.ops.image.decode_jpeg
    return lambda data: operator(data, ImageReadMode.RGB.value, True)
