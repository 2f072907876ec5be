"""Every model of docs/variants.md learns as it stands on the page, and in the same numbers when it is sharded."""

import math
import re
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "distributed"))

from ranks import Outcome, on_ranks
from variants import (
    VARIANTS,
    batches_for,
    gradients,
    model_of,
    names_of,
    sections,
    sharded,
    source_of,
    step_of_the_page,
    trained,
)

from torchflava.losses import LOSSES
from torchflava.models import FlavaForPreTraining, from_pretrained, save_pretrained

FOREIGN = [name for name, variant in VARIANTS.items() if variant.needs != "torch"]
LOSSES_OF = {
    "clip": {"contrastive"},
    "lit": {"contrastive"},
    "no fusion": {"mim", "mlm", "contrastive"},
    "own objective": {*LOSSES, "rotation"},
}
"""Of models that have not just the six."""
ON_TWO_RANKS = ["siglip", "own objective", "three widths"]


def wanted(name: str) -> Any:
    """The variant as a parameter: those of other packages take seconds to import."""
    return pytest.param(name, marks=[pytest.mark.slow] if name in FOREIGN else [])


@pytest.mark.parametrize("name", [wanted(name) for name in VARIANTS])
def test_a_model_of_the_page_learns(name: str) -> None:
    """All losses are finite, all that is to learn has gradients, nothing else has, and the same batches cost less later."""
    pytest.importorskip(VARIANTS[name].needs, reason=f"{VARIANTS[name].needs} is not installed")
    model = model_of(name)
    gradients(model, batches_for(VARIANTS[name], model))
    without = {n for n, p in model.named_parameters() if p.grad is None}
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    spared = {n for n in without - frozen if re.fullmatch(VARIANTS[name].spared, n)}
    assert without == frozen | spared
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert all(torch.isfinite(gradient).all() for gradient in found.values())
    unmoved = {n for n, gradient in found.items() if not gradient.any()}
    assert {n for n in unmoved if "lora_A" not in n} == set()  # lora_B begins at 0
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    means = trained(name, model)
    assert all(math.isfinite(value) for step in means for value in step.values())
    assert {loss for step in means for loss in step} == LOSSES_OF.get(name, {*LOSSES})
    kinds = len(VARIANTS[name].kinds)
    assert sum(sum(step.values()) for step in means[-kinds:]) < sum(sum(step.values()) for step in means[:kinds])
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved.isdisjoint(frozen)
    assert moved >= found.keys()


def test_each_section_has_its_variant_and_each_block_at_most_25_lines() -> None:
    blocks = {title: len(found) for title, found in sections().items() if title}
    named = {title: sum(v.title == title for v in VARIANTS.values()) for title in blocks}
    assert blocks == named
    long = {name: len(source_of(name).splitlines()) for name in VARIANTS if len(source_of(name).splitlines()) > 25}
    assert long == {}


def test_the_image_tower_of_lit_is_what_does_not_learn() -> None:
    model = model_of("lit")
    assert {n.split(".")[1] for n, p in model.named_parameters() if not p.requires_grad} == {"image_encoder"}
    assert all(not p.requires_grad for p in model.flava.image_encoder.parameters())


@pytest.mark.slow
def test_of_the_encoders_lora_s_updates_alone_learn() -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    model = model_of("lora")
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n in learning if n.startswith("flava.")} == {n for n, _ in model.named_parameters() if "lora_" in n}
    linear = [n for n, part in model.flava.named_modules() if isinstance(part, torch.nn.Linear) and "blocks" in n]
    assert len([n for n in learning if "lora_A" in n]) == len([n for n in linear if "base_layer" in n]) == 5 * 4
    assert "mim.decoder.weight" in learning


@pytest.mark.slow
@torch.no_grad()
def test_lora_merged_as_the_page_says_is_written_and_read(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    from peft.tuners.lora import LoraLayer

    model = model_of("lora").eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    pixels = torch.randn(2, 3, 224, 224)
    due = model.embed_image(pixels)
    for name, part in [*model.named_modules()]:
        if isinstance(part, LoraLayer):
            part.merge()
            model.set_submodule(name, part.get_base_layer())
    save_pretrained(model, tmp_path)
    torch.testing.assert_close(from_pretrained(tmp_path).eval().embed_image(pixels), due)


def test_siglip_is_the_formula_over_all_pairs() -> None:
    loss = names_of("siglip")["SiglipLoss"]()
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.nn.functional.normalize(torch.randn(3, 5, generator=generator), dim=1) for _ in range(2))
    contrast = torch.tensor([True, False, True])
    expected = 0.0
    for i in (0, 2):
        for j in range(3):
            z = math.exp(2.3) * float(image[i] @ text[j]) - 10
            expected += math.log1p(math.exp(-z if i == j else z))
    total, rows = loss(image, text, contrast)
    assert float(total.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(rows) == 2


def test_an_image_is_turned_by_what_the_model_is_to_tell() -> None:
    names = names_of("own objective")
    model: FlavaForPreTraining = names["model"]
    batch = batches_for(VARIANTS["own objective"], model)["image"]
    seen = []
    model.flava.image_encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model.objectives["rotation"](model.flava, batch)
    (turned,) = seen
    for row, image in enumerate(turned):
        for _ in range(row % 4):
            image = image.flip(1).transpose(1, 2)  # back by a quarter
        torch.testing.assert_close(image, batch.pixels[row])


def test_the_codebook_s_grid_is_the_encoder_s() -> None:
    names = names_of("other patches")
    assert names["codebook"].grid == (7, 7)
    assert names["flava"].image_encoder.num_patches == 49
    whole = names["codebook"].encode(names["views"][:1])
    assert names["labels"].tolist() == whole[:, [0, 24, 48]].tolist()


def test_the_step_wants_a_weight_for_an_objective_of_one_s_own() -> None:
    model = model_of("own objective")
    batch = batches_for(VARIANTS["own objective"], model)["image"]
    with pytest.raises(ValueError, match="no weight for rotation"):
        step_of_the_page()(model, torch.optim.SGD(model.parameters()), batch, {"mim": 1.0})


def on_one(rank: int, ranks: int) -> dict[str, list[dict[str, float]]]:
    """Every variant that can be had here, sharded on one rank."""
    return {name: trained(name, sharded(name)) for name in VARIANTS if _is_here(name)}


def on_two(rank: int, ranks: int) -> dict[str, list[dict[str, float]]]:
    """Some of them on two."""
    mine = slice(4 * rank, 4 * rank + 4)
    return {name: trained(name, sharded(name), 8, mine) for name in ON_TWO_RANKS}


@cache
def outcome(check: Any, ranks: int) -> Outcome:
    return on_ranks(ranks, check)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_sharded_on_one_rank_it_takes_the_same_steps(name: str) -> None:
    pytest.importorskip(VARIANTS[name].needs, reason=f"{VARIANTS[name].needs} is not installed")
    (found,) = outcome(on_one, 1)[on_one]
    _are_close(found[name], trained(name, model_of(name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_TWO_RANKS)
def test_on_two_ranks_it_takes_the_steps_of_one_on_all_rows(name: str) -> None:
    first, second = (found[name] for found in outcome(on_two, 2)[on_two])
    found = [{loss: (a[loss] + b[loss]) / 2 for loss in a} for a, b in zip(first, second, strict=True)]
    _are_close(found, trained(name, model_of(name), 8))


def _is_here(name: str) -> bool:
    return find_spec(VARIANTS[name].needs) is not None


def _are_close(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert [{*step} for step in found] == [{*step} for step in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=2e-4)
