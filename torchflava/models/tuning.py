"""What of a model learns in fine-tuning, and how far each parameter is from the output."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from torch import nn

from torchflava.models.classification import EmbeddingsForClassification, FlavaForClassification

Classification = FlavaForClassification | EmbeddingsForClassification
Part = Literal["image", "text", "fusion", "embeddings"]
PARTS: tuple[Part, ...] = ("image", "text", "fusion", "embeddings")
"""What can be frozen: an encoder with the projection behind it, or what turns pixels and ids into states."""

_BLOCK = re.compile(r"\.blocks\.(\d+)\.")


def freeze(model: Classification, parts: Iterable[Part] = ()) -> None:
    """Keep parts as they are, and all that the model has and does not read; before it is sharded.

    Raises:
        ValueError: for a part that the model does not read, or that there is not.
    """
    read = _read(model)
    names = [*parts]
    if unread := [name for name in names if name not in read]:
        raise ValueError(
            f"{unread[0]} is nothing that a model learns which reads {model.reads!r}; it can freeze {', '.join(read)}"
        )
    for parameter in model.flava.parameters():
        parameter.requires_grad_(False)
    for modules in read.values():
        for module in modules:
            module.requires_grad_(True)
    for name in names:
        for module in read[name]:
            module.requires_grad_(False)


def depths(model: Classification) -> dict[str, int]:
    """Each parameter's level by name: 0 for embeddings, then a block each, last norm and classifier at the top, as BEiT counts.

    A fusion encoder's blocks follow those of the encoders; the projections into it are a level of their own.
    """
    names = [name for name, _ in model.named_parameters()]
    image, text, fusion = (_num_blocks(names, f"flava.{part}_encoder.") for part in ("image", "text", "fusion"))
    fused = isinstance(model, FlavaForClassification) and model.reads == "pair"
    towers = (
        {"image": image}
        if model.reads == "image"
        else {"text": text}
        if model.reads == "text"
        else {"image": image, "text": text}
    )
    deepest = max(towers.values())
    top = deepest + 2 + fusion if fused else deepest + 1
    found = {}
    for name in names:
        block = _BLOCK.search(name)
        number = int(block[1]) if block else None
        tower = next((part for part in towers if name.startswith(f"flava.{part}_encoder.")), "")
        if tower:
            below = deepest - towers[tower]  # both towers end at the same level
            found[name] = below + 1 + number if number is not None else below if ".embed." in name else deepest + 1
        elif (fused and "to_fusion" in name) or name == "flava.fusion_encoder.cls_token":
            found[name] = deepest + 1
        elif fused and name.startswith("flava.fusion_encoder.") and number is not None:
            found[name] = deepest + 2 + number
        else:
            found[name] = top
    return found


def _read(model: Classification) -> dict[Part, list[nn.Module]]:
    """The modules of each part that the model reads."""
    flava, fused = model.flava, isinstance(model, FlavaForClassification)
    found: dict[Part, list[nn.Module]] = {}
    for part, other in (("image", "text"), ("text", "image")):
        if model.reads != other:
            names = (f"{part}_encoder",) if fused else (f"{part}_encoder", f"{part}_projection")
            found[part] = [flava.get_submodule(name) for name in names]  # type: ignore[index]
    if fused and model.reads == "pair":
        found["fusion"] = [flava.get_submodule(f) for f in ("fusion_encoder", "image_to_fusion", "text_to_fusion")]
    embeds = (getattr(found[name][0], "embed", None) for name in ("image", "text") if name in found)
    found["embeddings"] = [embed for embed in embeds if isinstance(embed, nn.Module)]
    return found


def _num_blocks(names: Sequence[str], prefix: str) -> int:
    return len({found[1] for name in names if name.startswith(prefix) and (found := _BLOCK.search(name))})
