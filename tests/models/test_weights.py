"""Weights in and out: this project's own files, what is read off tensors, what is assumed, and the options."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import IMAGE_SIZE, batch_of, clip, flava, image_encoder, pretraining, stirred
from torch import Tensor, nn

from torchflava.files import save_tensors
from torchflava.layers import QuickMlp, resize_positions
from torchflava.models import (
    SIZES,
    Clip,
    EmbeddingsForClassification,
    Flava,
    FlavaForClassification,
    FlavaForPreTraining,
    embeddings_for_classification,
    flava_for_classification,
    flava_for_pretraining,
    flava_model,
    from_pretrained,
    layouts_torchmultimodal,
    layouts_transformers,
    load_pretrained,
    metadata_of,
    save_pretrained,
)
from torchflava.models.layout import Layout, to_theirs
from torchflava.models.layouts_own import MODEL
from torchflava.models.settings import Settings, TowerSize, guessed


def same(ours: nn.Module, other: nn.Module) -> bool:
    """Whether two models have the same tensors."""
    mine, others = ours.state_dict(), other.state_dict()
    return mine.keys() == others.keys() and all(torch.equal(tensor, others[name]) for name, tensor in mine.items())


def means(model: nn.Module, kind: str) -> dict[str, Tensor]:
    with torch.no_grad():
        return {name: loss.mean for name, loss in model(batch_of(kind)).items()}


@pytest.mark.parametrize("kind", ["image", "text", "pair"])
def test_a_saved_model_comes_back_as_it_was(tmp_path: Path, kind: str) -> None:
    model = pretraining(itm_input="clean", gradients="local", parts={"image": image_encoder(interpolate=True)})
    model.flava.fusion_encoder.attend_to_padding = True
    model.mim.norm.eps = model.mmm_image.norm.eps = 1e-3
    save_pretrained(model, tmp_path / "flava.safetensors")
    loaded = load_pretrained(tmp_path / "flava.safetensors")
    assert isinstance(loaded.model, FlavaForPreTraining)
    assert same(model, loaded.model)
    assert means(model, kind) == means(loaded.model, kind)
    assert not loaded.unused
    assert metadata_of(loaded.model) == metadata_of(model)
    assert loaded.settings == Settings(
        (2, 2, 2),
        head_eps=(1e-3, 1e-5),
        attend_to_padding=(False, True),
        interpolate=True,
        itm_input="clean",
        gradients="local",
    )


def test_every_setting_comes_back(tmp_path: Path) -> None:
    """Each field, set to what is not its default, in a model of the kind that has it."""
    model = pretraining(itm_input="clean", gradients="none", parts={"image": image_encoder(interpolate=True)})
    text, fusion = model.flava.text_encoder, model.flava.fusion_encoder
    text.pad_id, text.attend_to_padding, fusion.attend_to_padding = 3, True, True
    model.contrastive.max_scale = 50.0
    for part, eps in ((model.flava.image_encoder, 1e-6), (model.mim, 1e-7), (model.mmm_image, 1e-7)):
        part.norm.eps = eps
    classifier = flava_for_classification(5, flava(), reads="text", hidden=7, dropout=0.3)
    changed = {}
    compared = embeddings_for_classification(5, flava(), hidden=7)
    quick = clip(end_id=7)
    for block in (*quick.image_encoder.trunk.blocks, *quick.text_encoder.trunk.blocks):
        block.mlp = QuickMlp(block.mlp.up.in_features, block.mlp.up.out_features)
    for i, each in enumerate((model, classifier, compared, quick)):
        save_pretrained(each, tmp_path / f"{i}.safetensors")
        found = load_pretrained(tmp_path / f"{i}.safetensors").settings._asdict()
        changed |= {name: value for name, value in found.items() if value != getattr(Settings(), name)}
    assert changed.keys() == set(Settings._fields)
    assert changed["max_scale"] == 50.0
    assert (changed["end_id"], changed["quick_gelu"]) == (7, True)
    assert changed["reads"] == "text"


@pytest.mark.parametrize("most", [1e7, float("inf")])
def test_a_temperature_of_any_bound_comes_back(most: float, tmp_path: Path) -> None:
    model = pretraining()
    model.contrastive.max_scale = most
    save_pretrained(model, tmp_path)
    assert load_pretrained(tmp_path).settings.max_scale == most


@pytest.mark.parametrize("plain", [False, True], ids=["paper's", "torchmultimodal's"])
def test_a_classifier_comes_back(tmp_path: Path, plain: bool) -> None:
    model = flava_for_classification(5, flava(), reads="image", hidden=7, dropout=0.3)
    if plain:
        layers = [("dense", nn.Linear(22, 7)), ("activation", nn.ReLU()), ("dropout", nn.Dropout(0.3))]
        model.classifier = nn.Sequential(OrderedDict([*layers, ("decoder", nn.Linear(7, 5))]))
    stirred(model).eval()
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(tmp_path)
    assert isinstance(loaded, FlavaForClassification)
    images = torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert torch.equal(model(images), loaded(images))
    assert loaded.classifier.dropout.p == 0.3


@pytest.mark.parametrize("reads", ["image", "text", "pair"])
@pytest.mark.parametrize("whole", [flava, clip])
def test_a_classifier_over_embeddings_comes_back(tmp_path: Path, whole: Callable[[], Flava | Clip], reads: str) -> None:
    model = stirred(embeddings_for_classification(5, whole(), reads, hidden=7, dropout=0.3)).eval()
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(tmp_path)
    assert isinstance(loaded, EmbeddingsForClassification)
    assert type(loaded.flava) is type(model.flava)
    inputs = {"pixels": torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE), "ids": torch.randint(5, 30, (3, 7))}
    inputs = {
        name: given for name, given in inputs.items() if reads == "pair" or (name == "pixels") == (reads == "image")
    }
    assert torch.equal(model(**inputs), loaded(**inputs))
    assert (loaded.reads, loaded.classifier.dropout.p) == (reads, 0.3)
    assert same(model, loaded)


def test_heads_that_were_taken_out_stay_out(tmp_path: Path) -> None:
    model = pretraining()
    model.itm = model.mmm_text = model.contrastive = None
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(tmp_path)
    assert isinstance(loaded, FlavaForPreTraining)
    assert (loaded.itm, loaded.mmm_text, loaded.contrastive) == (None, None, None)
    assert same(model, loaded)
    model.mim = model.mlm = model.mmm_image = None
    save_pretrained(model, tmp_path)
    assert isinstance(from_pretrained(tmp_path), Flava)


def test_a_run_folder(tmp_path: Path) -> None:
    """As a recipe leaves it, without metadata: the heads are those of the size's name."""
    model = flava_for_pretraining(flava_model("tiny", image_size=32, vocab_size=61), num_codes=31)
    save_tensors(tmp_path / "model.safetensors", model.state_dict())
    save_tensors(tmp_path / "codebook.safetensors", {"codes": torch.zeros(31, 3)})
    (tmp_path / "config.json").write_text('{"model": "tiny"}')
    loaded = load_pretrained(tmp_path)
    assert loaded.settings == Settings((2, 2, 2))
    assert same(model, loaded.model)
    assert loaded.model.flava.image_encoder.image_size == 32


