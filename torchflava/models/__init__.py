"""Wholes: FLAVA, its pretraining and its fine-tuning, built from parts."""

from torchflava.models.classification import FlavaForClassification, flava_for_classification
from torchflava.models.compute import step_flops
from torchflava.models.first_weights import FirstWeights, first_weights
from torchflava.models.flava import Flava, FlavaOutput, flava_model
from torchflava.models.pretraining import VERBS, FlavaForPreTraining, flava_for_pretraining
from torchflava.models.sizes import SIZES, Size
from torchflava.models.weights import Loaded, from_pretrained, load_pretrained, metadata_of, save_pretrained

__all__ = [
    "SIZES",
    "VERBS",
    "FirstWeights",
    "Flava",
    "FlavaForClassification",
    "FlavaForPreTraining",
    "FlavaOutput",
    "Loaded",
    "Size",
    "first_weights",
    "flava_for_classification",
    "flava_for_pretraining",
    "flava_model",
    "from_pretrained",
    "load_pretrained",
    "metadata_of",
    "save_pretrained",
    "step_flops",
]
