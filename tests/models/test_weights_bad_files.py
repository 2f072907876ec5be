"""Damaged, half-renamed, foreign and hostile files: a ValueError that names the key or the reason."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import flava, pretraining
from torch import Tensor

from torchflava.files import save_tensors
from torchflava.models import from_pretrained, layouts_torchmultimodal, layouts_transformers, save_pretrained
from torchflava.models.layout import to_theirs

ENCODERS, WHOLE = flava().state_dict(), pretraining().state_dict()
FILES: dict[str, dict[str, Tensor]] = {
    layout.name: to_theirs(layout, state)
    for layout, state in (
        (layouts_transformers.PRETRAINING, WHOLE),
        (layouts_transformers.MODEL, ENCODERS),
        (layouts_torchmultimodal.PRETRAINING, WHOLE),
        (layouts_torchmultimodal.MODEL, ENCODERS),
    )
} | {"torchflava's Flava": dict(ENCODERS)}
TRANSFORMERS = FILES["transformers' FlavaModel"]
PER_FILE = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def load(tensors: dict[str, Tensor], folder: Path) -> None:
    file = folder / f"{os.urandom(4).hex()}.safetensors"
    save_tensors(file, tensors)
    from_pretrained(file, num_heads=2)


@PER_FILE
@given(data=st.data(), name=st.sampled_from(sorted(FILES)))
def test_a_key_that_is_missing_is_named(data: st.DataObject, name: str, tmp_path: Path) -> None:
    whole = FILES[name]
    dropped = data.draw(st.sets(st.sampled_from(sorted(whole)), min_size=1, max_size=12))
    with pytest.raises(ValueError, match=f"a file of {name} that lacks ") as caught:
        load({key: tensor for key, tensor in whole.items() if key not in dropped}, tmp_path)
    assert all(key in str(caught.value) for key in dropped) or len(dropped) == 12


@PER_FILE
@given(data=st.data(), name=st.sampled_from(sorted(FILES)), suffix=st.sampled_from([".old", "_1", ".weight"]))
def test_keys_that_were_renamed_are_named(data: st.DataObject, name: str, suffix: str, tmp_path: Path) -> None:
    whole = FILES[name]
    renamed = data.draw(st.sets(st.sampled_from(sorted(whole)), min_size=1, max_size=5))
    with pytest.raises(ValueError, match=f"a file of {name} that lacks ") as caught:
        load({key + suffix * (key in renamed): tensor for key, tensor in whole.items()}, tmp_path)
    assert all(f"{key}{suffix}" in str(caught.value).replace(";", ",").split("unknown")[1] for key in renamed)


@PER_FILE
@given(data=st.data(), name=st.sampled_from(sorted(FILES)))
def test_half_a_file_in_another_librarys_names(data: st.DataObject, name: str, tmp_path: Path) -> None:
    other = data.draw(st.sampled_from(sorted(set(FILES) - {name})))
    keys = data.draw(st.sets(st.sampled_from(sorted(FILES[name])), min_size=len(FILES[name]) // 2))
    half = {key: FILES[name][key] for key in keys if len(keys) < len(FILES[name])}
    with pytest.raises(ValueError, match=r"lacks|unknown"):
        load(FILES[other] | half | {"more": torch.zeros(1)}, tmp_path)


@PER_FILE
@given(cut=st.floats(0, 0.999))
def test_a_file_cut_short(cut: float, tmp_path: Path) -> None:
    save_pretrained(flava(), tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: int(len(whole) * cut)])
    with pytest.raises(ValueError, match=r"cut\.safetensors"):
        from_pretrained(tmp_path / "cut.safetensors")


def changed(key: str, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return TRANSFORMERS | {key: change(TRANSFORMERS[key])}


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("text_model.encoder.layer.0.attention.attention.key.weight", lambda x: x[1:], r"attention\.key\.weight"),
        ("text_model.encoder.layer.1.attention.output.dense.weight", lambda x: x[1:], r"blocks\.1\.attention\.out"),
        ("image_model.embeddings.position_embeddings", lambda x: x[:, 1:], "8 patches, which are no square grid"),
        ("image_model.embeddings.position_embeddings", lambda x: x[:, :1], "0 patches, which are no square grid"),
        ("image_model.embeddings.position_embeddings", lambda x: x[0], "positions is .* 3 dimensions"),
        ("image_model.embeddings.patch_embeddings.projection.weight", lambda x: x[:, 1:], "patches of 2 channels"),
        ("image_model.embeddings.patch_embeddings.projection.weight", lambda x: x[..., 1:], "5 x 4 patches"),
        ("multimodal_model.cls_token", lambda x: x[..., 1:], r"fusion_encoder\.cls_token"),
        ("multimodal_model.encoder.layer.0.intermediate.dense.weight", lambda x: x[0], "2 dimensions"),
        ("text_projection.weight", lambda x: x[1:], r"text_projection\.weight"),
        ("text_projection.weight", lambda x: x.long(), r"text_projection\.weight is torch\.int64; weights in floating"),
        ("layernorm", lambda x: x, "unknown layernorm"),
    ],
)
def test_shapes_and_kinds_that_do_not_fit_are_named(
    key: str, change: Callable[[Tensor], Tensor], message: str, tmp_path: Path
) -> None:
    tensors = changed(key, change) if key in TRANSFORMERS else TRANSFORMERS | {key: torch.zeros(2)}
    with pytest.raises(ValueError, match=message):
        load(tensors, tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["vision_model.embeddings.class_embedding", "logit_scale"],
        ["fc.weight", "fc.bias", "layer1.0.conv1.weight"],
        ["image_codebook.blocks.input.weight"],
        [f"module.{name}" for name in TRANSFORMERS],
    ],
    ids=["clip", "resnet", "codebook", "wrapped"],
)
def test_an_unknown_layout_says_what_is_there_and_what_is_known(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"unknown layout: there is .*; known are torchflava's Flava, .*TorchMultimodal"
    ):
        load({name: torch.zeros(2) for name in names}, tmp_path)


def test_a_block_beyond_all_reason(tmp_path: Path) -> None:
    extra = {"text_model.encoder.layer.9999.layernorm_before.weight": torch.zeros(26)}
    with pytest.raises(ValueError, match=r"layer\.2\.layernorm_before\.weight.*unknown .*layer\.9999"):
        load(TRANSFORMERS | extra, tmp_path)


SIZES = {
    "image_config": {"hidden_size": 22, "num_hidden_layers": 2, "intermediate_size": 23, "num_attention_heads": 2},
    "text_config": {"hidden_size": 26, "num_hidden_layers": 2, "intermediate_size": 29, "num_attention_heads": 2},
    "multimodal_config": {"hidden_size": 34, "num_hidden_layers": 1, "intermediate_size": 31, "num_attention_heads": 2},
}
CONFIG = {"model_type": "flava", **SIZES}


def folder_with(text: str, folder: Path) -> Path:
    save_tensors(folder / "model.safetensors", TRANSFORMERS)
    (folder / "config.json").write_text(text)
    return folder


def test_a_config_that_fits(tmp_path: Path) -> None:
    assert from_pretrained(folder_with(json.dumps(CONFIG), tmp_path)).embed_dim == 19


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "clip"}, "config.json is of model_type 'clip'"),
        ({"image_config": SIZES["image_config"] | {"hidden_size": 24}}, r"image_config says .*24.* the tensors say"),
        ({"multimodal_config": {}}, r"multimodal_config says .*width=768.* the tensors say .*width=34"),
        ({"text_config": SIZES["text_config"] | {"hidden_act": "relu"}}, "text_config asks for 'relu'"),
        ({"text_config": SIZES["text_config"] | {"num_attention_heads": "2"}}, "num_heads is .*'2'"),
        ({"text_config": SIZES["text_config"] | {"layer_norm_eps": None}}, "eps is .*None"),
        ({"text_config": 7}, "text_config is 7"),
    ],
)
def test_a_config_that_does_not_fit(change: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        from_pretrained(folder_with(json.dumps(CONFIG | change), tmp_path))


@pytest.mark.parametrize(
    ("text", "message"), [("{", r"config\.json is damaged"), ("[1]", r"config\.json holds a list")]
)
def test_a_config_that_is_none(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        from_pretrained(folder_with(text, tmp_path))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{", "the metadata's 'torchflava' is damaged"),
        ("3", "the metadata's 'torchflava' is 3"),
        ('{"heads": 2}', "the metadata has a setting 'heads'; known are num_heads, "),
        ('{"num_heads": [2, 2]}', r"num_heads is \(2, 2\); something like \(12, 12, 12\) is due"),
        ('{"num_heads": [2, 2, true]}', "num_heads is"),
        ('{"attend_to_padding": true}', "attend_to_padding is True"),
        ('{"reads": "both"}', "reads is 'both'"),
        ('{"reads": ["pair"]}', "reads is"),
    ],
)
def test_metadata_that_is_damaged(metadata: str, message: str, tmp_path: Path) -> None:
    save_tensors(tmp_path / "f.safetensors", ENCODERS, {"torchflava": metadata})
    with pytest.raises(ValueError, match=message):
        from_pretrained(tmp_path / "f.safetensors")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "write", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))], ids=["torch", "pickle"]
)
def test_a_pickle_is_refused_and_not_run(write: Callable[[object, Path], object], tmp_path: Path) -> None:
    write(TRANSFORMERS | {"bomb": Bomb(tmp_path / "exploded")}, tmp_path / "f.pt")
    with pytest.raises(ValueError, match=r"f\.pt"):
        from_pretrained(tmp_path / "f.pt")
    assert not (tmp_path / "exploded").exists()
