"""Layer normalisation in float32 whatever the precision (paper §4.2: fp16 training keeps its layer norms in fp32)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """(..., D) -> (..., D) in the input's dtype, computed in float32 at least.

    The same parameters as `torch.nn.LayerNorm`; `eps` is 1e-12 in FLAVA's encoders and 1e-5 in its heads
    (facebookresearch/multimodal@3c2a85a, models/flava/model.py and modules/losses/flava.py).
    """

    def __init__(self, width: int, eps: float = 1e-12) -> None:
        super().__init__(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        if self._kernel_is_precise(x):
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).to(x.dtype)
        precise = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(precise), self.bias.to(precise)
        return F.layer_norm(x.to(precise), self.normalized_shape, weight, bias, self.eps).to(x.dtype)

    def _kernel_is_precise(self, x: Tensor) -> bool:
        """Whether torch's kernel computes in float32 inside for these types, without a copy of the states."""
        return x.dtype == self.weight.dtype or (x.is_cpu and x.itemsize == 2 and self.weight.dtype == torch.float32)
