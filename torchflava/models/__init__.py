"""Wholes: FLAVA, its pretraining and its fine-tuning, and CLIP beside it, built from parts."""

from torchflava.models.card import Facts, model_card
from torchflava.models.classification import (
    EmbeddingsForClassification,
    FlavaForClassification,
    embeddings_for_classification,
    flava_for_classification,
)
from torchflava.models.clip import Clip, ClipOutput, clip_model
from torchflava.models.clip_written import clip_to_open_clip, clip_to_transformers
from torchflava.models.compute import step_flops
from torchflava.models.exported import Exported, export_part, to_onnx
from torchflava.models.exported_files import Checked, write_exported
from torchflava.models.first_weights import FirstWeights, first_weights
from torchflava.models.flava import Flava, FlavaOutput, flava_model
from torchflava.models.memory import States, count_states, count_table
from torchflava.models.objectives import Objective
from torchflava.models.pretraining import VERBS, FlavaForPreTraining, clip_for_pretraining, flava_for_pretraining
from torchflava.models.sent import push_to_hub
from torchflava.models.sizes import CLIP_TEXTS, SIZES, Size, TextSize
from torchflava.models.tuning import PARTS, depths, freeze
from torchflava.models.weights import Loadable, Loaded, from_pretrained, load_pretrained, metadata_of, save_pretrained
from torchflava.models.written import Written
from torchflava.models.written_torchmultimodal import to_torchmultimodal
from torchflava.models.written_transformers import to_transformers

__all__ = [
    "CLIP_TEXTS",
    "PARTS",
    "SIZES",
    "VERBS",
    "Checked",
    "Clip",
    "ClipOutput",
    "EmbeddingsForClassification",
    "Exported",
    "Facts",
    "FirstWeights",
    "Flava",
    "FlavaForClassification",
    "FlavaForPreTraining",
    "FlavaOutput",
    "Loadable",
    "Loaded",
    "Objective",
    "Size",
    "States",
    "TextSize",
    "Written",
    "clip_for_pretraining",
    "clip_model",
    "clip_to_open_clip",
    "clip_to_transformers",
    "count_states",
    "count_table",
    "depths",
    "embeddings_for_classification",
    "export_part",
    "first_weights",
    "flava_for_classification",
    "flava_for_pretraining",
    "flava_model",
    "freeze",
    "from_pretrained",
    "load_pretrained",
    "metadata_of",
    "model_card",
    "push_to_hub",
    "save_pretrained",
    "step_flops",
    "to_onnx",
    "to_torchmultimodal",
    "to_transformers",
    "write_exported",
]
