"""Pixels as DALL-E's dVAE reads and draws them: from 0.1 to 0.9, away from where a logit has no end (paper A.3)."""

from torch import Tensor

_EPSILON = 0.1


def map_pixels(pixels: Tensor) -> Tensor:
    """uint8 of any shape, 0 to 255 -> float32, 0.1 to 0.9, as the dVAE was trained to read."""
    return (1 - 2 * _EPSILON) * (pixels.float() / 255) + _EPSILON


def unmap_pixels(drawn: Tensor) -> Tensor:
    """What the dVAE draws, of any shape, in (0, 1) -> float32, 0 to 1; 0.1 and below is black, 0.9 and above is full."""
    return ((drawn.float() - _EPSILON) / (1 - 2 * _EPSILON)).clamp(0, 1)
