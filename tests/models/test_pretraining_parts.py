"""Parts of the pretraining taken out or replaced, and the passes that are left."""

import math
from collections import Counter

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchflava.losses import LOSSES, Loss
from torchflava.models import FlavaForPreTraining, flava_for_pretraining

HEADS = ("mmm_image", "mmm_text", "itm", "contrastive")


class Passes:
    """Counts how many views of a batch of 3 each encoder's first block sees."""

    def __init__(self, model: FlavaForPreTraining) -> None:
        self.counted: Counter[str] = Counter()
        for name in ("image", "text", "fusion"):
            block = model.flava.get_submodule(f"{name}_encoder").get_submodule("trunk.blocks.0")
            block.register_forward_hook(lambda _, given, __, name=name: self.counted.update({name: len(given[0]) // 3}))


@pytest.mark.parametrize(
    ("kind", "without", "itm_input", "passes"),
    [
        ("image", (), "masked", {"image": 1}),
        ("text", (), "masked", {"text": 1}),
        ("pair", (), "masked", {"image": 2, "text": 2, "fusion": 1}),
        ("pair", (), "clean", {"image": 3, "text": 3, "fusion": 2}),
        ("pair", ("contrastive",), "masked", {"image": 1, "text": 1, "fusion": 1}),
        ("pair", ("mmm_image", "mmm_text", "itm"), "masked", {"image": 1, "text": 1}),
        ("pair", ("mmm_image", "mmm_text", "itm"), "clean", {"image": 1, "text": 1}),
        ("pair", ("mmm_image", "mmm_text", "contrastive"), "clean", {"image": 1, "text": 1, "fusion": 1}),
        ("pair", ("mmm_image", "itm"), "masked", {"image": 2, "text": 2, "fusion": 1}),
    ],
)
def test_no_pass_runs_that_no_loss_asks_for(
    kind: str, without: tuple[str, ...], itm_input: str, passes: dict[str, int]
) -> None:
    model, batch = tiny.pretraining(itm_input=itm_input), tiny.batch_of(kind)
    whole = model(batch)
    for name in without:
        setattr(model, name, None)
    counted = Passes(model)
    losses = model(batch)
    assert dict(counted.counted) == passes
    assert set(losses) == set(whole) - set(without)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, whole[name])


@pytest.mark.parametrize(("kind", "without"), [("image", ["mim"]), ("text", ["mlm"]), ("pair", HEADS)])
def test_a_kind_without_objectives_is_refused(kind: str, without: list[str]) -> None:
    model = tiny.pretraining()
    for name in without:
        setattr(model, name, None)
    with pytest.raises(ValueError, match=r"every objective for a \w+Batch was taken out; leave this kind out"):
        model(tiny.batch_of(kind))


class SigmoidLoss(nn.Module):
    """A contrastive loss of one's own: each pair alone is true or false (Zhai et al. 2023)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.full((1,), 10.0)), nn.Parameter(torch.full((1,), -10.0))

    def forward(self, image: Tensor, text: Tensor, contrast: Tensor) -> Loss:
        signs = 2 * torch.eye(len(image)) - 1
        each = -F.logsigmoid(signs * (self.scale * image @ text.T + self.bias)).sum(1)
        return Loss(torch.where(contrast, each, 0.0).sum(), contrast.sum().float())


def test_another_contrastive_loss_goes_in() -> None:
    model, batch = tiny.pretraining(), tiny.pair_batch()
    model.contrastive = SigmoidLoss()
    image, text = model.embed_image(batch.pixels), model.embed_text(batch.ids, batch.keep)
    torch.testing.assert_close(model(batch)["contrastive"], model.contrastive(image, text, batch.contrast))
    tiny.total(model, batch).backward()
    assert model.contrastive.scale.grad.isfinite().all()
    model.clamp_temperature()  # it has none to clamp
    model.contrastive = None
    model.clamp_temperature()


def test_another_head_goes_in() -> None:
    model, batch = tiny.pretraining(), tiny.image_batch()
    model.mim = nn.Linear(tiny.IMAGE_WIDTH, tiny.NUM_CODES)
    assert model(batch)["mim"].mean.isfinite()


def test_the_temperature_is_clamped_after_the_step_not_in_forward() -> None:
    model = tiny.pretraining()
    nn.init.constant_(model.contrastive.log_scale, 7.0)
    model(tiny.pair_batch())
    assert model.contrastive.log_scale.item() == 7.0
    model.clamp_temperature()
    assert model.contrastive.log_scale.item() == pytest.approx(math.log(100))


def test_the_builder_reads_sizes_off_the_encoders() -> None:
    model = flava_for_pretraining(tiny.flava(), num_codes=tiny.NUM_CODES, gradients="local", itm_input="clean")
    heads = {name: model.get_submodule(name) for name in LOSSES}
    assert heads["mim"].decoder.weight.shape == (tiny.NUM_CODES, tiny.IMAGE_WIDTH)
    assert heads["mlm"].decoder.weight.shape == (tiny.VOCAB_SIZE, tiny.TEXT_WIDTH)
    assert heads["mmm_image"].decoder.weight.shape == (tiny.NUM_CODES, tiny.FUSION_WIDTH)
    assert heads["mmm_text"].decoder.weight.shape == (tiny.VOCAB_SIZE, tiny.FUSION_WIDTH)
    assert heads["itm"].dense.weight.shape == (tiny.FUSION_WIDTH, tiny.FUSION_WIDTH)
    assert (heads["contrastive"].gradients, model.itm_input) == ("local", "clean")
    assert [id(unit) for unit in model.units()] == [id(unit) for unit in model.flava.units()]
    assert len(model.units()) == 5


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_forward_compiles_into_one_graph(kind: str) -> None:
    model, batch = tiny.pretraining(parts=tiny.shallow()), tiny.batch_of(kind)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for name, loss in compiled(batch).items():
        torch.testing.assert_close(loss, model(batch)[name])
