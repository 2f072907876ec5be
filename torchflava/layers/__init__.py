"""Tensors in, tensors out: no modality, no label."""

from torchflava.layers.beit import RelativeAttention, ScaledBlock, beit_transformer, resize_relative
from torchflava.layers.embedding import PatchEmbedding, TokenEmbedding, resize_positions
from torchflava.layers.init import init_weights
from torchflava.layers.norm import LayerNorm
from torchflava.layers.rows import take_rows
from torchflava.layers.transformer import Attention, Block, Mlp, Transformer, transformer

__all__ = [
    "Attention",
    "Block",
    "LayerNorm",
    "Mlp",
    "PatchEmbedding",
    "RelativeAttention",
    "ScaledBlock",
    "TokenEmbedding",
    "Transformer",
    "beit_transformer",
    "init_weights",
    "resize_positions",
    "resize_relative",
    "take_rows",
    "transformer",
]
