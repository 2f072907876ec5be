"""Wholes: FLAVA, its pretraining and its fine-tuning, built from parts.

`from_pretrained` and the like stand in `models.weights`.
"""

from torchflava.models.classification import FlavaForClassification, flava_for_classification
from torchflava.models.flava import Flava, FlavaOutput, flava_model
from torchflava.models.pretraining import VERBS, FlavaForPreTraining, flava_for_pretraining
from torchflava.models.sizes import SIZES, Size

__all__ = [
    "SIZES",
    "VERBS",
    "Flava",
    "FlavaForClassification",
    "FlavaForPreTraining",
    "FlavaOutput",
    "Size",
    "flava_for_classification",
    "flava_for_pretraining",
    "flava_model",
]
