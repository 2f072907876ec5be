"""What others' files of CLIP say beyond their tensors: transformers' `config.json`, open_clip's `open_clip_config.json`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torchflava.files import load_metadata
from torchflava.models.layout import Layout
from torchflava.models.layouts_clip_others import GREATEST, OPEN_CLIP, OPEN_CLIP_BARE, OPENAI, QUICK
from torchflava.models.settings import Settings, Towers, TowerSize, from_metadata, guessed, read_config, says
from torchflava.zipped import names_in

OPEN_CLIP_CONFIG = "open_clip_config.json"
"""What open_clip's configuration is called beside its weights."""

_GELU = {"quick_gelu": True, "gelu": False, "gelu_python": False}
_IN_BOTH: dict[str, Any] = {
    "ls_init_value": None, "final_ln_after_pool": False, "act_kwargs": None, "block_type": None, "qk_norm": False,
    "scaled_cosine_attn": False, "scale_heads": False, "scale_attn_inner": False, "scale_attn": False, "scale_fc": False,
}  # fmt: skip
_USUAL_IMAGE = _IN_BOTH | {
    "patch_dropout": 0.0, "attentional_pool": False, "pool_type": "tok", "no_ln_pre": False, "pos_embed_type": "learnable",
    "input_patchnorm": False, "global_average_pool": False, "timm_model_name": None,
}  # fmt: skip
_USUAL_TEXT = _IN_BOTH | {
    "hf_model_name": None, "embed_cls": False, "no_causal_mask": False, "proj_type": "linear", "proj_bias": False,
    "correct_cls_mask": False, "use_pad_mask": False,
}  # fmt: skip
"""What open_clip's configuration may ask for and this model has as it is here alone."""


def check_not_scripted(path: Path) -> None:
    """Refuse a TorchScript archive, as OpenAI hands its CLIP on: it is code, and only tensors are read.

    Raises:
        ValueError: if the file is one.
    """
    if path.is_file() and "constants.pkl" in names_in(path):
        raise ValueError(
            f"{path} is a TorchScript archive, which is code; if you trust it, take the tensors out of it: "
            "safetensors.torch.save_file({k: v.contiguous() for k, v in "
            "torch.jit.load(path, map_location='cpu').state_dict().items()}, 'ViT-B-16.safetensors'), or load "
            "'openai/clip-vit-base-patch16' or another of these names from the Hub"
        )


def clip_settings_in(path: Path, layout: Layout, towers: Towers) -> tuple[Settings, dict[str, str]]:
    """What a file of others' CLIP, or the config beside it, says beyond its tensors; and what of it has no counterpart here.

    Raises:
        ValueError: for a config that is damaged, of other sizes, or of a CLIP that this model cannot be.
    """
    folder = path if path.is_dir() else path.parent
    metadata = load_metadata(path)
    if says(metadata):
        return from_metadata(layout, towers, metadata), {}
    settings = guessed(layout, towers)._replace(quick_gelu=layout in QUICK, end_id=GREATEST)
    if layout in (OPEN_CLIP, OPEN_CLIP_BARE, OPENAI):
        config = read_config(folder / OPEN_CLIP_CONFIG)
        return (settings, {}) if config is None else _of_open_clip(settings, towers, config)
    config = read_config(folder / "config.json")
    return (settings, {}) if config is None else _of_transformers(settings, towers, config)


