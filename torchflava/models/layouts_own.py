"""The names of this project's own files, those of `state_dict()`; heads that were taken out may be missing."""

from torchflava.models import layouts_clip
from torchflava.models.layout import Layout, Row, as_ours, layer
from torchflava.models.layouts_shared import encoder_rows
from torchflava.models.layouts_transformers import HEADS, LEAVES

_BEIT = tuple(
    f"image_encoder.trunk.blocks.{{i}}.{name}" for name in ("attention.positions", "attention_scale", "mlp_scale")
)
"""What BEiT's blocks have beyond ViT's."""
_INNER_BEIT, _OUTER_BEIT = (tuple(Row(f"{p}{name}", ((f"{p}{name}",),)) for name in _BEIT) for p in ("", "flava."))
_INNER, _OUTER = (as_ours(encoder_rows(LEAVES, prefix, "")) for prefix in ("", "flava."))

MODEL = Layout("torchflava's Flava", _INNER, (_INNER_BEIT,))
HEADLESS = Layout(
    "torchflava's FlavaForPreTraining without its heads",
    tuple(Row(inner.ours, ((outer.ours,),)) for inner, outer in zip(_INNER, _OUTER, strict=True)),
    (tuple(Row(inner.ours, ((outer.ours,),)) for inner, outer in zip(_INNER_BEIT, _OUTER_BEIT, strict=True)),),
)
PRETRAINING = Layout("torchflava's FlavaForPreTraining", _OUTER, (*map(as_ours, HEADS), _OUTER_BEIT))
CLASSIFICATION = Layout(
    "torchflava's FlavaForClassification, or EmbeddingsForClassification of a FLAVA",
    _OUTER + as_ours(layer("classifier.dense") + layer("classifier.decoder")),
    (as_ours(layer("classifier.norm")), _OUTER_BEIT),
)
BEIT = _INNER_BEIT
"""What BEiT's blocks have beyond ViT's, in the image encoder of a `Flava`."""
LAYOUTS = (MODEL, HEADLESS, PRETRAINING, CLASSIFICATION, *layouts_clip.LAYOUTS)
"""All that this project writes."""
