"""The global contrastive loss (paper §3.2, L_GC; Radford et al. 2021, fig. 3).

Letters: B rows on this rank, W ranks, E embedding width.
"""

import math

import torch
from torch import Tensor, nn

from torchflava.distributed import Gather, gather, rank
from torchflava.losses.compared import compare
from torchflava.losses.loss import Loss


def contrastive_loss(
    image: Tensor, text: Tensor, scale: Tensor, *, contrast: Tensor | None = None, gradients: Gather = "global"
) -> Loss:
    """Cross-entropy of each row against all ranks' columns, averaged over both directions, in float32.

    Memory is linear in B: logits exist for a chunk of rows at a time, see `torchflava.losses.compared`.

    Args:
        image: (B, E) embeddings of length 1.
        text: (B, E) embeddings of length 1; row i belongs to image i.
        scale: () or (1,): the inverse temperature that multiplies the cosines.
        contrast: (B,) bool: rows that count; the others stay as columns. All, unless given.
        gradients: through whose columns gradients flow: `global` all ranks', `local` this rank's, `none` no one's.

    Raises:
        ValueError: if the batches are of unequal size, or `contrast` is not one bool a row.
    """
    if image.shape != text.shape:
        raise ValueError(f"image embeddings are {tuple(image.shape)}, text's {tuple(text.shape)}; equal shapes are due")
    rows = image.shape[0]
    if contrast is None:
        contrast = torch.ones(rows, dtype=torch.bool, device=image.device)
    elif contrast.shape != (rows,) or contrast.dtype != torch.bool:
        raise ValueError(
            f"contrast is {tuple(contrast.shape)} {contrast.dtype}; one bool for each of {rows} rows is due"
        )
    with torch.autocast(image.device.type, enabled=False):
        image, text, scale = image.float(), text.float(), scale.float()
        pairs = torch.stack([image, text], dim=1)
        total = compare(pairs, gather(pairs, gradients), scale, contrast=contrast, first=rank() * rows)
    return Loss(total, contrast.sum().float())


class ContrastiveLoss(nn.Module):
    """`contrastive_loss` with a learned temperature, the only parameter that a loss owns.

    Args:
        gradients: see `contrastive_loss`; `local` and `none` are the rows of the paper's ablation.
        temperature: where the temperature starts (Radford et al. 2021, §2.5).
        max_scale: the greatest inverse temperature; the least is 1.
    """

    def __init__(self, gradients: Gather = "global", *, temperature: float = 0.07, max_scale: float = 100.0) -> None:
        super().__init__()
        if not 1 / max_scale <= temperature <= 1:
            raise ValueError(f"temperature {temperature} lies outside [{1 / max_scale}, 1]")
        self.gradients = gradients
        self.temperature = temperature
        self.max_scale = max_scale
        self.log_scale = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the temperature to where it starts."""
        nn.init.constant_(self.log_scale, math.log(1 / self.temperature))

    def forward(self, image: Tensor, text: Tensor, contrast: Tensor | None = None) -> Loss:
        """(B, E), (B, E), contrast (B,) bool -> `Loss`."""
        return contrastive_loss(image, text, self.log_scale.exp(), contrast=contrast, gradients=self.gradients)

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keep the temperature in its range; called after the optimizer's step, for in forward a sharded parameter is a copy."""
        self.log_scale.clamp_(0.0, math.log(self.max_scale))