@pytest.mark.parametrize("size", SIZES)
def test_heads_are_those_of_the_named_size(size: str) -> None:
    width, depth, num_heads, hidden, fusion_depth, _ = SIZES[size]
    tower = TowerSize(width, depth, hidden)
    assert guessed(MODEL, (tower, tower, tower._replace(depth=fusion_depth))).num_heads == (num_heads,) * 3
    other = tower._replace(depth=depth + 1)
    assert guessed(MODEL, (other, tower, tower)).num_heads == (0 if width % 64 else width // 64,) * 3


def test_heads_that_nothing_tells_are_asked_for(tmp_path: Path) -> None:
    save_tensors(tmp_path / "model.safetensors", flava().state_dict())
    with pytest.raises(ValueError, match=r"widths \[22, 26, 34\] have; give num_heads"):
        from_pretrained(tmp_path)
    attention = from_pretrained(tmp_path, num_heads=(11, 13, 17)).fusion_encoder.trunk.blocks[0].attention
    assert attention.num_heads == 17
    with pytest.raises(ValueError, match="width 22 is no multiple of num_heads 4"):
        from_pretrained(tmp_path, num_heads=4)
    for wrong in (0, (2, 2), (2, 2, -1)):
        with pytest.raises(ValueError, match=r"num_heads is .*a number above 0 is due"):
            from_pretrained(tmp_path, num_heads=wrong)  # type: ignore[arg-type]


def test_another_image_size(tmp_path: Path) -> None:
    model = pretraining()
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(tmp_path, image_size=25)
    assert loaded.flava.image_encoder.num_patches == 25
    expected = resize_positions(model.flava.image_encoder.embed.positions, (5, 5))
    assert torch.equal(loaded.flava.image_encoder.embed.positions, expected)
    assert loaded.flava.image_encoder.embed.positions.requires_grad
    with pytest.raises(ValueError, match="image_size 26 is no multiple of patch_size 5"):
        from_pretrained(tmp_path, image_size=26)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (MODEL, (False, False)),
        (layouts_transformers.MODEL, (False, True)),
        (layouts_torchmultimodal.MODEL, (False, True)),
    ],
    ids=["own", "transformers", "torchmultimodal"],
)
def test_who_sees_padding(tmp_path: Path, layout: Layout, expected: tuple[bool, bool]) -> None:
    save_tensors(tmp_path / "model.safetensors", to_theirs(layout, flava().state_dict()))
    for given, due in ((None, expected), ((True, False), (True, False))):
        model = from_pretrained(tmp_path, num_heads=2, attend_to_padding=given)
        assert (model.text_encoder.attend_to_padding, model.fusion_encoder.attend_to_padding) == due


