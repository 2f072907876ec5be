"""Weights cast once, where autocast casts them at each call: for reading, in which they do not change."""

import torch
from torch import nn

from torchflava.layers.beit import RelativeAttention
from torchflava.layers.clip import CausalAttention, QuickMlp
from torchflava.layers.transformer import Attention, Mlp


def cast_products(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast, in place, the linear layers of this package's attentions and MLPs; under autocast to `dtype` outputs stay the same.

    Without autocast the module cannot be called any more, for its states are float32. Other parts' weights stay as they are: they
    are few, or not ours to know how they are used.
    """
    for part in module.modules():
        if isinstance(part, Attention | CausalAttention | RelativeAttention | Mlp | QuickMlp):
            for layer in part.children():
                if type(layer) is nn.Linear:
                    layer.to(dtype)
