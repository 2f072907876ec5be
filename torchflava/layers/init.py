"""The one place where weights get their first values: N(0, 0.02) as in BERT, ViT and transformers' FLAVA."""

import torch
from torch import nn

STD = 0.02


@torch.no_grad()
def init_weights(*parts: nn.Module | nn.Parameter) -> None:
    """Set the leaves of `parts` in place, from torch's global generator (which `manual_seed` seeds).

    Linear, convolution and embedding weights and bare parameters (class and mask tokens, positions) are drawn from
    N(0, 0.02), cut at two standard deviations for the bare ones; biases are zero, layer norms one and zero.
    """
    for part in parts:
        if isinstance(part, nn.Parameter):
            nn.init.trunc_normal_(part, std=STD, a=-2 * STD, b=2 * STD)
        elif isinstance(part, nn.LayerNorm):
            part.reset_parameters()
        elif isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.normal_(part.weight, std=STD)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=STD)
        else:
            raise TypeError(f"init_weights: no rule for a {type(part).__name__}; give it leaves or parameters")
