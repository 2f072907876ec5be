"""The skeleton that both references' FLAVA share: the same tensors, under names that differ in the leaves."""

from collections.abc import Mapping
from typing import NamedTuple

from torchflava.models.layout import Row, Rows, fused, layer


class Leaves(NamedTuple):
    """Where a library's names of FLAVA's encoders differ from another's."""

    towers: Mapping[str, str]
    """The encoders, ours to theirs."""
    embed_norm: str
    """The layer norm of the text embedding."""
    qkv: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    """Query, key and value in a block, each with all its names."""
    block: Mapping[str, tuple[str, ...]]
    """The other layers of a block, ours to all their names."""


def encoder_rows(leaves: Leaves, ours: str, theirs: str) -> Rows:
    """All of `Flava`, with a prefix here and there."""
    embed, image = f"{ours}image_encoder.embed", f"{theirs}{leaves.towers['image_encoder']}.embeddings"
    words, text = f"{ours}text_encoder.embed", f"{theirs}{leaves.towers['text_encoder']}.embeddings"
    rows = (
        Row(f"{embed}.cls_token", ((f"{image}.cls_token",),)),
        Row(f"{embed}.mask_token", ((f"{image}.mask_token",),)),
        Row(f"{embed}.positions", ((f"{image}.position_embeddings",),)),
        *layer(f"{embed}.projection", f"{image}.patch_embeddings.projection"),
        Row(f"{words}.words.weight", ((f"{text}.word_embeddings.weight",),)),
        Row(f"{words}.positions.weight", ((f"{text}.position_embeddings.weight",),)),
        Row(f"{words}.segments.weight", ((f"{text}.token_type_embeddings.weight",),)),
        *layer(f"{words}.norm", f"{text}.{leaves.embed_norm}"),
        Row(f"{ours}fusion_encoder.cls_token", ((f"{theirs}{leaves.towers['fusion_encoder']}.cls_token",),)),
        *layer(f"{ours}image_projection", f"{theirs}image_projection"),
        *layer(f"{ours}text_projection", f"{theirs}text_projection"),
        *layer(f"{ours}image_to_fusion", f"{theirs}image_to_mm_projection"),
        *layer(f"{ours}text_to_fusion", f"{theirs}text_to_mm_projection"),
    )
    for here, there in leaves.towers.items():
        rows += _trunk(leaves, f"{ours}{here}", f"{theirs}{there}")
    return rows


def unused(leaves: Leaves, prefix: str = "") -> tuple[tuple[str, str], ...]:
    """What both libraries save and this model has no use for; `prefix` is a pattern."""
    towers = "|".join(leaves.towers.values())
    constants = rf"{prefix}{leaves.towers['text_encoder']}\.embeddings\.(position_ids|token_type_ids)"
    return (
        (rf"{prefix}({towers})\.pooler\.dense\.(weight|bias)", "an encoder's pooler, which no objective reads"),
        (constants, "a constant that older versions saved"),
        (r"image_codebook\..*", "the codebook, which stands outside the model: see torchflava.codebooks"),
    )


def _trunk(leaves: Leaves, ours: str, theirs: str) -> Rows:
    here, there = f"{ours}.trunk.blocks.{{i}}", f"{theirs}.encoder.layer.{{i}}"
    rows = layer(f"{ours}.norm", f"{theirs}.layernorm")
    rows += fused(f"{here}.attention.qkv", *(tuple(f"{there}.{name}" for name in names) for names in leaves.qkv))
    for leaf, names in leaves.block.items():
        rows += layer(f"{here}.{leaf}", *(f"{there}.{name}" for name in names))
    return rows
