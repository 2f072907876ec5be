"""torchflava: pretrain, adapt and take apart FLAVA (Singh et al., CVPR 2022, arXiv:2112.04482).

The names that most users need, loaded when they are first asked for, so that `torchflava.launch` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from torchflava.batch import IGNORE as IGNORE
    from torchflava.batch import Batch as Batch
    from torchflava.batch import ImageBatch as ImageBatch
    from torchflava.batch import PairBatch as PairBatch
    from torchflava.batch import TextBatch as TextBatch
    from torchflava.codebooks import Codebook as Codebook
    from torchflava.codebooks import DalleCodebook as DalleCodebook
    from torchflava.codebooks import PatchCodebook as PatchCodebook
    from torchflava.codebooks import fit_patches as fit_patches
    from torchflava.encoders import Encoded as Encoded
    from torchflava.encoders import FusionEncoder as FusionEncoder
    from torchflava.encoders import ImageEncoder as ImageEncoder
    from torchflava.encoders import TextEncoder as TextEncoder
    from torchflava.encoders import flava_fusion_encoder as flava_fusion_encoder
    from torchflava.encoders import flava_image_encoder as flava_image_encoder
    from torchflava.encoders import flava_text_encoder as flava_text_encoder
    from torchflava.heads import MaskedPredictionHead as MaskedPredictionHead
    from torchflava.heads import MatchHead as MatchHead
    from torchflava.heads import MlpClassifier as MlpClassifier
    from torchflava.losses import ContrastiveLoss as ContrastiveLoss
    from torchflava.models import Clip as Clip
    from torchflava.models import Flava as Flava
    from torchflava.models import FlavaForClassification as FlavaForClassification
    from torchflava.models import FlavaForPreTraining as FlavaForPreTraining
    from torchflava.models import clip_for_pretraining as clip_for_pretraining
    from torchflava.models import clip_model as clip_model
    from torchflava.models import clip_to_open_clip as clip_to_open_clip
    from torchflava.models import clip_to_transformers as clip_to_transformers
    from torchflava.models import flava_for_classification as flava_for_classification
    from torchflava.models import flava_for_pretraining as flava_for_pretraining
    from torchflava.models import flava_model as flava_model
    from torchflava.models import from_pretrained as from_pretrained
    from torchflava.models import push_to_hub as push_to_hub
    from torchflava.models import save_pretrained as save_pretrained
    from torchflava.models import to_torchmultimodal as to_torchmultimodal
    from torchflava.models import to_transformers as to_transformers
    from torchflava.transforms import BytePair as BytePair
    from torchflava.transforms import WordPiece as WordPiece
    from torchflava.transforms import block_mask as block_mask
    from torchflava.transforms import load_tokenizer as load_tokenizer
    from torchflava.transforms import mask_tokens as mask_tokens
    from torchflava.transforms import mask_whole_words as mask_whole_words

_HOMES = {
    "batch": ("IGNORE", "Batch", "ImageBatch", "PairBatch", "TextBatch"),
    "codebooks": ("Codebook", "DalleCodebook", "PatchCodebook", "fit_patches"),
    "encoders": (
        "Encoded",
        "FusionEncoder",
        "ImageEncoder",
        "TextEncoder",
        "flava_fusion_encoder",
        "flava_image_encoder",
        "flava_text_encoder",
    ),
    "heads": ("MaskedPredictionHead", "MatchHead", "MlpClassifier"),
    "losses": ("ContrastiveLoss",),
    "models": (
        "Clip",
        "Flava",
        "FlavaForClassification",
        "FlavaForPreTraining",
        "clip_for_pretraining",
        "clip_model",
        "clip_to_open_clip",
        "clip_to_transformers",
        "flava_for_classification",
        "flava_for_pretraining",
        "flava_model",
        "from_pretrained",
        "push_to_hub",
        "save_pretrained",
        "to_torchmultimodal",
        "to_transformers",
    ),
    "transforms": ("BytePair", "WordPiece", "block_mask", "load_tokenizer", "mask_tokens", "mask_whole_words"),
}
_HOME = {name: room for room, names in _HOMES.items() for name in names}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"torchflava has no {name!r}; its names are {', '.join(__all__)}")
    return getattr(import_module(f"torchflava.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
