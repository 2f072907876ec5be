"""The names of the dVAE encoder's tensors in other projects' files, and back.

Ours are OpenAI's: `blocks.group_1.block_1.res_path.conv_1.w` (openai/DALL-E@5be4b23, `encoder.py`). Sources of the
others: transformers 5.23, `FlavaImageCodebook`; facebookresearch/multimodal@3c2a85a, `DalleVAEEncoder`.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")

OPENAI_CLASSES = (
    "dall_e.encoder.Encoder",
    "dall_e.encoder.EncoderBlock",
    "dall_e.utils.Conv2d",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.linear.Identity",
    "torch.nn.modules.pooling.MaxPool2d",
)
"""The classes that stand in OpenAI's `encoder.pkl`."""

OPENAI_DECODER_CLASSES = (
    "dall_e.decoder.Decoder",
    "dall_e.decoder.DecoderBlock",
    "dall_e.utils.Conv2d",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.linear.Identity",
    "torch.nn.modules.upsampling.Upsample",
)
"""Those of its `decoder.pkl`."""

TRANSFORMERS_PREFIX = "image_codebook."
"""Of the codebook within transformers' `FlavaForPreTraining`."""
TORCHMULTIMODAL_PREFIX = "image_codebook.encoder."
"""Of the codebook within TorchMultimodal's `flava_model_for_pretraining`."""
_PREFIXES = (TORCHMULTIMODAL_PREFIX, TRANSFORMERS_PREFIX, "encoder.")


def to_transformers(name: str) -> str:
    """OpenAI's name of a tensor -> transformers', without the prefix; a name that is already so stays."""
    name = re.sub(r"(?<=\.group_\d)\.block_", ".group.block_", name)
    name = name.replace(".res_path.conv_", ".res_path.path.conv_")
    return re.sub(r"\.w$", ".weight", re.sub(r"\.b$", ".bias", name))


def from_transformers(name: str) -> str:
    """transformers' name of a tensor, without the prefix -> OpenAI's; a name that is already so stays."""
    name = name.replace(".group.block_", ".block_").replace(".res_path.path.conv_", ".res_path.conv_")
    return re.sub(r"\.weight$", ".w", re.sub(r"\.bias$", ".b", name))


def dalle_to_transformers(tensors: Mapping[str, T], prefix: str = "") -> dict[str, T]:
    """OpenAI's names -> transformers', behind `prefix` (`TRANSFORMERS_PREFIX` within a whole model)."""
    return {prefix + to_transformers(name): tensor for name, tensor in tensors.items()}


def dalle_to_torchmultimodal(tensors: Mapping[str, T], prefix: str = TORCHMULTIMODAL_PREFIX) -> dict[str, T]:
    """OpenAI's names -> TorchMultimodal's, which are the same behind `prefix`."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def dalle_names(tensors: Mapping[str, T]) -> dict[str, T]:
    """The codebook's part of a file, whoever wrote it, under OpenAI's names.

    Within a whole model only what stands behind the codebook's prefix is taken; in a codebook's own file, everything.

    Raises:
        ValueError: if no name is a codebook's.
    """
    for prefix in _PREFIXES:
        if f"{prefix}blocks.input.w" in tensors or f"{prefix}blocks.input.weight" in tensors:
            return _renamed({name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)})
    if not any(name.startswith("blocks.") for name in tensors):
        some = ", ".join(list(tensors)[:3])
        raise ValueError(
            f"none of its {len(tensors)} tensors is a dVAE encoder's ({some} ...); "
            f"their names begin with 'blocks.' or {TRANSFORMERS_PREFIX + 'blocks.'!r}"
        )
    return _renamed(tensors)


def _renamed(tensors: Mapping[str, T]) -> dict[str, T]:
    renamed = {from_transformers(name): tensor for name, tensor in tensors.items()}
    if len(renamed) != len(tensors):
        twice = [name for name in tensors if name != from_transformers(name) and from_transformers(name) in tensors]
        raise ValueError(f"{twice[0]} stands there under two names; remove one")
    return renamed


def dalle_shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor of an encoder of the width, depth and number of codes seen in `tensors`.

    Raises:
        ValueError: if the first or the last convolution is not there to tell.
    """
    blocks = _blocks_told(tensors, "encoder")
    return dalle_layout(len(tensors["blocks.input.w"]), blocks, len(tensors["blocks.output.conv.w"]))


