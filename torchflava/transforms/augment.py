"""Augmentation for small data sets such as emoji: colours, light, noise, blur, backgrounds, from the sample's generator.

Colour jitter and greyscale as in SimCLR (Chen et al. 2020, appendix A). Letters: H, W height and width in pixels.
"""

from collections.abc import Callable
from math import cos, pi, sin

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torchflava.transforms.image import check_image

Rng = np.random.Generator

_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
"""Red, green, blue to luma and two axes of colour (NTSC 1953)."""
_RGB = np.linalg.inv(_YIQ)
_WHITE = 250  # from here on a pixel counts as laid over white, after resizing
_NEAR_WHITE = 24  # a pixel whose darkest channel is nearer to white than this is partly background


class Augment:
    """Changes an image as its generator says; 0 leaves a change out, so that `Augment(grey=0.2, ...)` of zeros is none.

    Args:
        brightness: the image is multiplied with a factor within 1 +- `brightness`.
        contrast: its distance to its mean grey is multiplied with a factor within 1 +- `contrast`.
        saturation: its distance to its own greys is multiplied with a factor within 1 +- `saturation`.
        hue: colours move by up to `hue` of the colour circle, at most 0.5, at equal luma.
        grey: probability of taking the colours away.
        mix: standard deviation of what each channel takes of the difference to each other one.
        blur: probability of blurring, by a Gaussian of 0.3 to 1 % of the image's side, but at least of 0.4 pixels; an image
            too thin for it is left as it is.
        tint: probability of another colour where a white background reaches the image's border.
    """

    def __init__(
        self,
        *,
        brightness: float = 0.3,
        contrast: float = 0.3,
        saturation: float = 0.4,
        hue: float = 0.06,
        grey: float = 0.1,
        mix: float = 0.0,
        blur: float = 0.2,
        tint: float = 0.3,
    ) -> None:
        for name, value, most in (
            ("brightness", brightness, 1.0),
            ("contrast", contrast, 1.0),
            ("saturation", saturation, 1.0),
            ("hue", hue, 0.5),
            ("grey", grey, 1.0),
            ("mix", mix, 1.0),
            ("blur", blur, 1.0),
            ("tint", tint, 1.0),
        ):
            if not 0 <= value <= most:
                raise ValueError(f"{name} {value} must lie between 0 and {most:g}")
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue
        self.grey, self.mix, self.blur, self.tint = grey, mix, blur, tint

    def __call__(self, image: Tensor, rng: Rng) -> Tensor:
        """(3, H, W) uint8 -> the same shape and type.

        Raises:
            ValueError: if the image is not (3, H, W) uint8.
        """
        check_image(image)
        # The same numbers are drawn whatever is left out, so that one setting does not change what the others do.
        happens = rng.random(3)
        amounts = rng.uniform(-1, 1, 5)
        colour = rng.uniform(0, 255, 3)
        taken = self.mix * rng.standard_normal((3, 3))
        if happens[0] < self.tint:
            image = tint_background(image, colour)
        if self.brightness or self.contrast or self.saturation or self.hue or self.mix:
            image = self._recoloured(image, amounts[:4], taken)
        if happens[1] < self.grey:
            from torchvision.transforms.v2 import functional as v2  # takes seconds to import, with torch's compiler

            image = v2.rgb_to_grayscale(image, num_output_channels=3)
        if happens[2] < self.blur:
            image = _blurred(image, 0.003 + 0.007 * float(abs(amounts[4])))
        return image

    def _recoloured(self, image: Tensor, amounts: np.ndarray, taken: np.ndarray) -> Tensor:
        """Brightness, contrast, saturation, hue and mixing as one matrix: a tenth of the time of five passes."""
        brightness, contrast, saturation = 1 + np.array([self.brightness, self.contrast, self.saturation]) * amounts[:3]
        angle = 2 * pi * self.hue * amounts[3]
        # In YIQ: the luma stays, the two colour axes are turned by the hue and stretched by the saturation.
        turn = np.array([[1, 0, 0], [0, cos(angle), -sin(angle)], [0, sin(angle), cos(angle)]])
        colour = _RGB @ (turn * [[1], [saturation], [saturation]]) @ _YIQ
        mixed = np.eye(3) + taken - np.diag(taken.sum(1))  # rows add up to 1, so that greys stay
        matrix = torch.from_numpy((brightness * contrast * mixed @ colour).astype(np.float32))
        pixels = image.float()
        grey = float(pixels.mean((1, 2)) @ torch.from_numpy(_YIQ[0]).float())
        changed = torch.einsum("ij,jhw->ihw", matrix, pixels) + brightness * (1 - contrast) * grey
        return changed.round().clamp(0, 255).to(torch.uint8)


