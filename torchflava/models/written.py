"""What weights for another library share: which models they can be of, what they lack, and a report of what became of them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchflava.models import layouts_own
from torchflava.models.architecture import Whole, settings_of
from torchflava.models.classification import EmbeddingsForClassification
from torchflava.models.clip import Clip
from torchflava.models.flava import Flava
from torchflava.models.layout import listed, recognise, to_ours
from torchflava.models.pretraining import FlavaForPreTraining
from torchflava.models.settings import Settings


class Written(NamedTuple):
    """What was written for another library."""

    layout: str
    """What the files hold, in words."""
    files: tuple[Path, ...]
    """That were written."""
    made: dict[str, str]
    """Names there that this model has no tensor for, written as they begin anew, each with the reason."""
    differs: dict[str, str]
    """Settings that the other library cannot be told, each with what it computes instead or how to set it there."""
    load: str
    """The lines of Python that load it there."""


class Sizes(NamedTuple):
    """A FLAVA's sizes and settings, as others' configurations ask for them."""

    widths: tuple[int, int, int]
    """Of the image, text and fusion encoder, as all that follows."""
    depths: tuple[int, int, int]
    hidden: tuple[int, int, int]
    image_size: int
    patch_size: int
    vocab_size: int
    max_length: int
    num_segments: int
    embed_dim: int
    settings: Settings


def flava_in(model: Whole, library: str) -> Flava:
    """The encoders of a model that another library's FLAVA can be.

    Raises:
        ValueError: for any other, saying why and what can be written of it.
    """
    if isinstance(model, EmbeddingsForClassification):
        raise ValueError(f"{library} has no classifier over embeddings; write its encoders: model.flava")
    flava = model if isinstance(model, Flava | Clip) else model.flava
    if isinstance(flava, Clip):
        raise ValueError(f"this is CLIP, which has no place in {library}; docs/clip.md says where it goes")
    settings_of(model)  # sees that the encoders are this project's own
    whole = model.state_dict()
    to_ours(recognise(layouts_own.LAYOUTS, whole), whole, remedy="write its encoders: model.flava")  # and the heads
    state = flava.state_dict()
    if "image_encoder.trunk.blocks.0.attention_scale" in state:
        raise ValueError(
            f"the image encoder has BEiT's blocks, whose scales and biases by relative position {library} has no place "
            "for; write this project's own file by save_pretrained"
        )
    if unknown := [name for name in state if name.startswith("image_encoder.embed.norm")]:
        raise ValueError(f"{library} has no place for {listed(unknown)}; write save_pretrained's file")
    return flava


def is_clip(model: Whole) -> bool:
    """Whether a model's encoders are CLIP's."""
    return isinstance(model if isinstance(model, Flava | Clip) else model.flava, Clip)


def sizes_of(flava: Flava, settings: Settings) -> Sizes:
    """The sizes of a FLAVA of this project's own encoders."""
    parts = [flava.get_submodule(name) for name in ("image_encoder", "text_encoder", "fusion_encoder")]
    state = flava.state_dict()
    ups = [
        state[f"{name}.trunk.blocks.0.mlp.up.weight"] for name in ("image_encoder", "text_encoder", "fusion_encoder")
    ]
    widths, hidden = (up.shape[1] for up in ups), (up.shape[0] for up in ups)
    depths = (len(list(part.get_submodule("trunk.blocks").children())) for part in parts)
    projection, words = state["image_encoder.embed.projection.weight"], state["text_encoder.embed.words.weight"]
    side = round((state["image_encoder.embed.positions"].shape[1] - 1) ** 0.5)
    return Sizes(
        _three(*widths),
        _three(*depths),
        _three(*hidden),
        image_size=side * projection.shape[-1],
        patch_size=projection.shape[-1],
        vocab_size=len(words),
        max_length=len(state["text_encoder.embed.positions.weight"]),
        num_segments=len(state["text_encoder.embed.segments.weight"]),
        embed_dim=flava.embed_dim,
        settings=settings,
    )


def heads_that_lack(
    model: FlavaForPreTraining, widths: Mapping[str, int], *, num_codes: int, vocab_size: int
) -> dict[str, Tensor]:
    """For each head that was taken out of a model, one as it begins, in our names; the same ones every time.

    Args:
        model: of which some of `mim, mlm, mmm_image, mmm_text, itm, contrastive` are None.
        widths: of the states that the heads are on, in the other library.
        num_codes: that heads over codes know.
        vocab_size: that heads over words know.
    """
    made: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for name, width in widths.items():
        if getattr(model, name) is not None:
            continue
        made |= _linear(f"{name}.dense", width, width, generator=generator)
        if name == "itm":
            made |= _linear(f"{name}.decoder", 2, width, generator=generator)
            continue
        made |= {f"{name}.norm.weight": torch.ones(width), f"{name}.norm.bias": torch.zeros(width)}
        count = num_codes if name in ("mim", "mmm_image") else vocab_size
        made |= _linear(f"{name}.decoder", count, width, generator=generator)
    if model.contrastive is None:
        made["contrastive.log_scale"] = torch.full((1,), math.log(1 / 0.07))
    return made


def poolers(names: Mapping[str, int]) -> dict[str, Tensor]:
    """Each encoder's pooler as it begins, by the encoder's name there and its width; the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    made: dict[str, Tensor] = {}
    for name, width in names.items():
        made |= _linear(f"{name}.pooler.dense", width, width, generator=generator)
    return made


def _linear(name: str, outputs: int, inputs: int, *, generator: torch.Generator) -> dict[str, Tensor]:
    weight = 0.02 * torch.randn(outputs, inputs, generator=generator)
    return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(outputs)}


def codes_of(model: FlavaForPreTraining, codebook_codes: int | None, library: str) -> int:
    """How many codes the heads over codes, and the codebook, know.

    Raises:
        ValueError: if they do not agree.
    """
    known = {name: getattr(model, name).num_codes for name in ("mim", "mmm_image") if getattr(model, name) is not None}
    if codebook_codes is not None:
        known["the codebook"] = codebook_codes
    if len(set(known.values())) > 1:
        raise ValueError(f"{library} has one number of codes for all, here are {known}; give the model's own codebook")
    return next(iter(known.values()), 8192)


def check_words(model: FlavaForPreTraining, vocab_size: int, library: str) -> None:
    """See that the heads over words know the text encoder's vocabulary.

    Raises:
        ValueError: if they do not.
    """
    known = {name: getattr(model, name).num_codes for name in ("mlm", "mmm_text") if getattr(model, name) is not None}
    if wrong := {name: count for name, count in known.items() if count != vocab_size}:
        raise ValueError(f"{library} has one vocabulary, here the text encoder knows {vocab_size} words and {wrong}")


def write_json(file: Path, content: Mapping[str, Any]) -> Path:
    """Write a configuration as others' libraries lay it out; the file."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return file


def _three(image: int, text: int, fusion: int) -> tuple[int, int, int]:
    return image, text, fusion
