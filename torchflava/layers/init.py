"""The one place where weights get their first values: N(0, 0.02) as in BERT, ViT and transformers' FLAVA."""

import torch
from torch import nn

STD = 0.02
_PAPER_WIDTH = 768


@torch.no_grad()
def init_weights(*parts: nn.Module | nn.Parameter, width: int = _PAPER_WIDTH) -> None:
    """Set the leaves of `parts` in place, from torch's global generator (which `manual_seed` seeds).

    Linear and convolution weights are drawn from N(0, 0.02), and more widely for states narrower than the paper's 768: by
    768 / width, up to 1 / sqrt(width). Otherwise a small model stays where it began for hundreds of steps
    (docs/decisions/0005).
    Embeddings and bare parameters (class and mask tokens, positions) are drawn from N(0, 0.02), the bare ones cut at two
    standard deviations; biases are zero, an embedding's padding row too, layer norms one and zero.

    Args:
        parts: leaves, or parameters that belong to none.
        width: of the states that the parts work on.
    """
    std = max(STD, min(STD * _PAPER_WIDTH / width, width**-0.5))
    for part in parts:
        if isinstance(part, nn.Parameter):
            nn.init.trunc_normal_(part, std=STD, a=-2 * STD, b=2 * STD)
        elif isinstance(part, nn.LayerNorm):
            part.reset_parameters()
        elif isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=STD)
            if part.padding_idx is not None:
                nn.init.zeros_(part.weight[part.padding_idx])
        else:
            raise TypeError(f"init_weights: no rule for a {type(part).__name__}; give it leaves or parameters")


@torch.no_grad()
def init_by_fan_in(weight: nn.Parameter, bias: nn.Parameter) -> None:
    """Draw a convolution's (outputs, inputs, k, k) weight from N(0, 1 / (inputs k²)) in place, and set its bias to zero.

    From torch's global generator, as `init_weights`; so DALL-E's dVAE begins (openai/DALL-E@5be4b23, `utils.py`).
    """
    nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    nn.init.zeros_(bias)
