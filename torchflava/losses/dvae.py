"""What a discrete VAE learns by: how likely pixels are under the logit-Laplace distribution, and how far its codes are from
uniform (Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation", §2.1 and appendix A.3).

Letters: B batch, C channels, H and W sides in pixels, K codes, h and w sides in codes.
"""

import math

import torch
from torch import Tensor

from torchflava.losses.loss import Loss


def logit_laplace_loss(said: Tensor, targets: Tensor, *, least_scale: float = 0.0) -> Loss:
    """(B, 2C, H, W), (B, C, H, W) in (0, 1) -> minus the log density of the targets, summed over all B * C * H * W of them.

    The density of x is exp(-abs(logit x - μ) / b) / (2 b x (1 - x)): of a Laplace distribution seen through a sigmoid, whose mass
    lies between 0 and 1, where pixels are.

    Args:
        said: μ of each channel, then the logarithm of the scale b of each.
        targets: pixels, as `map_pixels` makes them.
        least_scale: added to e to the power of what is said of the scale. 0 is the paper's; above it, flat colours, which
            drawn pictures have, cannot make the density grow without end.

    Raises:
        ValueError: for shapes that do not belong together, or a scale below 0.
    """
    batch, channels, *sides = targets.shape
    if tuple(said.shape) != (batch, 2 * channels, *sides):
        raise ValueError(
            f"said {tuple(said.shape)} must have μ and log b for each channel of the targets {tuple(targets.shape)}: "
            f"{(batch, 2 * channels, *sides)}"
        )
    if least_scale < 0:
        raise ValueError(f"least_scale is {least_scale}; a scale is 0 or more")
    x = targets.float()
    mu, log_scale = said.float().chunk(2, dim=1)
    if least_scale:
        log_scale = torch.logaddexp(log_scale, torch.full_like(log_scale, math.log(least_scale)))
    off = (torch.logit(x) - mu).abs() * torch.exp(-log_scale)
    each = off + log_scale + math.log(2) + torch.log(x) + torch.log1p(-x)
    return Loss(each.sum(), each.new_tensor(each.numel()))


def uniform_kl_loss(logits: Tensor) -> Loss:
    """(B, K, h, w) -> KL(q || uniform) of the distribution over K codes at each place, summed over all B * h * w places.

    From 0, where all codes are as likely, to log K, where one is certain.
    """
    logs = torch.log_softmax(logits.float(), dim=1)
    total = (logs.exp() * logs).sum() + logits.numel() / logits.shape[1] * math.log(logits.shape[1])
    return Loss(total, total.detach().new_tensor(logits.numel() // logits.shape[1]))
