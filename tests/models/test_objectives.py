"""Objectives of one's own beside the six losses: called with what they learn from, and refused by name where they are wrong."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from torchflava.batch import Batch, CachedPairBatch, ImageBatch, PairBatch
from torchflava.losses import Loss
from torchflava.models import Clip, Flava, save_pretrained, to_torchmultimodal, to_transformers


class Brightness(nn.Module):
    """How bright are the images? A line over their class tokens; of images and pairs alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.line = nn.Linear(width, 1)

    def forward(self, flava: Flava | Clip, batch: Batch) -> Loss | None:
        if not isinstance(batch, ImageBatch | PairBatch):
            return None
        told = self.line(flava.image_encoder(batch.pixels).normed[:, 0])[:, 0]
        total = (told - batch.pixels.mean((1, 2, 3))).square().sum()
        return Loss(total, torch.tensor(float(len(told))))


class Wrong(nn.Module):
    """Gives a tensor where a Loss is due."""

    def forward(self, flava: Any, batch: Batch) -> Any:
        return batch[0].float().sum()


def test_its_loss_stands_beside_the_others_and_it_learns() -> None:
    model = tiny.pretraining()
    alone = {kind: {*model(tiny.batch_of(kind))} for kind in tiny.KINDS}
    objective = model.objectives["brightness"] = Brightness(tiny.IMAGE_WIDTH)
    for kind in tiny.KINDS:
        batch = tiny.batch_of(kind)
        losses = model(batch)
        assert {*losses} - alone[kind] == (set() if kind == "text" else {"brightness"})
    expected = objective(model.flava, batch)  # of the pairs, which came last
    torch.testing.assert_close(losses["brightness"].total, expected.total)
    losses["brightness"].mean.backward()
    assert objective.line.weight.grad.any()
    assert "objectives.brightness.line.weight" in model.state_dict()


def test_of_a_part_of_a_batch_it_sees_the_pairs() -> None:
    model = tiny.pretraining()
    model.objectives["brightness"] = Brightness(tiny.IMAGE_WIDTH)
    pair = tiny.pair_batch()
    nothing = torch.zeros(len(pair.pixels), tiny.EMBED_DIM)
    found, expected = model(CachedPairBatch(pair, nothing, nothing))["brightness"], model(pair)["brightness"]
    torch.testing.assert_close(found.total, expected.total)


def test_it_may_be_all_that_there_is_for_a_kind_of_batch() -> None:
    model = tiny.clip_pretraining()
    model.objectives["brightness"] = Brightness(tiny.IMAGE_WIDTH)
    assert {*model(tiny.image_batch())} == {"brightness"}
    with pytest.raises(ValueError, match="every objective for a TextBatch was taken out"):
        model(tiny.text_batch())


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("itm", ValueError, "itm is a loss of FLAVA's own; call your objective by another name"),
        ("mine", TypeError, r"objective mine gave a Tensor; a Loss\(total, num_rows\) or None is due"),
    ],
)
def test_a_taken_name_and_what_is_no_loss_are_refused(name: str, error: type[Exception], match: str) -> None:
    model = tiny.pretraining()
    model.objectives[name] = Wrong()
    with pytest.raises(error, match=match):
        model(tiny.image_batch())


@pytest.mark.parametrize("write", [save_pretrained, to_transformers, to_torchmultimodal])
def test_a_file_of_weights_names_what_it_cannot_bring_back(write: Any, tmp_path: Path) -> None:
    model = tiny.pretraining()
    model.objectives["brightness"] = Brightness(tiny.IMAGE_WIDTH)
    with pytest.raises(ValueError, match=r"^objectives\.brightness: .* take it out of `objectives`, or save"):
        write(model, tmp_path)
    assert [*tmp_path.iterdir()] == []
    model.objectives.clear()
    save_pretrained(model, tmp_path)
