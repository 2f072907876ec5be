"""The names of transformers' FLAVA (5.23, models/flava/modeling_flava.py).

Its heads keep a second name for the decoder's bias, and their eps is the config's, 1e-12 by default.

`attend_to_padding`: transformers hides padding from both encoders where it is given an attention mask, and from neither
where it is not. The weights that were released are those of TorchMultimodal's file, trained with padding hidden in the
text encoder and seen in the fusion encoder, as transformers ran them too before 4.39; so both layouts are loaded so.
"""

from torchflava.models.layout import Layout, Row, Rows, layer
from torchflava.models.layouts_shared import Leaves, encoder_rows, unused

LEAVES = Leaves(
    towers={"image_encoder": "image_model", "text_encoder": "text_model", "fusion_encoder": "multimodal_model"},
    embed_norm="LayerNorm",
    qkv=(("attention.attention.query",), ("attention.attention.key",), ("attention.attention.value",)),
    block={
        "attention_norm": ("layernorm_before",),
        "attention.out": ("attention.output.dense",),
        "mlp_norm": ("layernorm_after",),
        "mlp.up": ("intermediate.dense",),
        "mlp.down": ("output.dense",),
    },
)


def _masked(ours: str) -> Rows:
    theirs = f"{ours}_head"
    return (
        *layer(f"{ours}.dense", f"{theirs}.transform.dense"),
        *layer(f"{ours}.norm", f"{theirs}.transform.LayerNorm"),
        Row(f"{ours}.decoder.weight", ((f"{theirs}.decoder.weight",),)),
        Row(f"{ours}.decoder.bias", ((f"{theirs}.decoder.bias", f"{theirs}.bias"),)),
    )


HEADS: tuple[Rows, ...] = (
    *map(_masked, ("mim", "mlm", "mmm_image", "mmm_text")),
    layer("itm.dense", "itm_head.pooler.dense") + layer("itm.decoder", "itm_head.seq_relationship"),
    (Row("contrastive.log_scale", (("flava.logit_scale",),), scalar=True),),
)
"""What `FlavaForPreTraining` has beside its encoders, part by part."""

_TEMPERATURE = ((r"(flava\.)?logit_scale", "the temperature of the contrastive loss, which this model does not have"),)

PRETRAINING = Layout(
    "transformers' FlavaForPreTraining",
    encoder_rows(LEAVES, "flava.", "flava.") + tuple(row for head in HEADS for row in head),
    unused=unused(LEAVES, r"flava\."),
    head_eps=1e-12,
    attend_to_padding=(False, True),
)
HEADLESS = PRETRAINING._replace(
    name="transformers' FlavaForPreTraining without its heads",
    rows=encoder_rows(LEAVES, "", "flava."),
    unused=unused(LEAVES, r"flava\.") + _TEMPERATURE,
)
MODEL = PRETRAINING._replace(
    name="transformers' FlavaModel", rows=encoder_rows(LEAVES, "", ""), unused=unused(LEAVES) + _TEMPERATURE
)
LAYOUTS = (PRETRAINING, HEADLESS, MODEL)
"""All that transformers writes."""
