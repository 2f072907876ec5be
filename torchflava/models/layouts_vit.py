"""The names of image encoders that FLAVA's starts from: ViT and BEiT as DINO, timm and transformers keep them.

Sources: facebookresearch/dino, vision_transformer.py (timm's names) and main_dino.py; timm 1.0, models/vision_transformer.py and
models/beit.py (whose names are those of microsoft/unilm's BEiT); transformers 5.23, models/vit/modeling_vit.py and
models/beit/modeling_beit.py, in files and, since 5.24, in memory.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from torchflava.models.layout import Layout, Row, Rows, fused, layer

_OURS = "image_encoder.trunk.blocks.{i}"
_CLASSIFIER = "a classifier, which an encoder does not have"
_UNUSED = (
    (r"(head|classifier|lm_head)\..*", _CLASSIFIER),
    (r"fc_norm\..*", "the norm of averaged patches, which FLAVA's image encoder does not make"),
    (r"(beit\.)?pooler\..*", "the norm of averaged patches, which FLAVA's image encoder does not make"),
    (r"(.*\.)?relative_position_index", "a constant"),
    (
        r"(.*\.)?(rel_pos|relative_position|shared_position)_bias\.relative_position_bias_table",
        "added to each block's own",
    ),
)


def _one(ours: str, *theirs: str) -> Rows:
    return (Row(f"image_encoder.{ours}", (theirs,)),)


def _timm(name: str, attention: Rows, *parts: Rows) -> Layout:
    """What timm's ViT and BEiT share, with the rows in which they differ."""
    rows = _one("embed.cls_token", "cls_token") + layer("image_encoder.embed.projection", "patch_embed.proj")
    for ours, theirs in (
        ("attention_norm", "norm1"),
        ("attention.out", "attn.proj"),
        ("mlp_norm", "norm2"),
        ("mlp.up", "mlp.fc1"),
        ("mlp.down", "mlp.fc2"),
    ):
        rows += layer(f"{_OURS}.{ours}", f"blocks.{{i}}.{theirs}")
    return Layout(name, rows + attention, parts, _UNUSED, eps=1e-6)


_POSITIONS, _MASK = _one("embed.positions", "pos_embed"), _one("embed.mask_token", "mask_token")

VIT = _timm(
    "DINO's or timm's ViT",
    _POSITIONS + layer(f"{_OURS}.attention.qkv", "blocks.{i}.attn.qkv") + layer("image_encoder.norm", "norm"),
)
DINO = VIT._replace(
    name="a network of DINO's training",
    rows=tuple(
        row._replace(theirs=tuple(tuple(f"backbone.{name}" for name in names) for names in row.theirs))
        for row in VIT.rows
    ),
    unused=((r"head\..*", "the head that DINO trains with, which an encoder does not have"),),
)
BEIT = _timm(
    "BEiT as timm keeps it",
    (
        *_one("trunk.blocks.{i}.attention_scale", "blocks.{i}.gamma_1"),
        *_one("trunk.blocks.{i}.mlp_scale", "blocks.{i}.gamma_2"),
        *_one("trunk.blocks.{i}.attention.qkv.weight", "blocks.{i}.attn.qkv.weight"),
        Row(f"{_OURS}.attention.qkv.bias", tuple((f"blocks.{{i}}.attn.{piece}_bias",) for piece in "qkv")),
    ),
    _one("trunk.blocks.{i}.attention.positions", "blocks.{i}.attn.relative_position_bias_table"),
    _POSITIONS,
    _MASK,
    layer("image_encoder.norm", "norm"),
)


def _blocks(prefix: str, block: str, leaves: Mapping[str, str]) -> Rows:
    """What transformers' ViT and BEiT share."""
    there = f"{prefix}{block}.{{i}}"
    rows = _one("embed.cls_token", f"{prefix}embeddings.cls_token")
    rows += layer("image_encoder.embed.projection", f"{prefix}embeddings.patch_embeddings.projection")
    rows += fused(f"{_OURS}.attention.qkv", *((f"{there}.{leaves[piece]}",) for piece in ("query", "key", "value")))
    for ours in ("attention_norm", "attention.out", "mlp_norm", "mlp.up", "mlp.down"):
        rows += layer(f"{_OURS}.{ours}", f"{there}.{leaves[ours]}")
    return rows


