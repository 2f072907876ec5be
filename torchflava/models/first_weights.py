"""First weights of FLAVA's image and text encoder from others' files or from a run's own (paper §4.1: DINO, and MLM's stage one).

Every tensor is accounted for: it goes into the encoder, resized where only the grid of positions differs; or it is of no use
here, with the reason; or the encoder's own first value stays, with the reason; or it is an error that names it.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from torchflava.layers import resize_positions, resize_relative
from torchflava.models import layouts_vit
from torchflava.models.architecture import TOWERS, tower_sizes
from torchflava.models.checkpoints import tensors_in
from torchflava.models.layout import Layout, listed, recognise, to_ours
from torchflava.models.recognised import LAYOUTS, settings_in

_BLOCK_PARTS = r"trunk\.blocks\.[0-9]+\."
_KEPT = {
    r"embed\.mask_token": "nothing was masked there",
    r"norm\.(weight|bias)": "it was read without a last norm",
    _BLOCK_PARTS + r"attention\.positions": "it had no biases by relative position",
}
"""What such a file may lack, so that the encoder's own first value stays."""


class FirstWeights(NamedTuple):
    """What an encoder begins with."""

    state: dict[str, Tensor]
    """By the encoder's own names, in float32, on the CPU."""
    layout: str
    """What the file was recognised as."""
    made: dict[str, str]
    """Names of the encoder that the file lacks, each with the reason."""
    unused: dict[str, str]
    """Names in the file that the encoder has no use for, each with the reason."""


def first_weights(
    path: str | os.PathLike[str], encoder: nn.Module, name: Literal["image_encoder", "text_encoder"]
) -> FirstWeights:
    """What a file or folder holds for one of FLAVA's encoders, which is left alone and may be on the meta device.

    Read for both are this project's own runs and files (CLIP's for CLIP's encoders), and transformers' and TorchMultimodal's
    FLAVA; for the image encoder also DINO's `dino_vitbase16_pretrain.pth` and the teacher in its training's checkpoint, timm's
    and transformers' ViT, and BEiT of timm, transformers or its authors, whose blocks are those of `encoders.beit_image_encoder`.

    Args:
        path: of the file, or of a folder with `model.safetensors`.
        encoder: an `ImageEncoder` or a `TextEncoder`.
        name: which of the two.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that is damaged, of an unknown layout or of another encoder, naming the tensors.
    """
    path = Path(path)
    tensors, beside = tensors_in(path)
    if name == "image_encoder":
        tensors = layouts_vit.completed(tensors)
    layout = recognise(LAYOUTS + (layouts_vit.LAYOUTS if name == "image_encoder" else ()), tensors)
    whole, unused = to_ours(layout, tensors)
    unused |= beside
    whole = {key.removeprefix("flava."): tensor for key, tensor in whole.items()}
    _check_heads(path, layout, whole, encoder, name=name)
    part = {key.removeprefix(f"{name}."): tensor for key, tensor in whole.items() if key.startswith(f"{name}.")}
    unused |= {key: "of another part of the model" for key in whole if not key.startswith(f"{name}.")}
    wanted = {key: tuple(tensor.shape) for key, tensor in encoder.state_dict().items()}
    made = _made(path, part, wanted, foreign=layout not in LAYOUTS)
    state = {key: _fitted(key, part[key], wanted[key], path) for key in wanted if key in part}
    if "embed.positions" in made:
        state["embed.positions"] = torch.zeros(wanted["embed.positions"])
    return FirstWeights(state, layout.name, made, unused)


def _made(
    path: Path, part: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], *, foreign: bool
) -> dict[str, str]:
    """What is not in the file, with the reason; an error where there is none, or where the encoder has no place for a tensor."""
    kept = dict(_KEPT) if foreign else {}
    if foreign and any("attention_scale" in key for key in part):
        kept[r"embed\.positions"] = "begins at 0: it knew relative positions only"
    made: dict[str, str] = {}
    for key in wanted.keys() - part.keys():
        reason = next((why for pattern, why in kept.items() if re.fullmatch(pattern, key)), None)
        if reason is not None:
            made[key] = reason
    complaints = [
        f"{what} {listed(sorted(keys))}"
        for what, keys in (
            ("lacks", wanted.keys() - part.keys() - made.keys()),
            ("has, without a place in this encoder,", part.keys() - wanted.keys()),
        )
        if keys
    ]
    if complaints:
        hint = "the encoder must have the same depth, BEiT's blocks for BEiT's weights alone, and CLIP's for CLIP's"
        raise ValueError(f"{path} {' and '.join(complaints)}; {hint}")
    return made


def _fitted(key: str, tensor: Tensor, shape: tuple[int, ...], path: Path) -> Tensor:
    """The tensor in float32 and in the encoder's shape, where positions alone differ."""
    tensor = tensor.detach().float()
    if tuple(tensor.shape) == shape:
        return tensor
    if key == "embed.positions" and tensor.ndim == 3 and tensor.shape[2] == shape[2]:
        side = round((shape[1] - 1) ** 0.5)
        return resize_positions(tensor, (side, side))
    if key.endswith("attention.positions") and tensor.ndim == 2 and tensor.shape[1] == shape[1]:
        return resize_relative(tensor, (round((shape[0] - 3) ** 0.5) + 1) // 2)
    if key == "embed.positions.weight" and tensor.shape[1:] == shape[1:] and len(tensor) > shape[0]:
        return tensor[: shape[0]]
    words = "; the vocabulary must be the same" if key == "embed.words.weight" else "; the sizes must be the same"
    raise ValueError(f"{path}: {key} is {tuple(tensor.shape)}, this encoder's is {shape}{words}")


def _check_heads(path: Path, layout: Layout, state: Mapping[str, Tensor], encoder: nn.Module, *, name: str) -> None:
    """Heads of attention do not show in a tensor; where the file tells their number, it must be the encoder's."""
    unsaid = None if layout in LAYOUTS else 0
    said = settings_in(path, layout, tower_sizes(state), heads=unsaid)[0].num_heads[TOWERS.index(name)]
    blocks = getattr(getattr(encoder, "trunk", None), "blocks", None)
    num_heads = blocks[0].attention.num_heads if blocks else said
    if said not in (0, num_heads):
        raise ValueError(f"{path} has {said} heads in its {name}, this one has {num_heads}; make them equal")
