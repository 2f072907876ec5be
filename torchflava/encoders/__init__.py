"""One modality in, `Encoded` out; or two modalities' states in, `Fused` out."""

from torchflava.encoders.clip import CausalTextEncoder, clip_image_encoder, clip_text_encoder, last_kept
from torchflava.encoders.fusion import FusionEncoder, flava_fusion_encoder
from torchflava.encoders.image import ImageEncoder, beit_image_encoder, flava_image_encoder
from torchflava.encoders.states import Encoded, Fused, FusionPart, ImagePart, TextPart
from torchflava.encoders.text import TextEncoder, flava_text_encoder, keep_tokens
from torchflava.encoders.views import both_views, first_rows, fused_at, normed_at

__all__ = [
    "CausalTextEncoder",
    "Encoded",
    "Fused",
    "FusionEncoder",
    "FusionPart",
    "ImageEncoder",
    "ImagePart",
    "TextEncoder",
    "TextPart",
    "beit_image_encoder",
    "both_views",
    "clip_image_encoder",
    "clip_text_encoder",
    "first_rows",
    "flava_fusion_encoder",
    "flava_image_encoder",
    "flava_text_encoder",
    "fused_at",
    "keep_tokens",
    "last_kept",
    "normed_at",
]
