"""States in, logits out. A head knows no label and no loss."""

from torchflava.heads.classifier import MlpClassifier
from torchflava.heads.masked import MaskedPredictionHead
from torchflava.heads.match import MatchHead

__all__ = ["MaskedPredictionHead", "MatchHead", "MlpClassifier"]