def decoder_shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """As `dalle_shapes`, of a decoder."""
    blocks = _blocks_told(tensors, "decoder")
    first, codes = tensors["blocks.input.w"].shape[:2]
    return decoder_layout(tensors["blocks.output.conv.w"].shape[1], blocks, codes, first_width=first)


def dalle_layout(width: int = 256, blocks: int = 2, num_codes: int = 8192) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor of an encoder, 8192 codes from 53.8 million weights unless told otherwise.

    Args:
        width: W, of the first group of blocks, a multiple of 4.
        blocks: in each of the four groups.
        num_codes: K.
    """
    convolutions = {"blocks.input": (width, 3, 7)}
    before = width
    for g, wide in enumerate((width, 2 * width, 4 * width, 8 * width), start=1):
        for k in range(1, blocks + 1):
            name, inside = f"blocks.group_{g}.block_{k}", wide // 4
            if before != wide:
                convolutions[f"{name}.id_path"] = (wide, before, 1)
            convolutions[f"{name}.res_path.conv_1"] = (inside, before, 3)
            convolutions[f"{name}.res_path.conv_2"] = (inside, inside, 3)
            convolutions[f"{name}.res_path.conv_3"] = (inside, inside, 3)
            convolutions[f"{name}.res_path.conv_4"] = (wide, inside, 1)
            before = wide
    convolutions["blocks.output.conv"] = (num_codes, before, 1)
    return _shapes(convolutions)


def decoder_layout(
    width: int = 256, blocks: int = 2, num_codes: int = 8192, *, first_width: int = 128
) -> dict[str, tuple[int, ...]]:
    """As `dalle_layout`, of the decoder (openai/DALL-E@5be4b23, `decoder.py`), whose groups are 8W, 4W, 2W and W wide.

    Args:
        width: W, of the last group of blocks, a multiple of 4.
        blocks: in each of the four groups.
        num_codes: K.
        first_width: of the first convolution, which reads the codes.
    """
    convolutions = {"blocks.input": (first_width, num_codes, 1)}
    before = first_width
    for g, wide in enumerate((8 * width, 4 * width, 2 * width, width), start=1):
        for k in range(1, blocks + 1):
            name, inside = f"blocks.group_{g}.block_{k}", wide // 4
            if before != wide:
                convolutions[f"{name}.id_path"] = (wide, before, 1)
            convolutions[f"{name}.res_path.conv_1"] = (inside, before, 1)
            convolutions[f"{name}.res_path.conv_2"] = (inside, inside, 3)
            convolutions[f"{name}.res_path.conv_3"] = (inside, inside, 3)
            convolutions[f"{name}.res_path.conv_4"] = (wide, inside, 3)
            before = wide
    convolutions["blocks.output.conv"] = (6, before, 1)
    return _shapes(convolutions)


def _shapes(convolutions: Mapping[str, tuple[int, int, int]]) -> dict[str, tuple[int, ...]]:
    """The weights and biases of convolutions: outputs, inputs, side."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (outputs, inputs, side) in convolutions.items():
        shapes |= {f"{name}.w": (outputs, inputs, side, side), f"{name}.b": (outputs,)}
    return shapes


def _blocks_told(tensors: Mapping[str, Tensor], what: str) -> int:
    """Blocks in a group of an encoder or a decoder, of which the first and the last convolution must be there."""
    for name in ("blocks.input.w", "blocks.output.conv.w"):
        if name not in tensors or tensors[name].ndim != 4:
            some = ", ".join(list(tensors)[:3])
            raise ValueError(f"no dVAE {what}: {name} is missing or is no convolution (among {some} ...)")
    found = [re.match(r"blocks\.group_[1-4]\.block_(\d+)\.", name) for name in tensors]
    return min(max((int(match[1]) for match in found if match), default=1), len(tensors))
