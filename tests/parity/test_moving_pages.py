"""Every name in the tables on moving here is one of the library that it is said to be of, and of this project."""

import importlib
from collections.abc import Callable
from types import ModuleType

import pytest
import tiny
import torch
from moving import missing, names
from torch import nn

from torchflava.models import flava_for_classification
from torchflava.models.layout import Layout, to_ours
from torchflava.models.layouts_torchmultimodal import PRETRAINING as OF_TORCHMULTIMODAL
from torchflava.models.layouts_transformers import PRETRAINING as OF_TRANSFORMERS

PAGES = ("from_transformers.md", "from_torchmultimodal.md")
ROOMS = ("batch", "models", "encoders", "heads", "losses", "codebooks", "transforms", "data")


def rooms() -> list[ModuleType]:
    return [importlib.import_module(f"torchflava.{room}") for room in ROOMS]


def transformers_modules() -> list[ModuleType]:
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: pip install -e '.[parity]'"
    )
    return [transformers, importlib.import_module("transformers.models.flava.modeling_flava")]


def torchmultimodal_modules() -> list[ModuleType]:
    pytest.importorskip("torchmultimodal", reason="TorchMultimodal is not installed: see CONTRIBUTING.md")
    places = ("models.flava.model", "modules.losses.flava", "transforms.flava_transform")
    return [importlib.import_module(f"torchmultimodal.{place}") for place in places]


@pytest.mark.parametrize("page", PAGES)
def test_names_of_ours(page: str) -> None:
    model = tiny.pretraining()
    wholes = [
        model,
        model.flava,
        model.flava.image_encoder,
        flava_for_classification(3, model.flava),
        model.contrastive,
    ]
    found = [name for _, ours in names(page, tensors=False) for name in ours]
    assert len(found) > 40
    assert {name: why for name in found if (why := missing(name, rooms(), wholes))} == {}


@pytest.mark.parametrize("page", PAGES)
def test_tensors_of_ours(page: str) -> None:
    there = tiny.pretraining().state_dict()
    found = [name.replace(".N.", ".0.") for _, ours in names(page, tensors=True) for name in ours]
    assert len(found) > 15
    assert [name for name in found if name not in there] == []


@pytest.mark.parametrize(
    ("page", "modules"), [(PAGES[0], transformers_modules), (PAGES[1], torchmultimodal_modules)], ids=PAGES
)
def test_names_of_theirs(page: str, modules: Callable[[], list[ModuleType]]) -> None:
    found = [name for theirs, _ in names(page, tensors=False) for name in theirs]
    places = modules()
    assert len(found) > 40
    assert {name: why for name in found if (why := missing(name, places))} == {}


def of_transformers() -> nn.Module:
    (transformers, _) = transformers_modules()
    tower = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 7}
    config = transformers.FlavaConfig(
        image_config=tower | {"image_size": 10, "patch_size": 5, "vocab_size": 11},
        text_config=tower | {"vocab_size": 13, "max_position_embeddings": 6},
        multimodal_config=tower,
        hidden_size=8,
        projection_dim=5,
        init_codebook=False,
    )
    return transformers.FlavaForPreTraining(config)


def of_torchmultimodal() -> nn.Module:
    model, losses, _ = torchmultimodal_modules()
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 7}
    told = {f"{part}_{name}": size for part in ("image", "text", "multimodal") for name, size in sizes.items()}
    told |= {"image_size": 10, "patch_size": 5, "vocab_size": 13, "max_position_embeddings": 6}
    loss = losses.FLAVAPretrainingLoss(hidden_size=8, text_vocab_size=13, image_vocab_size=11)
    return model.FLAVAForPreTraining(model.flava_model(**told, text_and_image_proj_size=5), nn.Identity(), loss)


@pytest.mark.parametrize(
    ("page", "build", "layout"),
    [(PAGES[0], of_transformers, OF_TRANSFORMERS), (PAGES[1], of_torchmultimodal, OF_TORCHMULTIMODAL)],
    ids=PAGES,
)
def test_a_tensor_of_theirs_is_the_one_of_ours_beside_it(
    page: str, build: Callable[[], nn.Module], layout: Layout
) -> None:
    """Their tensors, marked one at a time, arrive where the page says, and nowhere else."""
    state = build().state_dict()
    zeros = {name: torch.zeros_like(tensor, dtype=torch.float32) for name, tensor in state.items()}
    for theirs, ours in names(page, tensors=True):
        marked = dict(zeros)
        for name in theirs:
            marked[name.replace(".N.", ".0.")] = torch.ones_like(marked[name.replace(".N.", ".0.")])
        arrived, _ = to_ours(layout, marked)
        assert [name for name, tensor in arrived.items() if tensor.any()] == [n.replace(".N.", ".0.") for n in ours]
        assert all(arrived[name.replace(".N.", ".0.")].all() for name in ours)


def test_a_name_that_is_not_there_is_seen() -> None:
    model = tiny.pretraining()
    assert missing("flava_model(image_size)", rooms()) == ""
    assert missing("flava_modl", rooms()) != ""
    assert missing("flava_model(imagesize)", rooms()) == "flava_model takes no imagesize"
    assert missing("Flava.embed_picture", rooms(), [model.flava]) == "Flava has no embed_picture"
    assert missing("FlavaForPreTraining.mim", rooms(), [model]) == ""
    assert missing("PairBatch.pixels", rooms()) == ""
    assert missing("PairBatch.pictures", rooms()) == "PairBatch has no pictures"
