"""Pretrained weights in, and this project's own out: files are recognised by the names of their tensors.

Sizes are read off the tensors, names are mapped by the tables in `layouts_*`, every name is accounted for, and nothing
in a file is run: `torchflava.files` reads tensors only.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from torchflava.files import load_metadata, load_tensors, save_tensors
from torchflava.models import layouts_own, layouts_torchmultimodal, layouts_transformers
from torchflava.models.architecture import TOWERS, Whole, build, settings_of, tower_sizes
from torchflava.models.clip import Clip
from torchflava.models.flava import Flava
from torchflava.models.layout import Layout, recognise, to_ours
from torchflava.models.settings import Settings, Towers, as_metadata, from_config, from_metadata, guessed

LAYOUTS = (*layouts_own.LAYOUTS, *layouts_transformers.LAYOUTS, *layouts_torchmultimodal.LAYOUTS)
"""All that can be read."""

_WITH_CONFIG = ("model.safetensors", "pytorch_model.bin")


class Loaded(NamedTuple):
    """A model, and what became of its file."""

    model: Whole
    """In evaluation mode, on the CPU, in float32."""
    layout: str
    """What the file was recognised as."""
    settings: Settings
    """What its tensors do not say: read from its config or metadata, given, or assumed."""
    unused: dict[str, str]
    """Names in the file, and in its config, that this model has no use for, each with the reason."""


def from_pretrained(
    path: str | os.PathLike[str],
    *,
    num_heads: int | tuple[int, ...] | None = None,
    image_size: int | None = None,
    attend_to_padding: tuple[bool, bool] | None = None,
) -> Whole:
    """The model in a folder or file of weights, in evaluation mode, on the CPU, in float32.

    Read are transformers' `FlavaForPreTraining` and `FlavaModel`, TorchMultimodal's `flava_model_for_pretraining`,
    `flava_model` and `flava_model_for_classification`, and this project's run folders and files, CLIP's too. A classifier of
    TorchMultimodal's is taken to read pairs; `model.reads = "image"` or `"text"` says otherwise.

    Args:
        path: a folder with `model.safetensors` or `pytorch_model.bin`, whole or in shards, and transformers'
            `config.json`; or one file: `.safetensors`, an index of shards, `.pt`, `.pth`, `.bin`.
        num_heads: of attention, in all encoders or in the image, text and (FLAVA's) fusion encoder. By default what the file or
            its config says, else what the named size has that has these sizes (`SIZES`), else one for every 64 of width.
        image_size: side of an image in pixels, a multiple of the patch size, to which the positions are resized.
        attend_to_padding: whether the text encoder, and the fusion encoder, see padding. By default (False, True) for
            both references' files, as the released weights were trained, and what the file says, else (False, False),
            for this project's. transformers computes (False, False) if given an attention mask and (True, True) if not,
            TorchMultimodal (False, True). Where nothing is padded all are the same. CLIP never sees padding.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that is damaged or of an unknown layout, naming the keys that are missing, unknown or of
            a wrong shape, and for an option that does not fit the sizes.
    """
    return load_pretrained(path, num_heads=num_heads, image_size=image_size, attend_to_padding=attend_to_padding).model


def load_pretrained(
    path: str | os.PathLike[str],
    *,
    num_heads: int | tuple[int, ...] | None = None,
    image_size: int | None = None,
    attend_to_padding: tuple[bool, bool] | None = None,
) -> Loaded:
    """As `from_pretrained`, together with what the file was, what was assumed and which names were left out."""
    path = Path(path)
    tensors = load_tensors(path)
    layout = recognise(LAYOUTS, tensors)
    state, unused = to_ours(layout, tensors)
    towers = tower_sizes(state)
    settings, ignored = settings_in(path, layout, towers)
    if num_heads is not None:
        settings = settings._replace(num_heads=_of_each(num_heads, len(towers)))
    if attend_to_padding is not None:
        if len(towers) < len(TOWERS):
            raise ValueError(f"{path} is {layout.name}, which never sees padding; leave attend_to_padding out")
        settings = settings._replace(attend_to_padding=attend_to_padding)
    if 0 in settings.num_heads:
        widths = [tower.width for tower in towers]
        raise ValueError(f"{path} does not say how many heads encoders of widths {widths} have; give num_heads")
    model = build(state, settings)
    if image_size is not None:
        (model if isinstance(model, Flava | Clip) else model.flava).resize(image_size)
    return Loaded(model.eval(), layout.name, settings, unused | ignored)


def save_pretrained(model: Whole, path: str | os.PathLike[str]) -> None:
    """Write a safetensors file, or `model.safetensors` into a folder, from which `from_pretrained` makes the same model.

    The model must not be sharded; where it is, write its full state with `files.save_tensors` and `metadata_of(model)`.

    Raises:
        ValueError: naming what is not this project's own, which weights alone would not bring back.
    """
    state = model.state_dict()
    to_ours(recognise(layouts_own.LAYOUTS, state), state)
    path = Path(path)
    save_tensors(path / "model.safetensors" if path.is_dir() else path, state, metadata_of(model))


def metadata_of(model: Whole) -> dict[str, str]:
    """What `from_pretrained` must know beside the tensors, as the metadata of a safetensors file.

    Raises:
        ValueError: if an encoder is not this project's own.
    """
    return as_metadata(settings_of(model))


def _of_each(num_heads: int | tuple[int, ...], num_towers: int) -> tuple[int, ...]:
    each = (num_heads,) * num_towers if isinstance(num_heads, int) else tuple(num_heads)
    if len(each) != num_towers or min(each) < 1:
        raise ValueError(f"num_heads is {num_heads}; a number above 0 is due, or one for each of {num_towers} encoders")
    return each


def settings_in(path: Path, layout: Layout, towers: Towers) -> tuple[Settings, dict[str, str]]:
    """What a file, or the config beside it, says beyond its tensors; and what of it has no counterpart here."""
    if layout in layouts_own.LAYOUTS:
        file = path / "model.safetensors" if path.is_dir() else path
        in_file = file.suffix == ".safetensors" and file.is_file()
        return from_metadata(layout, towers, load_metadata(file) if in_file else {}), {}
    config = _config(path) if layout in layouts_transformers.LAYOUTS else None
    if config is None:
        return guessed(layout, towers), {}
    settings, ignored = from_config(layout, towers, config)
    return settings, {f"config.json: {name}": reason for name, reason in ignored.items()}


def _config(path: Path) -> dict[str, Any] | None:
    """The `config.json` in a folder, or beside a file of the name that it has in such a folder."""
    if path.is_file() and path.name.removesuffix(".index.json") not in _WITH_CONFIG:
        return None
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); fetch it again, or load the weights' file by itself") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} holds a {type(config).__name__}; transformers' configuration is due")
    return config
