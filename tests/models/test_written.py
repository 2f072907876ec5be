"""What is written for other libraries, without them: what cannot be theirs, what a report tells, and nothing half written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import clip, clip_pretraining, flava, one_width, pretraining
from torch import nn

from torchflava.codebooks import DalleCodebook, fit_patches
from torchflava.codebooks.dalle_names import dalle_layout
from torchflava.encoders import beit_image_encoder
from torchflava.files import load_metadata, load_tensors
from torchflava.models import (
    Flava,
    embeddings_for_classification,
    flava_for_classification,
    load_pretrained,
    metadata_of,
    to_torchmultimodal,
    to_transformers,
)

Writer = Callable[..., Any]
WRITERS = {"transformers": to_transformers, "TorchMultimodal": to_torchmultimodal}


def beit() -> Flava:
    sizes = {"width": 22, "depth": 2, "num_heads": 2, "hidden": 23, "image_size": 15, "patch_size": 5}
    return flava(image=beit_image_encoder(**sizes))


class Tower(nn.Module):
    width = 22


@pytest.mark.parametrize("library", WRITERS)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (clip, "this is CLIP, which has no place in|this model finds a text's end by its padding"),
        (clip_pretraining, "this is CLIP, which has no place in|this model finds a text's end by its padding"),
        (
            lambda: embeddings_for_classification(3, clip(), hidden=7),
            "no classifier over embeddings|no classifier; write",
        ),
        (
            lambda: embeddings_for_classification(3, flava(), hidden=7),
            "no classifier over embeddings; write its encoders",
        ),
        (beit, "the image encoder has BEiT's blocks.*save_pretrained"),
        (
            lambda: Flava(Tower(), flava().text_encoder, flava().fusion_encoder),
            "Tower, TextEncoder, FusionEncoder: of these only",
        ),
        (
            pretraining,
            r"mmm_image's .*34.*write model.flava, or take the head out: model\.\w+ = None|all heads 34 wide.*mim",
        ),
    ],
    ids=[
        "clip",
        "clip for pretraining",
        "embeddings of clip",
        "embeddings",
        "beit",
        "another's encoder",
        "three widths",
    ],
)
def test_what_cannot_be_theirs(library: str, make: Callable[[], Any], message: str, tmp_path: Path) -> None:
    model = make()
    with pytest.raises(ValueError, match=message):
        WRITERS[library](model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("library", WRITERS)
def test_a_head_of_ones_own(library: str, tmp_path: Path) -> None:
    model = one_width()
    model.contrastive = nn.Linear(2, 3)
    with pytest.raises(ValueError, match=r"contrastive\.weight.*; write its encoders: model\.flava"):
        WRITERS[library](model, tmp_path / "out")
    model = one_width()
    model.mmm_image = type(model.mim)(24, 31)
    with pytest.raises(ValueError, match=r"one number of codes for all, here are \{'mim': 37, 'mmm_image': 31\}"):
        WRITERS[library](model, tmp_path / "out")
    model = one_width()
    model.mlm = type(model.mim)(24, 40)
    with pytest.raises(ValueError, match=r"the text encoder knows 41 words and \{'mlm': 40\}"):
        WRITERS[library](model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("library", WRITERS)
def test_codebooks_that_do_not_fit(library: str, tmp_path: Path) -> None:
    patches = fit_patches(torch.randint(0, 256, (9, 3, 12, 12), dtype=torch.uint8), num_codes=37, patch_size=4)
    with pytest.raises(ValueError, match="has DALL-E's dVAE, no codebook of patches"):
        WRITERS[library](one_width(), tmp_path / "out", codebook=patches)
    other = DalleCodebook({name: torch.zeros(shape) for name, shape in dalle_layout(8, 1, 31).items()})
    with pytest.raises(ValueError, match="'the codebook': 31"):
        WRITERS[library](one_width(), tmp_path / "out", codebook=other)
    with pytest.raises(ValueError, match="has no use for a codebook"):
        WRITERS[library](one_width().flava, tmp_path / "out", codebook=other)
    assert not list(tmp_path.iterdir())


def test_a_codebook_is_told_of_the_model_s_patches(tmp_path: Path) -> None:
    """It is convolutional: what counts is that there be a code for each patch, not the size that it was made for."""
    model = one_width()
    codebook = DalleCodebook(
        {name: torch.zeros(shape) for name, shape in dalle_layout(8, 1, 37).items()}, image_size=112
    )
    to_transformers(model, tmp_path / "out", codebook=codebook)
    image = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    side = model.flava.image_encoder.image_size // model.flava.image_encoder.embed.patch_size
    assert image["codebook_crop_size"] == image["codebook_size"] == {"height": 8 * side, "width": 8 * side}
    assert (
        f"DalleVAEEncoder(image_size={8 * side}" in to_torchmultimodal(model, tmp_path / "a.pt", codebook=codebook).load
    )


def test_a_classifier_that_torchmultimodal_has_not(tmp_path: Path) -> None:
    model = flava_for_classification(3, flava(), hidden=7)
    model.classifier = nn.Sequential(model.classifier.dense, model.classifier.decoder)
    with pytest.raises(ValueError, match=r"unknown classifier|a Sequential is another's classifier"):
        to_torchmultimodal(model, tmp_path / "out.pt")
    assert not list(tmp_path.iterdir())


def every_setting() -> nn.Module:
    """A model of which every setting is not the others' own."""
    model = one_width(gradients="local", itm_input="clean")
    flava = model.flava
    flava.text_encoder.attend_to_padding, flava.image_encoder.embed.interpolate = True, True
    model.contrastive.max_scale = 50.0
    model.mlm.norm.eps = model.mmm_text.norm.eps = 1e-3
    return model


@pytest.mark.parametrize("library", WRITERS)
def test_settings_that_cannot_be_told_are_listed_and_come_back(library: str, tmp_path: Path) -> None:
    model, target = every_setting(), tmp_path / ("out" if library == "transformers" else "out.safetensors")
    written = WRITERS[library](model, target)
    told = " ".join(f"{name} {reason}" for name, reason in written.differs.items())
    for word in (
        "attend_to_padding is (True, False)",
        "interpolate",
        "itm_input",
        "gradients",
        "max_scale",
        "head_eps",
    ):
        assert word in told, word
    assert all(file.is_file() for file in written.files)
    loaded = load_pretrained(target)
    assert loaded.layout == written.layout
    assert metadata_of(loaded.model) == metadata_of(model), "this project's own settings travel as metadata"
    file = target / "model.safetensors" if target.is_dir() else target
    assert load_metadata(file)["torchflava"] == metadata_of(model)["torchflava"]
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.model.state_dict().items())


def test_what_is_written_stays_in_its_type(tmp_path: Path) -> None:
    to_transformers(one_width().bfloat16(), tmp_path)
    assert '"dtype": "bfloat16"' in (tmp_path / "config.json").read_text()
    assert load_tensors(tmp_path)["mim_head.decoder.weight"].dtype == torch.bfloat16


def test_the_model_is_left_alone(tmp_path: Path) -> None:
    model = one_width()
    model.mim = None
    before, state = {name: t.clone() for name, t in model.state_dict().items()}, torch.get_rng_state()
    to_transformers(model, tmp_path / "a")
    to_torchmultimodal(model, tmp_path / "b.pt")
    assert torch.equal(torch.get_rng_state(), state)
    assert model.mim is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
