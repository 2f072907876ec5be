"""The names of others' CLIP: open_clip's, which are OpenAI's, and transformers'.

Sources: openai/CLIP@main, clip/model.py; open_clip 3.3, open_clip/model.py; transformers 5.24, models/clip/modeling_clip.py.
open_clip keeps its projections transposed, and class token and positions without the first dimension that they have here.
A file with a temperature gives CLIP for pretraining, one without it CLIP.
"""

from collections.abc import Mapping

from torch import Tensor

from torchflava.models.layout import Layout, Row, Rows, layer
from torchflava.models.settings import Settings

_SCALE = (Row("contrastive.log_scale", (("logit_scale",),), scalar=True),)
_OPENAI_BLOCK = {
    "attention_norm": "ln_1",
    "attention.out": "attn.out_proj",
    "mlp_norm": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
_TRANSFORMERS_BLOCK = {
    "attention_norm": "layer_norm1",
    "attention.out": "self_attn.out_proj",
    "mlp_norm": "layer_norm2",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}


def _openai(ours: str) -> Rows:
    """The encoders; what is the text's may stand under `text.`, as open_clip's CustomTextCLIP has it."""
    image, text = f"{ours}image_encoder", f"{ours}text_encoder"
    rows: Rows = (
        Row(f"{image}.embed.cls_token", (("visual.class_embedding",),), leading=2),
        Row(f"{image}.embed.positions", (("visual.positional_embedding",),), leading=1),
        Row(f"{image}.embed.projection.weight", (("visual.conv1.weight",),)),
        *layer(f"{image}.embed.norm", "visual.ln_pre"),
        *layer(f"{image}.norm", "visual.ln_post"),
        Row(f"{ours}image_projection.weight", (("visual.proj",),), transposed=True),
        Row(f"{text}.embed.words.weight", (_text("token_embedding.weight"),)),
        Row(f"{text}.embed.positions.weight", (_text("positional_embedding"),)),
        *layer(f"{text}.norm", *_text("ln_final")),
        Row(f"{ours}text_projection.weight", (_text("text_projection"),), transposed=True),
    )
    for tower, names in ((image, ("visual.transformer",)), (text, _text("transformer"))):
        here, there = f"{tower}.trunk.blocks.{{i}}", tuple(f"{name}.resblocks.{{i}}" for name in names)
        for kind in ("weight", "bias"):
            rows += (Row(f"{here}.attention.qkv.{kind}", (tuple(f"{name}.attn.in_proj_{kind}" for name in there),)),)
        for leaf, name in _OPENAI_BLOCK.items():
            rows += layer(f"{here}.{leaf}", *(f"{block}.{name}" for block in there))
    return rows


def _text(name: str) -> tuple[str, str]:
    return name, f"text.{name}"


def _transformers(ours: str) -> Rows:
    image, text = f"{ours}image_encoder", f"{ours}text_encoder"
    pixels, words = "vision_model.embeddings", "text_model.embeddings"
    rows: Rows = (
        Row(f"{image}.embed.cls_token", ((f"{pixels}.class_embedding",),), leading=2),
        Row(f"{image}.embed.positions", ((f"{pixels}.position_embedding.weight",),), leading=1),
        Row(f"{image}.embed.projection.weight", ((f"{pixels}.patch_embedding.weight",),)),
        *layer(f"{image}.embed.norm", "vision_model.pre_layrnorm"),  # so it is written there
        *layer(f"{image}.norm", "vision_model.post_layernorm"),
        Row(f"{ours}image_projection.weight", (("visual_projection.weight",),)),
        Row(f"{text}.embed.words.weight", ((f"{words}.token_embedding.weight",),)),
        Row(f"{text}.embed.positions.weight", ((f"{words}.position_embedding.weight",),)),
        *layer(f"{text}.norm", "text_model.final_layer_norm"),
        Row(f"{ours}text_projection.weight", (("text_projection.weight",),)),
    )
    for tower, name in ((image, "vision_model"), (text, "text_model")):
        here, there = f"{tower}.trunk.blocks.{{i}}", f"{name}.encoder.layers.{{i}}"
        for kind in ("weight", "bias"):
            pieces = tuple((f"{there}.self_attn.{piece}_proj.{kind}",) for piece in "qkv")
            rows += (Row(f"{here}.attention.qkv.{kind}", pieces),)
        for leaf, other in _TRANSFORMERS_BLOCK.items():
            rows += layer(f"{here}.{leaf}", f"{there}.{other}")
    return rows


_MASK = ((r"(text\.)?attn_mask", "the mask of causal attention, a constant"),)
_SIZES = ((r"input_resolution|context_length|vocab_size", "a size, which the tensors say too"),)
_PLACES = ((r"(text_model|vision_model)\.embeddings\.position_ids", "a constant that older versions saved"),)

OPEN_CLIP = Layout("open_clip's CLIP", _openai("flava.") + _SCALE, unused=_MASK, eps=1e-5)
OPEN_CLIP_BARE = OPEN_CLIP._replace(name="open_clip's CLIP without its temperature", rows=_openai(""))
OPENAI = OPEN_CLIP._replace(name="OpenAI's CLIP", unused=_MASK + _SIZES)
TRANSFORMERS = Layout("transformers' CLIPModel", _transformers("flava.") + _SCALE, unused=_PLACES, eps=1e-5)
TRANSFORMERS_BARE = TRANSFORMERS._replace(
    name="transformers' CLIPModel without its temperature", rows=_transformers("")
)
LAYOUTS = (OPEN_CLIP, OPEN_CLIP_BARE, OPENAI, TRANSFORMERS, TRANSFORMERS_BARE)
"""All that can be read."""
QUICK = (OPENAI, TRANSFORMERS, TRANSFORMERS_BARE)
"""Whose GELU is OpenAI's, unless a config says otherwise."""

GREATEST = -1
"""Of `Settings.end_id`: the greatest id of the vocabulary, by which OpenAI's and open_clip's code finds a text's end."""


def ended(layout: Layout, settings: Settings, state: Mapping[str, Tensor]) -> Settings:
    """The settings of others' CLIP with the id that ends its texts, in place of `GREATEST`.

    Raises:
        ValueError: for one that the vocabulary lacks.
    """
    if layout not in LAYOUTS:
        return settings
    words = next(tensor for name, tensor in state.items() if name.endswith("text_encoder.embed.words.weight"))
    if not GREATEST <= settings.end_id < len(words):
        raise ValueError(
            f"texts shall end with the id {settings.end_id}, and there are {len(words)} words; correct the config"
        )
    return settings._replace(end_id=len(words) - 1) if settings.end_id == GREATEST else settings
