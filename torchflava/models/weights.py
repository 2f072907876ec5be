"""Pretrained weights in, and this project's own out: files are recognised by the names of their tensors.

Sizes are read off the tensors, names are mapped by the tables in `layouts_*`, every name is accounted for, and nothing
in a file is run: `torchflava.files` reads tensors only.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from torchflava.codebooks import DalleCodebook, PatchCodebook, load_codebook
from torchflava.encoders import FusionEncoder, TextEncoder
from torchflava.files import load_metadata, save_tensors
from torchflava.models import layouts_clip_others, layouts_own, layouts_towers, layouts_vit
from torchflava.models.alone import Encoder, build_encoder, heads_of_table, with_what_files_lack
from torchflava.models.architecture import YOURSELF, Whole, build, settings_of, tower_sizes
from torchflava.models.checkpoints import tensors_in
from torchflava.models.hub import find_or_fetch
from torchflava.models.layout import Layout, recognise, to_ours
from torchflava.models.recognised import ENCODERS, LAYOUTS, settings_in
from torchflava.models.settings import Settings, as_metadata

Loadable = Whole | Encoder | DalleCodebook | PatchCodebook
"""What weights are of: a whole model, one encoder, or a codebook."""
Options = tuple[int | tuple[int, ...] | None, int | None, tuple[bool, bool] | None, bool | None]
"""Heads, the side of an image, who sees padding, and which GELU CLIP computes, where a user says so."""


class Loaded(NamedTuple):
    """A model, and what became of its file."""

    model: Loadable
    """In evaluation mode, on the CPU, in float32."""
    layout: str
    """What the file was recognised as."""
    settings: Settings
    """What its tensors do not say: read from its config or metadata, given, or assumed."""
    unused: dict[str, str]
    """Names in the file, and in its config, that this model has no use for, each with the reason."""
    made: dict[str, str]
    """Names of the model that the file lacks and that begin anew, each with the reason."""


def from_pretrained(
    path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    part: str | None = None,
    num_heads: int | tuple[int, ...] | None = None,
    image_size: int | None = None,
    attend_to_padding: tuple[bool, bool] | None = None,
    quick_gelu: bool | None = None,
) -> Loadable:
    """The model in a folder or file of weights, or on the Hugging Face Hub, in evaluation mode, on the CPU, in float32.

    Read are transformers' `FlavaForPreTraining` and `FlavaModel`, TorchMultimodal's `flava_model_for_pretraining`,
    `flava_model` and `flava_model_for_classification`, the checkpoint that FLAVA's authors trained, and this project's run
    folders and files, CLIP's too. A classifier of TorchMultimodal's is taken to read pairs; `model.reads = "image"` or
    `"text"` says otherwise. CLIP in open_clip's, OpenAI's or transformers' layout gives CLIP for pretraining, as the file has
    its temperature; `model.flava` is the `Clip`. A file of one encoder gives that encoder: transformers' `FlavaImageModel`,
    `FlavaTextModel` and `FlavaMultimodalModel`, its ViT and BEiT, bare or with a head, DINO's ViT and its training's checkpoint,
    timm's ViT and BEiT. A file of a codebook gives that: OpenAI's dVAE
    (`encoder.pkl`), transformers' `FlavaImageCodebook`, this project's own. Only tensors are read; no pickle is run.

    Args:
        path: a folder with `model.safetensors` or `pytorch_model.bin`, whole or in shards, and transformers'
            `config.json`; or one file: `.safetensors`, an index of shards, `.pt`, `.pth`, `.bin`, `.pkl`; or, as a string and
            where no such file is, the name of a model on the Hub: `"facebook/flava-full"`. It is fetched once, with the
            user's own token (`HF_TOKEN`); under `HF_HUB_OFFLINE=1` it must be in the cache.
        revision: branch, tag or commit of a model on the Hub.
        part: of a torch file that holds several state dicts, which one; of DINO's `student` and `teacher` the teacher, unless
            given.
        num_heads: of attention, in all encoders or in the image, text and (FLAVA's) fusion encoder. By default what the file or
            its config says, else what the named size has that has these sizes (`SIZES`), else one for every 64 of width.
        image_size: side of an image in pixels, a multiple of the patch size, to which the positions are resized.
        attend_to_padding: whether the text encoder, and the fusion encoder, see padding. By default (False, True) for
            others' files, as the released weights were trained, and what the file says, else (False, False),
            for this project's. transformers computes (False, False) if given an attention mask and (True, True) if not,
            TorchMultimodal (False, True). Where nothing is padded all are the same. CLIP never sees padding.
        quick_gelu: whether CLIP's MLPs compute OpenAI's approximate GELU, x * sigmoid(1.702 x). By default what the config
            says; without one, True for OpenAI's and transformers' files, False for open_clip's.

    Raises:
        FileNotFoundError: if there is no such file, or no such model on the Hub.
        ConnectionError: if the Hub cannot be reached and the model is not in the cache.
        PermissionError: if the Hub gives the model to those only who were let in.
        ValueError: for a file that is damaged or of an unknown layout, naming the keys that are missing, unknown or of
            a wrong shape, and for an option that does not fit.
    """
    options: Options = (num_heads, image_size, attend_to_padding, quick_gelu)
    return _load(path, revision, part, options=options).model


def load_pretrained(
    path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    part: str | None = None,
    num_heads: int | tuple[int, ...] | None = None,
    image_size: int | None = None,
    attend_to_padding: tuple[bool, bool] | None = None,
    quick_gelu: bool | None = None,
) -> Loaded:
    """As `from_pretrained`, together with what the file was, what was assumed, which names were left out and which begin anew."""
    return _load(path, revision, part, options=(num_heads, image_size, attend_to_padding, quick_gelu))


def save_pretrained(model: Loadable, path: str | os.PathLike[str]) -> None:
    """Write a safetensors file, or `model.safetensors` into a folder, from which `from_pretrained` makes the same model.

    The model must not be sharded; where it is, write its full state with `files.save_tensors` and `metadata_of(model)`.

    Raises:
        ValueError: naming what is not this project's own, which weights alone would not bring back.
    """
    path = Path(path)
    file = path / "model.safetensors" if path.is_dir() else path
    if isinstance(model, DalleCodebook | PatchCodebook):
        model.save(file)
        return
    state, metadata = model.state_dict(), metadata_of(model)
    to_ours(recognise((*layouts_own.LAYOUTS, *layouts_towers.OWN), state), state, remedy=YOURSELF)
    save_tensors(file, state, metadata)


def metadata_of(model: Whole | Encoder) -> dict[str, str]:
    """What `from_pretrained` must know beside the tensors, as the metadata of a safetensors file.

    Raises:
        ValueError: if a part is not this project's own.
    """
    return as_metadata(settings_of(model))


def _load(path: str | os.PathLike[str], revision: str | None, part: str | None, *, options: Options) -> Loaded:
    path = find_or_fetch(path, revision)
    tensors, beside = tensors_in(path, part)
    if _is_codebook(path, tensors):
        return _codebook(path, part, options)
    layout = recognise(LAYOUTS + ENCODERS, tensors)
    if layout in layouts_vit.LAYOUTS:
        tensors = layouts_vit.completed(tensors)
    state, unused = to_ours(layout, tensors)
    heads = heads_of_table(state) if layout in layouts_vit.LAYOUTS else None
    settings, ignored = settings_in(path, layout, tower_sizes(state), heads=heads)
    settings = layouts_clip_others.ended(layout, settings, state)
    settings = _chosen(path, layout, settings, state=state, options=options)
    state, made = with_what_files_lack(layout, state, settings.num_heads[0])
    model = build(state, settings) if layout in LAYOUTS else build_encoder(state, settings)
    if options[1] is not None:
        _resize(path, model, options[1])
    return Loaded(model.eval(), layout.name, settings, unused | beside | ignored, made)


def _is_codebook(path: Path, tensors: Mapping[str, Tensor]) -> bool:
    names = ("blocks.input.w", "blocks.input.weight", "encoder.blocks.input.w")
    return "codebook" in load_metadata(path) or any(name in tensors for name in names)


def _codebook(path: Path, part: str | None, options: Options) -> Loaded:
    num_heads, image_size, attend_to_padding, quick_gelu = options
    if quick_gelu is not None:
        raise ValueError(f"{path} is a codebook, and quick_gelu is CLIP's; leave it out")
    if num_heads is not None or attend_to_padding is not None:
        raise ValueError(f"{path} is a codebook, which has no attention; leave num_heads and attend_to_padding out")
    if load_metadata(path).get("codebook") != "patches":
        codebook = DalleCodebook.from_file(path, part=part, image_size=image_size)
        return Loaded(codebook, "a dVAE's encoder", Settings((), ()), {}, {})
    if image_size is not None:
        raise ValueError(f"{path} is a codebook of patches, of one size; leave image_size={image_size} out")
    return Loaded(load_codebook(path), "torchflava's PatchCodebook", Settings((), ()), {}, {})


def _chosen(
    path: Path, layout: Layout, settings: Settings, *, state: Mapping[str, Tensor], options: Options
) -> Settings:
    """The settings with what was asked for in place of what the file says."""
    num_heads, _, attend_to_padding, quick_gelu = options
    towers = tower_sizes(state)
    if num_heads is not None:
        settings = settings._replace(num_heads=_of_each(num_heads, len(towers)))
    if attend_to_padding is not None:
        if not any("text_encoder.embed.segments" in name or "fusion_encoder" in name for name in state):
            raise ValueError(f"{path} is {layout.name}, which never sees padding; leave attend_to_padding out")
        settings = settings._replace(attend_to_padding=attend_to_padding)
    if quick_gelu is not None:
        if not any("text_encoder.embed.words" in name for name in state) or len(towers) != 2:
            raise ValueError(f"{path} is {layout.name}, and quick_gelu is CLIP's; leave it out")
        settings = settings._replace(quick_gelu=quick_gelu)
    if 0 in settings.num_heads:
        widths = [tower.width for tower in towers]
        raise ValueError(f"{path} does not say how many heads encoders of widths {widths} have; give num_heads")
    return settings


def _resize(path: Path, model: Whole | Encoder, image_size: int) -> None:
    if isinstance(model, TextEncoder | FusionEncoder):
        raise ValueError(f"{path} is a {type(model).__name__}, which sees no image; leave image_size={image_size} out")
    model.resize(image_size)


def _of_each(num_heads: int | tuple[int, ...], num_towers: int) -> tuple[int, ...]:
    each = (num_heads,) * num_towers if isinstance(num_heads, int) else tuple(num_heads)
    if len(each) != num_towers or min(each) < 1:
        raise ValueError(f"num_heads is {num_heads}; a number above 0 is due, or one for each of {num_towers} encoders")
    return each
