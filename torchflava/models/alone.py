"""One encoder by itself, built to fit the tensors of its file: DINO's, timm's, BEiT's, or one of FLAVA's three.

Letters: D width, N patches, R patches a side, H heads.
"""

import math

import torch
from torch import Tensor, nn

from torchflava.encoders import FusionEncoder, ImageEncoder, TextEncoder
from torchflava.models import layouts_towers, layouts_vit
from torchflava.models.architecture import TOWERS, State, filled, fusion_part, image_part, text_part
from torchflava.models.layout import Layout
from torchflava.models.settings import Settings

Encoder = ImageEncoder | TextEncoder | FusionEncoder
_MAKERS = dict(zip(TOWERS, (image_part, text_part, fusion_part), strict=True))
_KINDS = dict(zip(TOWERS, (ImageEncoder, TextEncoder, FusionEncoder), strict=True))


def with_what_files_lack(layout: Layout, state: State, num_heads: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state of an encoder of so many heads, and what was made for it because such a file has none, each with the reason.

    Raises:
        ValueError: if nothing tells how many patches there are.
    """
    if (
        layout not in (*layouts_vit.LAYOUTS, *layouts_towers.TRANSFORMERS)
        or "image_encoder.embed.cls_token" not in state
    ):
        return dict(state), {}
    width = state["image_encoder.embed.cls_token"].shape[-1]
    made: dict[str, tuple[Tensor, str]] = {
        "image_encoder.embed.mask_token": (torch.zeros(1, 1, width), "0: nothing was masked there"),
        "image_encoder.norm.weight": (torch.ones(width), "1: it was read without a last norm"),
        "image_encoder.norm.bias": (torch.zeros(width), "0: it was read without a last norm"),
    }
    table = state.get("image_encoder.trunk.blocks.0.attention.positions")
    if table is not None:
        side = (math.isqrt(max(len(table) - 3, 0)) + 1) // 2
        made["image_encoder.embed.positions"] = torch.zeros(1, side**2 + 1, width), "0: it knew relative positions only"
    elif "image_encoder.trunk.blocks.0.attention_scale" in state and "image_encoder.embed.positions" in state:
        side = math.isqrt(state["image_encoder.embed.positions"].shape[1])
        made |= _no_biases(state, side, num_heads)
    lacking = {name: entry for name, entry in made.items() if name not in state}
    if "image_encoder.embed.positions" not in {*state, *lacking}:
        raise ValueError(
            f"a file of {layout.name} without positions, by which its patches are counted; give a whole one"
        )
    return {**state, **{name: tensor for name, (tensor, _) in lacking.items()}}, {
        n: why for n, (_, why) in lacking.items()
    }


def heads_of_table(state: State) -> int | None:
    """How many heads BEiT's biases by relative position are for; None without them."""
    table = state.get("image_encoder.trunk.blocks.0.attention.positions")
    return table.shape[1] if table is not None and table.ndim == 2 else None


def build_encoder(state: State, settings: Settings) -> Encoder:
    """The encoder that a state of ours, its name before each tensor's, belongs to.

    Raises:
        ValueError: naming the tensors whose shapes do not go together.
    """
    name = next(iter(state)).partition(".")[0]
    whole = filled(lambda: nn.ModuleDict({name: _MAKERS[name](state, settings)}), state)
    encoder = whole[name]
    assert isinstance(encoder, ImageEncoder | TextEncoder | FusionEncoder)
    return encoder


def name_of(encoder: Encoder) -> str:
    """`image_encoder`, `text_encoder` or `fusion_encoder`."""
    return next(name for name, kind in _KINDS.items() if isinstance(encoder, kind))


def _no_biases(state: State, side: int, num_heads: int) -> dict[str, tuple[Tensor, str]]:
    """BEiT's biases by relative position, for a file that has positions of the usual kind alone."""
    depth = len({key.split(".")[3] for key in state if key.startswith("image_encoder.trunk.blocks.")})
    biases = torch.zeros((2 * side - 1) ** 2 + 3, num_heads)
    stem = "image_encoder.trunk.blocks"
    return {
        f"{stem}.{i}.attention.positions": (biases, "0: it had no biases by relative position") for i in range(depth)
    }
