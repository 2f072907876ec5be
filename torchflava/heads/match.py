"""The head of image-text matching, on CLS_M (paper §3.2).

Letters: B batch, D width.
"""

import torch
from torch import Tensor, nn

from torchflava.layers import init_weights


class MatchHead(nn.Module):
    """Linear, tanh, then two logits; class 1 says that the text belongs to the image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.decoder = nn.Linear(width, 2)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        init_weights(self.dense, self.decoder, width=self.dense.in_features)

    def forward(self, cls: Tensor) -> Tensor:
        """(B, D) -> (B, 2)."""
        return self.decoder(torch.tanh(self.dense(cls)))
