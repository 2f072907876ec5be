"""The head of fine-tuning: an MLP with one hidden layer of 1,536 (paper, appendix C).

Letters: B batch, D width, C classes.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from torchflava.layers import LayerNorm, init_weights


class MlpClassifier(nn.Module):
    """Linear, layer norm, GELU, dropout, linear.

    Args:
        width: D.
        num_classes: C.
        hidden: the width in between.
        dropout: the share of hidden units dropped in training.
    """

    def __init__(self, width: int, num_classes: int, hidden: int = 1536, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = width
        self.dense = nn.Linear(width, hidden)
        self.norm = LayerNorm(hidden, 1e-5)
        self.dropout = nn.Dropout(dropout)
        self.decoder = nn.Linear(hidden, num_classes)
        self.reset_parameters()

    @property
    def num_classes(self) -> int:
        """C."""
        return self.decoder.out_features

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        init_weights(self.dense, self.norm, width=self.width)
        # By its own input's width: drawn as widely as a narrow encoder's, 1,536 hidden units begin with logits of several units.
        init_weights(self.decoder, width=self.decoder.in_features)

    def forward(self, cls: Tensor) -> Tensor:
        """(B, D) -> (B, C)."""
        return self.decoder(self.dropout(F.gelu(self.norm(self.dense(cls)))))
