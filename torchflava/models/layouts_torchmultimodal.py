"""The names of TorchMultimodal's FLAVA (facebookresearch/multimodal@3c2a85a, models/flava, modules/losses/flava.py).

A dropout above zero moves the second layer of its MLPs by one; older files have one `attention.` more. Its heads keep a
second name for the decoder's bias, and their eps is 1e-5.

`attend_to_padding`: its text encoder hides padding, its fusion encoder is given no mask and sees it.
"""

from torchflava.models.layout import Layout, Row, Rows, layer
from torchflava.models.layouts_shared import Leaves, encoder_rows, unused

LEAVES = Leaves(
    towers={"image_encoder": "image_encoder", "text_encoder": "text_encoder", "fusion_encoder": "mm_encoder"},
    embed_norm="layer_norm",
    qkv=(
        ("attention.query", "attention.attention.query"),
        ("attention.key", "attention.attention.key"),
        ("attention.value", "attention.attention.value"),
    ),
    block={
        "attention_norm": ("attention_layernorm",),
        "attention.out": ("attention.output", "attention.attention.output"),
        "mlp_norm": ("feedforward_layernorm",),
        "mlp.up": ("feedforward.model.0",),
        "mlp.down": ("feedforward.model.2", "feedforward.model.3"),
    },
)


def _masked(ours: str, theirs: str) -> Rows:
    return (
        *layer(f"{ours}.dense", f"{theirs}.cls.dense"),
        *layer(f"{ours}.norm", f"{theirs}.cls.layer_norm"),
        Row(f"{ours}.decoder.weight", ((f"{theirs}.cls.decoder.weight",),)),
        Row(f"{ours}.decoder.bias", ((f"{theirs}.cls.decoder.bias", f"{theirs}.cls.bias"),)),
    )


HEADS: Rows = (
    *_masked("mim", "loss.mim_loss"),
    *_masked("mlm", "loss.mlm_loss"),
    *_masked("mmm_image", "loss.mmm_loss.mim"),
    *_masked("mmm_text", "loss.mmm_loss.mlm"),
    *layer("itm.dense", "loss.itm_loss.pooler.dense"),
    *layer("itm.decoder", "loss.itm_loss.cls.seq_relationship"),
    Row("contrastive.log_scale", (("loss.contrastive_loss.logit_scale",),), scalar=True),
)
"""What the model for pretraining has beside its encoders."""


def _classifier(second: int) -> Rows:
    return layer("classifier.dense", "classifier.model.0") + layer("classifier.decoder", f"classifier.model.{second}")


def _normed(second: int) -> Rows:
    """This project's classifier: `classifier_activation=nn.GELU, classifier_normalization=nn.LayerNorm` there."""
    return _classifier(second) + layer("classifier.norm", "classifier.model.1")


_WRAPPED = encoder_rows(LEAVES, "flava.", "model.")

PRETRAINING = Layout(
    "TorchMultimodal's flava_model_for_pretraining",
    _WRAPPED + HEADS,
    unused=unused(LEAVES, r"model\."),
    attend_to_padding=(False, True),
)
HEADLESS = PRETRAINING._replace(
    name="TorchMultimodal's flava_model_for_pretraining without its losses", rows=encoder_rows(LEAVES, "", "model.")
)
MODEL = PRETRAINING._replace(
    name="TorchMultimodal's flava_model", rows=encoder_rows(LEAVES, "", ""), unused=unused(LEAVES)
)
CLASSIFICATION = PRETRAINING._replace(
    name="TorchMultimodal's flava_model_for_classification", rows=_WRAPPED + _classifier(3), dropout=0.5
)
CLASSIFICATION_UNDROPPED = CLASSIFICATION._replace(
    name="TorchMultimodal's flava_model_for_classification without dropout", rows=_WRAPPED + _classifier(2), dropout=0.0
)
NORMED = CLASSIFICATION._replace(
    name="TorchMultimodal's flava_model_for_classification with GELU and a layer norm", rows=_WRAPPED + _normed(4)
)
NORMED_UNDROPPED = NORMED._replace(
    name="TorchMultimodal's flava_model_for_classification with GELU and a layer norm, without dropout",
    rows=_WRAPPED + _normed(3),
    dropout=0.0,
)
LAYOUTS = (PRETRAINING, HEADLESS, MODEL, CLASSIFICATION, CLASSIFICATION_UNDROPPED, NORMED, NORMED_UNDROPPED)
"""All that TorchMultimodal writes."""
