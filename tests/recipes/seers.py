"""Models of a user's own for `--model seers:NAME`, that see colours alone, or nothing at all."""

from collections.abc import Sequence

import torch
from evaluated import Evaluated
from PIL import ImageColor
from torch import Tensor

COLOURS = ("red", "lime", "blue", "yellow", "cyan", "magenta", "white", "black", "orange", "gray")


def view(image: Tensor) -> Tensor:
    """(3, H, W) uint8 -> (3, 2, 2): four means."""
    return torch.nn.functional.adaptive_avg_pool2d(image.float() / 255, 2)


def colour(views: Tensor) -> Tensor:
    """(B, 3, 2, 2) -> (B, 27): how near the mean colour is to each of a grid of 27."""
    levels = torch.tensor([0.0, 0.5, 1.0])
    grid = torch.cartesian_prod(levels, levels, levels).to(views.device)
    return torch.exp(-8 * (views.mean((2, 3))[:, None] - grid).square().sum(2))


def named(texts: Sequence[str]) -> Tensor:
    """The colours that texts name, as `colour` sees them."""
    found = [next(name for name in COLOURS if name in text) for text in texts]
    return colour(torch.tensor([ImageColor.getrgb(name) for name in found])[:, :, None, None] / 255)


def painter(device: torch.device) -> Evaluated:
    """Knows all about colours."""
    return Evaluated(
        view=view,
        features=colour,
        embed_image=colour,
        embed_text=named,
        match=lambda views, texts: (colour(views) * named(texts)).sum(1),
    )


def blind(device: torch.device) -> Evaluated:
    """Sees nothing."""
    return Evaluated(
        view=view,
        features=lambda views: torch.ones(len(views), 3),
        embed_image=lambda views: torch.ones(len(views), 3),
        embed_text=lambda texts: torch.ones(len(texts), 3),
    )


def mute(device: torch.device) -> Evaluated:
    """Has features and no texts, as an image classifier has."""
    return Evaluated(view, colour, without="it is an image encoder alone")


def torn(device: torch.device) -> Evaluated:
    """Images and texts in two spaces."""
    return painter(device)._replace(embed_text=lambda texts: torch.ones(len(texts), 5))


def odd(device: torch.device) -> object:
    """No model at all."""
    return {"view": view}
