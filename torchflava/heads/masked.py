"""The head of masked prediction, over image codes or words (paper §3.2; BERT's MLM head, decoder not tied).

Letters: B batch, K rows, D width, V codes or words.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from torchflava.layers import LayerNorm, init_weights


class MaskedPredictionHead(nn.Module):
    """Linear, GELU, layer norm, then a projection onto the codes.

    Args:
        width: D.
        num_codes: V.
        eps: of the layer norm; 1e-5 in TorchMultimodal, 1e-12 in transformers.
    """

    def __init__(self, width: int, num_codes: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = LayerNorm(width, eps)
        self.decoder = nn.Linear(width, num_codes)
        self.reset_parameters()

    @property
    def num_codes(self) -> int:
        """V."""
        return self.decoder.out_features

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        init_weights(self.dense, self.norm, self.decoder, width=self.dense.in_features)

    def transform(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., D): all but the decoder, for losses that fuse the projection."""
        return self.norm(F.gelu(self.dense(states)))

    def forward(self, states: Tensor) -> Tensor:
        """(B, K, D) -> (B, K, V)."""
        return self.decoder(self.transform(states))
