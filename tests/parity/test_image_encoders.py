"""Image encoders begun from timm's and transformers' weights: the same states on the same pixels, at random weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from agree import assert_close
from tiny import stirred
from torch import Tensor, nn

from torchflava.encoders import ImageEncoder, beit_image_encoder, flava_image_encoder
from torchflava.files import save_tensors
from torchflava.models import first_weights, load_pretrained

timm = pytest.importorskip("timm", reason="timm is not installed: pip install '.[parity]'")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[parity]'")

SIZES = {"width": 24, "depth": 2, "num_heads": 2, "hidden": 48, "image_size": 32, "patch_size": 8}
THEIRS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "mlp_ratio": 2}
PIXELS = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def begun(encoder: ImageEncoder, file: Path, *, made: set[str]) -> ImageEncoder:
    """The encoder with the file's weights, everything else at values that would show."""
    stirred(encoder)
    first = first_weights(file, encoder, "image_encoder")
    assert set(first.made) == made
    missing = encoder.load_state_dict(first.state, strict=False).missing_keys
    assert set(missing) == made - {"embed.positions"}  # which begin at 0 where there are none
    return encoder.eval()


def test_dinos_vit(tmp_path: Path) -> None:
    theirs = stirred(timm.create_model("vit_base_patch16_224.dino", num_classes=0, **THEIRS)).eval()
    torch.save(theirs.state_dict(), tmp_path / "dino_vitbase16_pretrain.pth")
    ours = begun(
        flava_image_encoder(**SIZES, eps=1e-6), tmp_path / "dino_vitbase16_pretrain.pth", made={"embed.mask_token"}
    )
    assert_close(ours(PIXELS).normed, theirs.forward_features(PIXELS), "the states")


NORM = {"norm.weight", "norm.bias"}
TABLES = {f"trunk.blocks.{i}.attention.positions" for i in range(2)}


@pytest.mark.parametrize(
    ("options", "made"),
    [
        ({}, {"embed.mask_token", "embed.positions"} | NORM),
        ({"use_shared_rel_pos_bias": True, "use_rel_pos_bias": False}, {"embed.mask_token", "embed.positions"} | NORM),
        ({"use_abs_pos_emb": True, "use_fc_norm": False, "global_pool": "token"}, {"embed.mask_token"}),
    ],
    ids=["as released", "one table for all blocks", "with positions and a last norm"],
)
def test_timms_beit(options: dict[str, Any], made: set[str], tmp_path: Path) -> None:
    theirs = stirred(timm.create_model("beit_base_patch16_224", **THEIRS | options)).eval()
    save_tensors(tmp_path / "model.safetensors", theirs.state_dict())
    ours = begun(beit_image_encoder(**SIZES, eps=1e-6), tmp_path, made=made)
    states = ours(PIXELS).hidden if made >= NORM else ours(PIXELS).normed
    assert_close(states, theirs.forward_features(PIXELS), "the states")


def beit(whole: str, **options: Any) -> nn.Module:
    usual = {"use_mask_token": True, "use_relative_position_bias": True, "vocab_size": 16, "drop_path_rate": 0.0}
    config = (transformers.BeitConfig if whole.startswith("Beit") else transformers.Data2VecVisionConfig)(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8,
        **usual | options,
    )  # fmt: skip
    return stirred(getattr(transformers, whole)(config)).eval()


@pytest.mark.parametrize("where", ["in its files", "in memory"])
@pytest.mark.parametrize(
    ("whole", "options"),
    [
        ("BeitForMaskedImageModeling", {}),
        ("BeitModel", {"use_mean_pooling": False}),
        ("BeitModel", {"use_shared_relative_position_bias": True, "use_relative_position_bias": False}),
        ("BeitModel", {"use_absolute_position_embeddings": True}),
    ],
)
def test_transformers_beit(whole: str, options: dict[str, Any], where: str, tmp_path: Path) -> None:
    theirs = beit(whole, **options)
    if where == "in its files":
        theirs.save_pretrained(tmp_path)
    else:
        save_tensors(tmp_path / "model.safetensors", theirs.state_dict())
    made = set() if "use_absolute_position_embeddings" in options else {"embed.positions"}
    made |= NORM if whole == "BeitModel" and options.get("use_mean_pooling", True) else set()
    ours = begun(beit_image_encoder(**SIZES, eps=theirs.config.layer_norm_eps), tmp_path, made=made)
    masked = torch.rand(3, 16, generator=torch.Generator().manual_seed(6)) < 0.4
    inner = theirs.beit if whole == "BeitForMaskedImageModeling" else theirs
    hidden: Tensor = inner(PIXELS, bool_masked_pos=masked, output_hidden_states=True).hidden_states[-1]
    assert_close(ours(PIXELS, masked).hidden, hidden, "the states")