class Relight:
    """Makes an image look drawn by other means, as its generator says; 0 leaves a change out.

    Args:
        light: standard deviation of what is added at each of 3 x 3 places and fades between them, as a share of white.
        posterise: probability of rounding each channel to three to six levels.
        noise: standard deviation of each channel of each pixel, as a share of white.
    """

    def __init__(self, *, light: float = 0.25, posterise: float = 0.1, noise: float = 0.03) -> None:
        for name, value in (("light", light), ("posterise", posterise), ("noise", noise)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} {value} must lie between 0 and 1")
        self.light, self.posterise, self.noise = light, posterise, noise

    def __call__(self, image: Tensor, rng: Rng) -> Tensor:
        """(3, H, W) uint8 -> the same shape and type.

        Raises:
            ValueError: if the image is not (3, H, W) uint8.
        """
        check_image(image)
        happens, levels = rng.random(), int(rng.integers(2, 6))
        lights = torch.from_numpy(rng.standard_normal((1, 1, 3, 3), dtype=np.float32))
        pixels = image.float()
        if self.light:
            pixels += 255 * self.light * F.interpolate(lights, image.shape[1:], mode="bilinear", align_corners=True)[0]
        if happens < self.posterise:
            pixels = (pixels * (levels / 255)).round() * (255 / levels)
        if self.noise:
            pixels += 255 * self.noise * torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
        return pixels.round().clamp(0, 255).to(torch.uint8)


class OnWhite:
    """Makes changes to a picture on white, and keeps white what was white: the background, and eyes and teeth with it.

    What is nearly white, such as a soft edge, is changed the less the whiter it is.
    """

    def __init__(self, *changes: Callable[[Tensor, Rng], Tensor]) -> None:
        self.changes = changes

    def __call__(self, image: Tensor, rng: Rng) -> Tensor:
        """(3, H, W) uint8 -> the same shape and type."""
        changed = image
        for change in self.changes:
            changed = change(changed, rng)
        ours = ((255 - image.amin(0).float()) / _NEAR_WHITE).clamp(max=1)
        return (image + ours * (changed.float() - image)).round().to(torch.uint8)


def tint_background(image: Tensor, colour: np.ndarray) -> Tensor:
    """(3, H, W) uint8 -> the same, with `colour` (3,) in place of the white that reaches the border.

    Near it, pixels are unmixed: as much of the white as their darkest channel allows is taken for background.
    """
    white = image.amin(0) >= _WHITE
    open_to = [white.flip(dims).cumprod(dim).flip(dims) for dim in (0, 1) for dims in ([], [dim])]
    background = torch.stack(open_to).amax(0)
    near = F.max_pool2d(background[None].float(), 5, stride=1, padding=2)
    share = near * image.amin(0) / 255
    tinted = image - share * (255 - torch.as_tensor(colour, dtype=torch.float32)).view(3, 1, 1)
    return tinted.round().clamp(0, 255).to(torch.uint8)


def _blurred(image: Tensor, share: float) -> Tensor:
    sigma = max(0.4, share * max(image.shape[1:]))
    reach = round(2 * sigma)
    if min(image.shape[1:]) <= reach:  # too thin to be reflected at its border
        return image
    from torchvision.transforms.v2 import functional as v2

    blurred: Tensor = v2.gaussian_blur(image, kernel_size=[2 * reach + 1] * 2, sigma=[sigma, sigma])
    return blurred