def test_a_loaded_model_is_ready(tmp_path: Path) -> None:
    """In evaluation mode, trainable, in float32 whatever the file, and no random number drawn."""
    save_tensors(tmp_path / "half.safetensors", {n: t.bfloat16() for n, t in pretraining().state_dict().items()})
    before = torch.get_rng_state()
    model = from_pretrained(tmp_path / "half.safetensors", num_heads=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in model.modules())
    assert all(p.dtype == torch.float32 and p.requires_grad and p.device.type == "cpu" for p in model.parameters())
    assert torch.equal(model.mim.dense.weight, pretraining().mim.dense.weight.bfloat16().float())


def test_tensors_that_share_memory_in_a_file_are_not_tied(tmp_path: Path) -> None:
    state = flava().state_dict()
    state["text_projection.bias"] = state["image_projection.bias"]
    torch.save(state, tmp_path / "shared.pt")
    model = from_pretrained(tmp_path / "shared.pt", num_heads=2)
    assert torch.equal(model.text_projection.bias, model.image_projection.bias)
    places = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert len(places) == len(list(model.parameters()))


def test_a_foreign_part_is_not_saved_half(tmp_path: Path) -> None:
    class Tower(nn.Module):
        width = 22

    foreign = Flava(Tower(), flava().text_encoder, flava().fusion_encoder)
    with pytest.raises(ValueError, match=r"^Tower, TextEncoder, FusionEncoder: of these only this project.s own"):
        save_pretrained(foreign, tmp_path)
    model = pretraining()
    model.contrastive = nn.Linear(2, 3)
    with pytest.raises(ValueError, match=r"contrastive\.weight.*; save the model's state_dict\(\)"):
        save_pretrained(model, tmp_path)
    model = flava()
    model.image_encoder.trunk.blocks[0].attention.__class__ = type("Foreign", (nn.Module,), {})
    with pytest.raises(ValueError, match=r"Foreign is another's trunk; save the model's state_dict\(\)"):
        save_pretrained(model, tmp_path)
    assert not list(tmp_path.iterdir())
