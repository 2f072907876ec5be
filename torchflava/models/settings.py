"""What the tensors of a model do not say: heads of attention, eps, who sees padding.

transformers has it in a `config.json`, this project in the metadata of its safetensors files (`as_metadata`); elsewhere
it is `guessed` from the sizes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from torchflava.distributed import Gather
from torchflava.models.classification import Reads
from torchflava.models.layout import Layout
from torchflava.models.pretraining import ItmInput
from torchflava.models.sizes import CLIP_TEXTS, SIZES

_KEY = "torchflava"
_MOST_CONFIG = 16 * 2**20  # bytes
_AGAIN = "fetch it again, or move the weights out of its folder"
_CHOICES = {"reads": get_args(Reads), "itm_input": get_args(ItmInput), "gradients": get_args(Gather)}


_PARTS = ("image_config", "text_config", "multimodal_config")
"""Of each encoder, in transformers' config of a whole FLAVA."""
_ALONE = {
    "flava_image_model": ("image_config", ("FlavaImageModel",)),
    "flava_text_model": ("text_config", ("FlavaTextModel",)),
    "flava_multimodal_model": ("multimodal_config", ("FlavaMultimodalModel",)),
    "vit": ("image_config", ("FlavaImageModel", "ViT")),
    "beit": ("image_config", ("BEiT", "BeitModel")),
    "data2vec-vision": ("image_config", ("BeitModel",)),
}
"""What transformers calls the models of one encoder; what their configs are within a whole model's; how layouts of their names
begin."""


class TowerSize(NamedTuple):
    """An encoder's sizes, as its tensors say them."""

    width: int
    """Of the states."""
    depth: int
    """Blocks."""
    hidden: int
    """Inside the MLPs."""


Towers = tuple[TowerSize, ...]
"""Of the image and text encoder and, in FLAVA, of the fusion encoder."""


class Settings(NamedTuple):
    """What is to be known beside the tensors."""

    num_heads: tuple[int, ...] = (12, 12, 12)
    """Of attention, in the image, text and fusion encoder; CLIP has no third."""
    eps: tuple[float, ...] = (1e-12, 1e-12, 1e-12)
    """Of the encoders' layer norms."""
    head_eps: tuple[float, float] = (1e-5, 1e-5)
    """Of the layer norms in the heads over codes, and in the heads over words."""
    attend_to_padding: tuple[bool, bool] = (False, False)
    """Whether the text encoder, and the fusion encoder, see padding."""
    pad_id: int = 0
    """The id that stands for padding."""
    end_id: int = 0
    """The id that ends each of CLIP's texts; 0 leaves it to the padding."""
    quick_gelu: bool = False
    """Whether CLIP's MLPs compute OpenAI's approximate GELU."""
    interpolate: bool = False
    """Whether the image encoder takes images of another size."""
    reads: Reads = "pair"
    """What the classifier looks at."""
    embeddings: bool = False
    """Whether it looks at the embeddings that are compared in retrieval, as CLIP's always does, and not at a class token."""
    dropout: float = 0.0
    """In the classifier."""
    itm_input: ItmInput = "masked"
    """What matching looks at."""
    gradients: Gather = "global"
    """Through whose embeddings the contrastive loss differentiates."""
    max_scale: float = 100.0
    """The greatest inverse temperature."""


