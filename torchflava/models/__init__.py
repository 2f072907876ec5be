"""Wholes: FLAVA, its pretraining and its fine-tuning, and CLIP beside it, built from parts."""

from torchflava.models.classification import (
    EmbeddingsForClassification,
    FlavaForClassification,
    embeddings_for_classification,
    flava_for_classification,
)
from torchflava.models.clip import Clip, ClipOutput, clip_model
from torchflava.models.compute import step_flops
from torchflava.models.first_weights import FirstWeights, first_weights
from torchflava.models.flava import Flava, FlavaOutput, flava_model
from torchflava.models.memory import States, count_states, count_table
from torchflava.models.objectives import Objective
from torchflava.models.pretraining import VERBS, FlavaForPreTraining, clip_for_pretraining, flava_for_pretraining
from torchflava.models.sizes import CLIP_TEXTS, SIZES, Size, TextSize
from torchflava.models.tuning import PARTS, depths, freeze
from torchflava.models.weights import Loaded, from_pretrained, load_pretrained, metadata_of, save_pretrained

__all__ = [
    "CLIP_TEXTS",
    "PARTS",
    "SIZES",
    "VERBS",
    "Clip",
    "ClipOutput",
    "EmbeddingsForClassification",
    "FirstWeights",
    "Flava",
    "FlavaForClassification",
    "FlavaForPreTraining",
    "FlavaOutput",
    "Loaded",
    "Objective",
    "Size",
    "States",
    "TextSize",
    "clip_for_pretraining",
    "clip_model",
    "count_states",
    "count_table",
    "depths",
    "embeddings_for_classification",
    "first_weights",
    "flava_for_classification",
    "flava_for_pretraining",
    "flava_model",
    "freeze",
    "from_pretrained",
    "load_pretrained",
    "metadata_of",
    "save_pretrained",
    "step_flops",
]
