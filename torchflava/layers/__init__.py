"""Tensors in, tensors out: no modality, no label."""

from torchflava.layers.attention_weights import attention_rollout, attention_weights, watched_attention
from torchflava.layers.beit import RelativeAttention, ScaledBlock, beit_transformer, resize_relative
from torchflava.layers.cast import cast_products
from torchflava.layers.clip import (
    CausalAttention,
    NormedPatchEmbedding,
    PlainTokenEmbedding,
    QuickMlp,
    causal_transformer,
)
from torchflava.layers.embedding import PatchEmbedding, TokenEmbedding, resize_positions
from torchflava.layers.init import init_by_fan_in, init_weights
from torchflava.layers.norm import LayerNorm
from torchflava.layers.rows import take_rows
from torchflava.layers.transformer import Attention, Block, Mlp, Transformer, transformer

__all__ = [
    "Attention",
    "Block",
    "CausalAttention",
    "LayerNorm",
    "Mlp",
    "NormedPatchEmbedding",
    "PatchEmbedding",
    "PlainTokenEmbedding",
    "QuickMlp",
    "RelativeAttention",
    "ScaledBlock",
    "TokenEmbedding",
    "Transformer",
    "attention_rollout",
    "attention_weights",
    "beit_transformer",
    "cast_products",
    "causal_transformer",
    "init_by_fan_in",
    "init_weights",
    "resize_positions",
    "resize_relative",
    "take_rows",
    "transformer",
    "watched_attention",
]
