"""The names of this project's own files, those of `state_dict()`; heads that were taken out may be missing."""

from torchflava.models.layout import Layout, Row, as_ours, layer
from torchflava.models.layouts_shared import encoder_rows
from torchflava.models.layouts_transformers import HEADS, LEAVES

_INNER, _OUTER = (as_ours(encoder_rows(LEAVES, prefix, "")) for prefix in ("", "flava."))

MODEL = Layout("torchflava's Flava", _INNER)
HEADLESS = Layout(
    "torchflava's FlavaForPreTraining without its heads",
    tuple(Row(inner.ours, ((outer.ours,),)) for inner, outer in zip(_INNER, _OUTER, strict=True)),
)
PRETRAINING = Layout("torchflava's FlavaForPreTraining", _OUTER, tuple(map(as_ours, HEADS)))
CLASSIFICATION = Layout(
    "torchflava's FlavaForClassification",
    _OUTER + as_ours(layer("classifier.dense") + layer("classifier.decoder")),
    (as_ours(layer("classifier.norm")),),
)
LAYOUTS = (MODEL, HEADLESS, PRETRAINING, CLASSIFICATION)
"""All that this project writes."""