@torch.no_grad()
def test_their_files_are_image_encoders(tmp_path: Path) -> None:
    """Without an encoder of ours to put them into: sizes, heads, eps and grid are read off the file."""
    shared = {"use_shared_rel_pos_bias": True, "use_rel_pos_bias": False}
    for name, options, num_heads in (("vit_base_patch16_224.dino", {}, 2), ("beit_base_patch16_224", shared, None)):
        theirs = stirred(timm.create_model(name, num_classes=0, **THEIRS | options)).eval()
        torch.save(theirs.state_dict(), tmp_path / "weights.pth")
        loaded = load_pretrained(tmp_path / "weights.pth", num_heads=num_heads)
        assert isinstance(loaded.model, ImageEncoder)
        lacks_norm = "image_encoder.norm.weight" in loaded.made
        states = loaded.model(PIXELS).hidden if lacks_norm else loaded.model(PIXELS).normed
        assert_close(states, theirs.forward_features(PIXELS), name)
    theirs = beit("BeitModel", use_mean_pooling=False)
    theirs.save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path)
    assert loaded.layout.startswith("transformers' Beit")
    masked = torch.rand(3, 16, generator=torch.Generator().manual_seed(6)) < 0.4
    expected = theirs(PIXELS, bool_masked_pos=masked).last_hidden_state
    assert_close(loaded.model(PIXELS, masked).normed, expected, "BeitModel")
    assert loaded.made == {"image_encoder.embed.positions": "0: it knew relative positions only"}


VIT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}


@torch.no_grad()
@pytest.mark.parametrize("where", ["in its files", "in memory"])
@pytest.mark.parametrize(
    ("whole", "left_out"),
    [
        ("ViTModel", {"pooler.dense.weight", "pooler.dense.bias"}),
        ("ViTForImageClassification", {"classifier.weight", "classifier.bias"}),
        ("ViTForMaskedImageModeling", {"decoder.0.weight", "decoder.0.bias"}),
    ],
)
def test_transformers_vit_is_an_image_encoder(whole: str, left_out: set[str], where: str, tmp_path: Path) -> None:
    """As DINO's and ImageNet's weights lie on the Hub: sizes in the tensors, heads and eps in a config of a ViT's."""
    config = transformers.ViTConfig(**VIT, image_size=32, patch_size=8, layer_norm_eps=1e-3, num_labels=5)
    theirs = stirred(getattr(transformers, whole)(config)).eval()
    theirs.save_pretrained(tmp_path)
    if where == "in memory":  # as whoever saves a state dict has it
        save_tensors(tmp_path / "model.safetensors", theirs.state_dict())
    loaded = load_pretrained(tmp_path)
    assert isinstance(loaded.model, ImageEncoder)
    assert (loaded.settings.num_heads, loaded.settings.eps) == ((3,), (1e-3,))
    assert loaded.unused.keys() == left_out
    assert loaded.made.keys() == (set() if "Masked" in whole else {"image_encoder.embed.mask_token"})
    inner = theirs if whole == "ViTModel" else theirs.vit
    assert_close(loaded.model(PIXELS).normed, inner(PIXELS).last_hidden_state, "states")
    if whole == "ViTForImageClassification":
        logits = theirs.classifier(loaded.model(PIXELS).normed[:, 0])
        assert_close(logits, theirs(PIXELS).logits, "logits on the class token")
    first = first_weights(tmp_path, flava_image_encoder(**SIZES | {"num_heads": 3}), "image_encoder")
    assert first.unused.keys() == left_out
    assert torch.equal(first.state["norm.weight"], inner.layernorm.weight)
    with pytest.raises(ValueError, match=r"has 3 heads in its image_encoder, this one has 2; make them equal"):
        first_weights(tmp_path, flava_image_encoder(**SIZES), "image_encoder")
    (tmp_path / "config.json").unlink()
    first_weights(tmp_path, flava_image_encoder(**SIZES), "image_encoder")  # the tensors do not tell


@torch.no_grad()
@pytest.mark.parametrize(
    ("whole", "options"),
    [
        ("BeitModel", {"use_mean_pooling": False}),
        ("BeitForImageClassification", {"use_mean_pooling": False}),
        ("BeitModel", {"use_absolute_position_embeddings": True, "use_relative_position_bias": False}),
        ("Data2VecVisionModel", {"drop_path_rate": 0.1}),
    ],
)
def test_the_config_beside_a_beit_is_heeded(whole: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Its eps, and its heads where no table of biases tells them."""
    theirs = beit(whole, layer_norm_eps=1e-2, **{"use_mean_pooling": False} | options)
    theirs.save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path)
    assert (loaded.settings.num_heads, loaded.settings.eps) == ((2,), (1e-2,))
    inner = theirs if whole.endswith("Model") else theirs.beit
    assert_close(loaded.model(PIXELS).normed, inner(PIXELS).last_hidden_state, "states")
    assert not [name for name in loaded.unused if "layernorm" in name]
    assert ("config.json: image_config.drop_path_rate" in loaded.unused) == ("drop_path_rate" in options)
    (tmp_path / "config.json").unlink()
    unsaid = load_pretrained(tmp_path, num_heads=2)
    assert unsaid.settings.eps == (1e-12,)
    assert not torch.allclose(unsaid.model(PIXELS).normed, loaded.model(PIXELS).normed, atol=1e-4)


def test_a_config_of_another_model_beside_them_is_refused(tmp_path: Path) -> None:
    theirs = beit("BeitModel", use_mean_pooling=False)
    theirs.save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    for change, told in (
        ({"model_type": "vit"}, r"config.json is of model_type 'vit', the tensors of transformers' BeitModel"),
        ({"hidden_act": "relu"}, r"asks for 'relu'"),
        ({"num_attention_heads": 4}, r"attention.positions"),
        ({"intermediate_size": 96}, r"hidden=96.*hidden=48"),
        ({"layer_norm_eps": "small"}, r"eps is \('small',\)"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(said | change))
        with pytest.raises(ValueError, match=told):
            load_pretrained(tmp_path)