def _of_transformers(settings: Settings, towers: Towers, config: Mapping[str, Any]) -> tuple[Settings, dict[str, str]]:
    if config.get("model_type") != "clip":
        raise ValueError(f"config.json is of model_type {config.get('model_type')!r}, the tensors are of CLIP")
    image, text = (_part(config, name) for name in ("vision_config", "text_config"))
    for name, part, tower, width in (("vision_config", image, towers[0], 768), ("text_config", text, towers[1], 512)):
        keys = zip(("hidden_size", "num_hidden_layers", "intermediate_size"), (width, 12, 4 * width), strict=True)
        _agree(f"config.json's {name}", TowerSize(*(part.get(key, usual) for key, usual in keys)), tower)
    quick = {part.get("hidden_act", "quick_gelu") for part in (image, text)}
    if len(quick) != 1 or not quick <= _GELU.keys():
        raise ValueError(
            f"config.json asks for {', '.join(map(str, quick))}; one of {', '.join(_GELU)} for both is due"
        )
    end_id = text.get("eos_token_id", 49407)
    found = {
        "num_heads": (image.get("num_attention_heads", 12), text.get("num_attention_heads", 8)),
        "eps": (image.get("layer_norm_eps", 1e-5), text.get("layer_norm_eps", 1e-5)),
        "quick_gelu": _GELU[quick.pop()],
        "end_id": GREATEST if end_id in (None, 2) else end_id,  # 2 stands in old configs, and means the greatest id
    }
    ignored = {
        f"config.json: {name}.attention_dropout": f"is {part['attention_dropout']}, the encoders here have no dropout"
        for name, part in (("vision_config", image), ("text_config", text))
        if part.get("attention_dropout")
    }
    return _checked("config.json", settings, found), ignored


def _of_open_clip(settings: Settings, towers: Towers, config: Mapping[str, Any]) -> tuple[Settings, dict[str, str]]:
    model = _part(config, "model_cfg")
    image, text = _part(model, "vision_cfg"), _part(model, "text_cfg")
    for name, part, usual in (("vision_cfg", image, _USUAL_IMAGE), ("text_cfg", text, _USUAL_TEXT)):
        for key, value in part.items():
            if key in usual and value != usual[key]:
                raise ValueError(
                    f"{OPEN_CLIP_CONFIG}'s {name} asks for {key} = {value!r}, which this model does not have"
                )
    for name, part, tower in (("vision_cfg", image, towers[0]), ("text_cfg", text, towers[1])):
        width = part.get("width", tower.width)
        said = TowerSize(width, part.get("layers", tower.depth), tower.hidden)
        _agree(f"{OPEN_CLIP_CONFIG}'s {name}", said, tower)
    width, head = image.get("width", towers[0].width), image.get("head_width", 64)
    if type(head) is not int or head < 1:
        raise ValueError(f"{OPEN_CLIP_CONFIG}'s head_width is {head!r}; a number above 0 is due")
    pool = text.get("pool_type", "argmax")
    if pool not in ("argmax", "eos"):
        raise ValueError(f"{OPEN_CLIP_CONFIG} asks for pool_type = {pool!r}; texts are read at their end here")
    found = {
        "num_heads": (width // head, text.get("heads", 8)),
        "eps": tuple(_part(part, "norm_kwargs").get("eps", 1e-5) for part in (image, text)),
        "quick_gelu": model.get("quick_gelu", False),
        "end_id": text.get("eos_id", 2) if pool == "eos" else GREATEST,
    }
    return _checked(OPEN_CLIP_CONFIG, settings, found), dict(_ignored(config))


def _ignored(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    usual = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
    preprocess = config.get("preprocess_cfg")
    for name, values in usual.items():
        said = preprocess.get(name, values) if isinstance(preprocess, dict) else values
        if said != values and list(said) != values:
            yield (
                f"{OPEN_CLIP_CONFIG}: preprocess_cfg.{name}",
                f"is {said}, and images are normalised with OpenAI's here (`transforms.normalise`); normalise them yourself",
            )


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    parts = [config.get(key) or {} for key in (name, f"{name}_dict")]  # `_dict`: transformers' older versions
    if not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"the configuration's {name} is {parts[0]!r}; settings by name are due")
    return parts[0] | parts[1]


def _agree(what: str, said: TowerSize, tower: TowerSize) -> None:
    if said != tower:
        raise ValueError(f"{what} says {said}, the tensors say {tower}; give those that belong together")


def _checked(where: str, settings: Settings, found: Mapping[str, Any]) -> Settings:
    right = all(type(count) is int and count > 0 for count in found["num_heads"])
    right &= all(type(eps) in (int, float) and 0 < eps < 1 for eps in found["eps"])
    if not right or type(found["quick_gelu"]) is not bool or type(found["end_id"]) is not int:
        raise ValueError(f"{where} says {dict(found)}; numbers of heads, small eps and a whole number as an id are due")
    return settings._replace(**found)
