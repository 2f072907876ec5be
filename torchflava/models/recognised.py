"""All layouts that can be read, and what a file says beyond its tensors: in its metadata, or in the `config.json` beside it."""

from pathlib import Path
from typing import Any

from torchflava.files import load_metadata
from torchflava.models import (
    layouts_clip_others,
    layouts_fair,
    layouts_own,
    layouts_torchmultimodal,
    layouts_towers,
    layouts_transformers,
    layouts_vit,
)
from torchflava.models.clip_files import clip_settings_in
from torchflava.models.layout import Layout
from torchflava.models.settings import Settings, Towers, from_config, from_metadata, guessed, read_config, says

LAYOUTS = (
    *layouts_own.LAYOUTS,
    *layouts_transformers.LAYOUTS,
    *layouts_torchmultimodal.LAYOUTS,
    *layouts_fair.LAYOUTS,
    *layouts_clip_others.LAYOUTS,
)
"""Of whole models."""
ENCODERS = (*layouts_towers.LAYOUTS, *layouts_vit.LAYOUTS)
"""Of one encoder by itself."""

_WITH_CONFIG = ("model.safetensors", "pytorch_model.bin")
_CONFIGURED = (*layouts_transformers.LAYOUTS, *layouts_towers.TRANSFORMERS, *layouts_vit.TRANSFORMERS)
_METADATA = (*layouts_own.LAYOUTS, *layouts_towers.OWN)


def settings_in(
    path: Path, layout: Layout, towers: Towers, *, heads: int | None = None
) -> tuple[Settings, dict[str, str]]:
    """What a file, or the config beside it, says beyond its tensors; and what of it has no counterpart here.

    `heads` is how many an encoder by itself has, as far as its tensors tell, for a file that does not say.
    """
    if layout in layouts_clip_others.LAYOUTS:
        return clip_settings_in(path, layout, towers)
    metadata = load_metadata(path)
    if layout in _METADATA or says(metadata):  # which this project also puts into what it writes for others
        return from_metadata(layout, towers, metadata), {}
    config = _config(path) if layout in _CONFIGURED else None
    if config is None:
        settings = guessed(layout, towers)
        return (settings if heads is None else settings._replace(num_heads=(heads,))), {}
    settings, ignored = from_config(layout, towers, config)
    return settings, {f"config.json: {name}": reason for name, reason in ignored.items()}


def _config(path: Path) -> dict[str, Any] | None:
    """The `config.json` in a folder, or beside a file of the name that it has in such a folder."""
    if path.is_file() and path.name.removesuffix(".index.json") not in _WITH_CONFIG:
        return None
    return read_config((path if path.is_dir() else path.parent) / "config.json")
