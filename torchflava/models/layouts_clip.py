"""The names of this project's own CLIP, those of `state_dict()`."""

from torchflava.models.layout import Layout, Row, Rows, as_ours, layer
from torchflava.models.layouts_transformers import HEADS

_BARE = ("image_encoder.embed.cls_token", "image_encoder.embed.positions", "image_encoder.embed.projection.weight",
         "text_encoder.embed.words.weight", "text_encoder.embed.positions.weight", "image_projection.weight",
         "text_projection.weight")  # fmt: skip
"""What has no bias, or is no layer."""
_IN_BLOCK = ("attention_norm", "attention.qkv", "attention.out", "mlp_norm", "mlp.up", "mlp.down")


def _rows(prefix: str) -> Rows:
    """All of `Clip`."""
    layers = ["image_encoder.embed.norm", "image_encoder.norm", "text_encoder.norm"]
    layers += [f"{tower}_encoder.trunk.blocks.{{i}}.{part}" for tower in ("image", "text") for part in _IN_BLOCK]
    rows = tuple(Row(f"{prefix}{name}", ((f"{prefix}{name}",),)) for name in _BARE)
    return rows + as_ours(tuple(row for name in layers for row in layer(f"{prefix}{name}")))


MODEL = Layout("torchflava's Clip", _rows(""), eps=1e-5)
PRETRAINING = MODEL._replace(name="torchflava's Clip for pretraining", rows=_rows("flava.") + as_ours(HEADS[-1]))
CLASSIFICATION = MODEL._replace(
    name="torchflava's Clip for classification",
    rows=_rows("flava.") + as_ours(layer("classifier.dense") + layer("classifier.decoder")),
    parts=(as_ours(layer("classifier.norm")),),
)
LAYOUTS = (MODEL, PRETRAINING, CLASSIFICATION)
"""All that this project writes of CLIP."""
