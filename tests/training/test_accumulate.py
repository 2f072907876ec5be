"""A batch in parts gives the gradients and means of the batch as a whole."""

from collections.abc import Sequence

import pytest
import tiny
import torch
from torch import Tensor

from torchflava.batch import Batch, CachedPairBatch, PairBatch, RawImageBatch, RawPairBatch, RawTextBatch, split
from torchflava.losses import LOSSES, mean_losses, weighted_sum
from torchflava.models import FlavaForPreTraining
from torchflava.models.labelled import labelled_rows
from torchflava.training import Across, accumulate

ROWS = 7
WEIGHTS = {name: 0.5 + 0.3 * i for i, name in enumerate(LOSSES)}


def contrastive(model: FlavaForPreTraining) -> Across:
    def loss(image: Tensor, text: Tensor, parts: Sequence[PairBatch]):
        return model.contrast(image, text, torch.cat([part.contrast for part in parts]))

    return Across("contrastive", model.embed_pair, loss, CachedPairBatch)


def batch_of(kind: str) -> Batch:
    batch = tiny.batch_of(kind, ROWS)
    if isinstance(batch, PairBatch):  # rows of every sort: without a match, without a true caption, with nothing masked
        matched = torch.tensor([True, True, False, True, False, True, True])
        contrast = torch.tensor([True, False, True, True, True, True, True])
        labels = batch.token_labels.clone()
        labels[0] = -100
        batch = batch._replace(matched=matched, contrast=contrast, token_labels=labels)
    return batch


def in_parts(model: FlavaForPreTraining, batch: Batch, size: int) -> dict[str, Tensor]:
    parts = [tiny.part(batch, slice(at, at + size)) for at in range(0, ROWS, size)]
    rows = {name: sum(labelled_rows(part)[name] for part in parts) for name in labelled_rows(batch)}
    across = contrastive(model) if isinstance(batch, PairBatch) and model.contrastive is not None else None
    return accumulate(
        model,
        parts,
        lambda losses: mean_losses(losses, num_rows=rows),
        objective=lambda means: weighted_sum(means, WEIGHTS),
        make=lambda part: part,
        across=across,
    )


@pytest.mark.parametrize("size", [1, 2, 3, 7, 99])
@pytest.mark.parametrize("kind", ["image", "text", "pair"])
def test_parts_add_up_to_the_batch(kind: str, size: int) -> None:
    batch = batch_of(kind)
    whole, parted = tiny.pretraining(), tiny.pretraining()
    means = mean_losses(whole(batch))
    weighted_sum(means, WEIGHTS).backward()
    found = in_parts(parted, batch, size)
    assert found.keys() == means.keys()
    for name, value in means.items():
        assert not found[name].requires_grad
        torch.testing.assert_close(found[name], value.detach(), rtol=1e-5, atol=1e-6)
    expected, got = tiny.gradients(whole), tiny.gradients(parted)
    assert expected.keys() == got.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-5, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("gone", [("itm", "mmm_image", "mmm_text"), ("contrastive",)])
def test_without_some_objectives(gone: tuple[str, ...]) -> None:
    batch = batch_of("pair")
    whole, parted = tiny.pretraining(), tiny.pretraining()
    for model in (whole, parted):
        for name in gone:
            setattr(model, name, None)
    weighted_sum(mean_losses(whole(batch)), WEIGHTS).backward()
    in_parts(parted, batch, 3)
    expected, got = tiny.gradients(whole), tiny.gradients(parted)
    assert expected.keys() == got.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-5, atol=1e-5)


def test_gradients_that_are_there_are_added_to() -> None:
    batch, model = batch_of("pair"), tiny.pretraining()
    in_parts(model, batch, 3)
    once = {name: gradient.clone() for name, gradient in tiny.gradients(model).items()}
    in_parts(model, batch, 2)
    for name, gradient in tiny.gradients(model).items():
        torch.testing.assert_close(gradient, 2 * once[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["image", "text", "pair"])
def test_labelled_rows_are_those_that_the_losses_are_sums_over(kind: str) -> None:
    batch = batch_of(kind)
    losses = tiny.pretraining()(batch)
    told = labelled_rows(batch)
    assert {name: float(loss.num_rows) for name, loss in losses.items()} == {name: float(n) for name, n in told.items()}


def raw(kind: str) -> RawImageBatch | RawTextBatch | RawPairBatch:
    generator = torch.Generator().manual_seed(0)
    masked = torch.rand(5, 4, generator=generator) < 0.5
    pixels, positions = torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.zeros(5, 2, dtype=torch.int64)
    if kind == "image":
        return RawImageBatch(pixels, pixels, masked, positions)
    keep = torch.arange(9) < torch.tensor([3, 9, 2, 5, 4])[:, None]
    ids = torch.where(keep, torch.randint(1, 50, (5, 9), generator=generator), 0)
    if kind == "text":
        return RawTextBatch(ids, keep, positions, positions)
    flags = torch.ones(5, dtype=torch.bool)
    return RawPairBatch(
        pixels, pixels, masked, positions, ids, keep, ids.flip(0), keep.flip(0), positions, positions, flags, flags
    )


@pytest.mark.parametrize("kind", ["image", "text", "pair"])
def test_split_keeps_the_rows_and_trims_their_texts(kind: str) -> None:
    batch = raw(kind)
    parts = split(batch, 2)
    assert [len(part[0]) for part in parts] == [2, 2, 1]
    for name in batch._fields:
        whole, got = getattr(batch, name), [getattr(part, name) for part in parts]
        for part, rows in zip(got, torch.split(whole, 2), strict=True):
            assert torch.equal(part, rows[:, : part.shape[1]] if part.ndim == 2 else rows)
        if "keep" in name:
            assert [part.shape[1] for part in got] == [int(rows.sum(1).max()) for rows in torch.split(whole, 2)]
            assert min(part.shape[1] for part in got) < 9
        elif name not in ("ids", "masked_ids"):
            assert all(part.shape[1:] == whole.shape[1:] for part in got)
    with pytest.raises(ValueError, match="parts of 0 rows"):
        split(batch, 0)