def _vit(name: str, prefix: str, block: str, leaves: Mapping[str, str]) -> Layout:
    rows = _blocks(prefix, block, leaves) + _one("embed.positions", f"{prefix}embeddings.position_embeddings")
    rows += layer("image_encoder.norm", f"{prefix}layernorm")
    unused = (
        (r"classifier\..*", _CLASSIFIER),
        (r"decoder\.0\..*", "the decoder of hidden pixels, which an encoder does not have"),
        (r"(vit\.)?pooler\.dense\.(weight|bias)", "an encoder's pooler, which no objective reads"),
    )
    return Layout(name, rows, (_one("embed.mask_token", f"{prefix}embeddings.mask_token"),), unused)


def _beit(name: str, prefix: str, block: str, leaves: Mapping[str, str]) -> Layout:
    there = f"{prefix}{block}.{{i}}"
    rows = _blocks(prefix, block, leaves) + _one("trunk.blocks.{i}.attention_scale", f"{there}.lambda_1")
    rows += _one("trunk.blocks.{i}.mlp_scale", f"{there}.lambda_2")
    table = f"{there}.{leaves['positions']}.relative_position_bias_table"
    parts = (
        _one("trunk.blocks.{i}.attention.positions", table),
        _one("embed.positions", f"{prefix}embeddings.position_embeddings"),
        _one("embed.mask_token", f"{prefix}embeddings.mask_token"),
        layer("image_encoder.norm", *dict.fromkeys(("layernorm", f"{prefix}layernorm"))),
    )
    return Layout(name, rows, parts, _UNUSED)


_NORMS = {"attention_norm": "layernorm_before", "mlp_norm": "layernorm_after"}
_IN_FILES = {
    **_NORMS,
    **{piece: f"attention.attention.{piece}" for piece in ("query", "key", "value")},
    "positions": "attention.attention.relative_position_bias",
    "attention.out": "attention.output.dense",
    "mlp.up": "intermediate.dense",
    "mlp.down": "output.dense",
}
_IN_MEMORY = {
    **_NORMS,
    **{piece: f"attention.{piece[0]}_proj" for piece in ("query", "key", "value")},
    "positions": "relative_position_bias",
    "attention.out": "attention.o_proj",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}
TRANSFORMERS = tuple(
    make(f"transformers' {whole}, as {where}", prefix, block, leaves)
    for make, whole, prefix in (
        (_vit, "ViT", "vit."),
        (_vit, "ViTModel", ""),
        (_beit, "BEiT", "beit."),
        (_beit, "BeitModel", ""),
    )
    for where, block, leaves in (
        ("in its files", "encoder.layer", _IN_FILES),
        ("in memory since 5.24", "layers", _IN_MEMORY),
    )
)
"""Those that have a config.json beside them; ViT's and BEiT's are within a model with a head, or by themselves."""
LAYOUTS = (VIT, DINO, BEIT, *TRANSFORMERS)
"""All that can be read."""

_QUERY_BIAS = re.compile(r"(.*\.)(?:q_bias|query\.bias|q_proj\.bias)")
_KEY = {"q_bias": "k_bias", "query.bias": "key.bias", "q_proj.bias": "k_proj.bias"}
_SHARED = re.compile(
    r"(?P<prefix>(?:beit\.)?(?:encoder\.)?)(rel_pos_bias|relative_position_bias|shared_position_bias)\.relative_position_bias_table"
)


def completed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, and what a BEiT's leaves unsaid: keys have a bias of 0, and a shared table holds in each block."""
    whole = dict(tensors)
    for name, tensor in tensors.items():
        if match := _QUERY_BIAS.fullmatch(name):
            whole.setdefault(match[1] + _KEY[name.removeprefix(match[1])], torch.zeros_like(tensor))
        if shared := _SHARED.fullmatch(name):
            whole |= _in_each_block(whole, tensor, shared["prefix"])
    return whole


def _in_each_block(tensors: Mapping[str, Tensor], table: Tensor, prefix: str) -> dict[str, Tensor]:
    """The name of each block's own table, with the shared one, to which its own is added where it has one."""
    tables: dict[str, Tensor] = {}
    for name in tensors:
        for first, own in (
            (r"blocks\.[0-9]+\.", "attn"),
            (r"layer\.[0-9]+\.", "attention.attention.relative_position_bias"),
            (r"layers\.[0-9]+\.", "relative_position_bias"),
        ):
            if block := re.match(re.escape(prefix) + first, name):
                tables[f"{block[0]}{own}.relative_position_bias_table"] = table
    return {name: table + tensors[name] if name in tensors else table for name in tables}
