"""What is seen without learning, for `--model pixels:small`: a baseline beside which a model's features are read."""

import torch
from evaluated import Evaluated
from torch import Tensor

from torchflava.transforms.image import EvalView

_SIDE = 16


def small(device: torch.device) -> Evaluated:
    """An image as its 16 x 16 pixels, from 0 to 1: (B, 3, 16, 16) -> (B, 768)."""
    return Evaluated(view=EvalView(_SIDE), features=_flat, without="pixels know no texts")


def _flat(views: Tensor) -> Tensor:
    return views.float().flatten(1) / 255