def guessed(layout: Layout, towers: Towers) -> Settings:
    """Without a word on them: the heads of the named size that has these sizes, else one for every 64 of width.

    A width that is no multiple of 64 leaves 0 heads, to be given.
    """
    num_heads = tuple(0 if tower.width % 64 else tower.width // 64 for tower in towers)
    for size in SIZES.values():
        tower = TowerSize(size.width, size.depth, size.hidden)
        if towers == (tower, tower, tower._replace(depth=size.fusion_depth)):
            num_heads = (size.num_heads,) * 3
    for name, text in CLIP_TEXTS.items():
        size = SIZES[name]
        if towers == (TowerSize(size.width, size.depth, size.hidden), TowerSize(text.width, text.depth, text.hidden)):
            num_heads = (size.num_heads, text.num_heads)
    return Settings(
        num_heads,
        (layout.eps,) * len(towers),
        head_eps=(layout.head_eps, layout.head_eps),
        attend_to_padding=layout.attend_to_padding,
        dropout=layout.dropout,
    )


def from_config(layout: Layout, towers: Towers, config: Mapping[str, Any]) -> tuple[Settings, dict[str, str]]:
    """The settings in a `config.json` of transformers' FLAVA, and what in it has no counterpart here, with the reason.

    Raises:
        ValueError: if it is another model's, or asks for what this model does not have.
    """
    parts = _parts(layout, towers, config)
    ignored: dict[str, str] = {}
    for (name, part), tower in zip(parts.items(), towers, strict=True):
        usual = TowerSize(768, 6 if name == "multimodal_config" else 12, 3072)
        keys = ("hidden_size", "num_hidden_layers", "intermediate_size")
        said = TowerSize(*(part.get(key, size) for key, size in zip(keys, usual, strict=True)))
        if said != tower:
            raise ValueError(
                f"config.json's {name} says {said}, the tensors say {tower}; give those that belong together"
            )
        if part.get("hidden_act", "gelu") not in ("gelu", "gelu_python"):
            raise ValueError(f"config.json's {name} asks for {part['hidden_act']!r}; this model computes 'gelu' only")
        for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"):
            if part.get(key):
                ignored[f"{name}.{key}"] = f"is {part[key]}, the encoders of this model have no dropout"
    heads = tuple(part.get("num_attention_heads", 12) for part in parts.values())
    eps = tuple(part.get("layer_norm_eps", 1e-12) for part in parts.values())
    pad_id = parts.get("text_config", {}).get("pad_token_id") or 0
    found: dict[str, Any] = {"num_heads": heads, "eps": eps, "pad_id": pad_id}
    if len(parts) > 1:
        found["head_eps"] = eps[:2]
        found["gradients"] = "global" if config.get("global_backprop_contrastive", True) else "none"
    usual_settings = Settings((12,) * len(towers), (layout.eps,) * len(towers))
    return _checked("config.json", guessed(layout, towers)._asdict() | found, usual_settings), ignored


def read_config(file: Path) -> dict[str, Any] | None:
    """What a configuration beside weights says; None where it is not there.

    Raises:
        ValueError: if it is damaged, or no settings by name.
    """
    if not file.is_file():
        return None
    if file.stat().st_size > _MOST_CONFIG:
        raise ValueError(f"{file} is larger than any configuration; {_AGAIN}")
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({error}); {_AGAIN}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} holds a {type(config).__name__}, settings by name are due; {_AGAIN}")
    return config


def as_metadata(settings: Settings) -> dict[str, str]:
    """The metadata of a safetensors file with these settings."""
    return {_KEY: json.dumps(settings._asdict())}


def says(metadata: Mapping[str, str]) -> bool:
    """Whether a file's metadata has settings."""
    return _KEY in metadata


def from_metadata(layout: Layout, towers: Towers, metadata: Mapping[str, str]) -> Settings:
    """The settings in a file's metadata, `guessed` where there are none.

    Raises:
        ValueError: for a setting that is unknown or not of its kind.
    """
    if _KEY not in metadata:
        return guessed(layout, towers)
    try:
        said = json.loads(metadata[_KEY])
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"the metadata's {_KEY!r} is damaged ({error}); give num_heads and a file without it"
        ) from error
    if not isinstance(said, dict):
        raise ValueError(f"the metadata's {_KEY!r} is {said!r}; settings by name are due")
    usual = Settings((12,) * len(towers), (layout.eps,) * len(towers))
    return _checked("the metadata", {k: tuple(v) if isinstance(v, list) else v for k, v in said.items()}, usual)


def _parts(layout: Layout, towers: Towers, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The config of each encoder that is there, by its name in that of a whole model."""
    kind = config.get("model_type")
    if kind == "flava" and len(towers) == len(_PARTS):
        return {name: _part(config, name) for name in _PARTS}
    part, names = _ALONE.get(kind, ("", ())) if isinstance(kind, str) else ("", ())
    if layout.name.startswith(tuple(f"transformers' {name}" for name in names)):
        return {part: dict(config)}
    raise ValueError(f"config.json is of model_type {kind!r}, the tensors of {layout.name}")


def _part(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    parts = [config.get(key) or {} for key in (name, f"{name}_dict")]  # `_dict`: older versions' overrides
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"config.json's {name} is {parts[0]!r}; settings by name are due")
    return parts[0] | parts[1]


def _checked(where: str, said: Mapping[str, Any], usual: Settings) -> Settings:
    """What a file says, if it is of the kind of the usual: anyone may have written that file."""
    for name, value in said.items():
        if name not in Settings._fields:
            raise ValueError(f"{where} has a setting {name!r}; known are {', '.join(Settings._fields)}")
        if name == "max_scale" and type(value) is float and value >= 1e6:
            continue  # a temperature without a bound
        if not _alike(value, getattr(usual, name)) or value not in _CHOICES.get(name, (value,)):
            raise ValueError(f"{where} says {name} is {value!r}; something like {getattr(usual, name)!r} is due")
    return usual._replace(**said)


def _alike(value: object, usual: object) -> bool:
    if isinstance(usual, tuple):
        return isinstance(value, tuple) and len(value) == len(usual) and all(map(_alike, value, usual))
    if isinstance(usual, float):
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e6
    if type(usual) is int:
        return type(value) is int and value >= 0
    return type(value) is type(usual)
