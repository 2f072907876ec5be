"""Losses and gradients on 2 and 4 ranks against one process with the whole batch.

Letters: W ranks, B rows of the whole batch, E embedding width.
"""

from functools import cache
from typing import Any

import pytest
import tiny
import torch
import torch.distributed as dist
import torch.nn.functional as F
from ranks import Outcome, on_ranks
from torch import Tensor

from torchflava.batch import IGNORE, Batch, PairBatch, TextBatch
from torchflava.distributed import gather, rank, sum_over_ranks, world_size
from torchflava.losses import ContrastiveLoss, contrastive_loss, mean_losses
from torchflava.losses.compared import compare

ROWS, E, SCALE = 3, 11, 5.0
MODES = ("global", "local", "none")


def embeddings(ranks: int) -> tuple[Tensor, Tensor]:
    """(B, E) twice, of length 1."""
    x = torch.randn(2, ranks * ROWS, E, generator=torch.Generator().manual_seed(0))
    image, text = F.normalize(x, dim=-1).unbind()
    return image, text


def mine(x: Tensor, number: int, ranks: int) -> Tensor:
    """This rank's rows, as a leaf."""
    return x.chunk(ranks)[number].clone().requires_grad_()


def basics(number: int, ranks: int) -> Any:
    """Who we are, what is gathered, and what flows back."""
    x = torch.full((2, 3), float(number + 1), requires_grad=True)
    gathered = {mode: gather(x, mode) for mode in MODES}
    weights = torch.arange(1.0, 2 * ranks + 1)[:, None] * (number + 1)
    grads = {}
    for mode, rows in gathered.items():
        loss = (weights * rows).sum()
        grads[mode] = torch.autograd.grad(loss, x)[0] if loss.requires_grad else None
    kept = x.detach().clone()
    total = sum_over_ranks(x)
    assert torch.equal(kept, x)
    assert not total.requires_grad
    return (rank(), world_size()), {mode: rows.detach() for mode, rows in gathered.items()}, grads, total


def contrast(number: int, ranks: int) -> Any:
    """Loss and gradients of this rank's rows for each way to gather."""
    results = {}
    for mode in MODES:
        image, text = (mine(x, number, ranks) for x in embeddings(ranks))
        scale = torch.tensor([SCALE], requires_grad=True)
        loss = contrastive_loss(image, text, scale, gradients=mode).mean
        loss.backward()
        results[mode] = loss.detach(), image.grad, text.grad, scale.grad
    return results


def contrast_in_chunks(number: int, ranks: int) -> Any:
    """As `contrast`, with one row at a time, and with two."""
    results = {}
    for mode in MODES:
        for at_a_time in (1, 2):
            image, text = (mine(x, number, ranks) for x in embeddings(ranks))
            scale = torch.tensor([SCALE], requires_grad=True)
            pairs = torch.stack([image, text], dim=1)
            every, cells = torch.ones(ROWS, dtype=torch.bool), at_a_time * ranks * ROWS
            told = {"contrast": every, "first": rank() * ROWS, "cells": cells}
            loss = compare(pairs, gather(pairs, mode), scale, **told) / ROWS
            loss.backward()
            results[mode, at_a_time] = loss.detach(), image.grad, text.grad, scale.grad
    return results


def whole_batch(kind: str, ranks: int) -> Batch:
    """`ROWS` rows for each rank; the second rank has nothing to predict, and its first pair is a mismatch."""
    batch = tiny.batch_of(kind, ranks * ROWS, seed=5)
    for name in {"labels", "patch_labels", "token_labels"} & set(batch._fields):
        labels = getattr(batch, name).clone()
        labels[ROWS : 2 * ROWS] = IGNORE
        batch = batch._replace(**{name: labels})
    if isinstance(batch, PairBatch):
        batch = batch._replace(contrast=torch.arange(ranks * ROWS) % 4 != 1)
    return batch


def trimmed(batch: Batch) -> Batch:
    """Texts cut to the longest of these rows, as a rank's loader does."""
    names = (
        {"keep": ("masked_ids",)}
        if isinstance(batch, TextBatch)
        else {"keep": ("ids",), "masked_keep": ("masked_ids",)}
    )
    for keep, ids in names.items() if hasattr(batch, "keep") else ():
        longest = int(getattr(batch, keep).sum(1).max())
        batch = batch._replace(**{name: getattr(batch, name)[:, :longest] for name in (keep, *ids)})
    return batch


def averaged(grads: dict[str, Tensor], ranks: int) -> dict[str, Tensor]:
    """Over ranks, as DDP and FSDP do."""
    flat = torch.cat([grad.flatten() for grad in grads.values()])  # at once: 200 sums would wait for each other
    dist.all_reduce(flat)
    parts = (flat / ranks).split([grad.numel() for grad in grads.values()])
    return {name: part.reshape(grads[name].shape) for name, part in zip(grads, parts, strict=True)}


def model_on_ranks(number: int, ranks: int) -> Any:
    """Means and averaged gradients of the whole model for each kind of batch and both means."""
    results = {}
    for kind in tiny.KINDS:
        batch = trimmed(tiny.part(whole_batch(kind, ranks), slice(number * ROWS, (number + 1) * ROWS)))
        for over in ("global", "rank"):
            model = tiny.pretraining()
            means = mean_losses(model(batch), over)
            sum(means.values()).backward()
            results[kind, over] = {n: m.detach() for n, m in means.items()}, averaged(tiny.gradients(model), ranks)
    return results


@cache
def outcome(ranks: int) -> Outcome:
    return on_ranks(ranks, basics, contrast, contrast_in_chunks, model_on_ranks)


on_2_and_4 = pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])


@on_2_and_4
def test_every_rank_knows_its_place_and_gathers_all_rows(ranks: int) -> None:
    for number, (place, gathered, grads, total) in enumerate(outcome(ranks)[basics]):
        assert place == (number, ranks)
        rows = torch.arange(1.0, ranks + 1).repeat_interleave(2)[:, None].expand(-1, 3)
        assert all(torch.equal(gathered[mode], rows) for mode in MODES)
        own = torch.tensor([2.0 * number + 1, 2.0 * number + 2])[:, None].expand(-1, 3)
        # Rank r weighs row i by (i + 1) * (r + 1): summed over ranks, or its own alone.
        torch.testing.assert_close(grads["global"], own * sum(range(1, ranks + 1)))
        torch.testing.assert_close(grads["local"], own * (number + 1))
        assert grads["none"] is None
        torch.testing.assert_close(total, torch.full((2, 3), float(sum(range(1, ranks + 1)))))


def by_formula(ranks: int, mode: str) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the embeddings, averaged over ranks, and the loss; float64.

    With P = softmax(s I T') and Q = softmax(s T I'), the loss (tr -log P + tr -log Q) / 2B has in I_i the gradient
    s / 2B times sum_j (P - 1)_ij T_j, from I_i as a row, and sum_j (Q - 1)_ji T_j, from I_i as a column of row T_j.
    Columns let through those of row j that the mode lets through.
    """
    image, text = (x.double() for x in embeddings(ranks))
    size = len(image)
    to_text, to_image = (SCALE * image @ text.T).softmax(1), (SCALE * text @ image.T).softmax(1)
    one = torch.eye(size, dtype=torch.float64)
    same_rank = torch.block_diag(*[torch.ones(ROWS, ROWS, dtype=torch.float64)] * ranks)
    through = {"global": torch.ones_like(one), "local": same_rank, "none": torch.zeros_like(one)}[mode]
    of_image = ((to_text - one) + ((to_image - one) * through).T) @ text
    of_text = ((to_image - one) + ((to_text - one) * through).T) @ image
    loss = -(to_text.diagonal().log() + to_image.diagonal().log()).mean() / 2
    return SCALE / (2 * size) * of_image, SCALE / (2 * size) * of_text, loss


@pytest.mark.parametrize("mode", MODES)
@on_2_and_4
def test_contrastive_gradients_are_those_of_the_formula(ranks: int, mode: str) -> None:
    results = [result[mode] for result in outcome(ranks)[contrast]]
    of_image, of_text, loss = by_formula(ranks, mode)
    torch.testing.assert_close(torch.stack([r[0] for r in results]).mean().double(), loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.cat([r[1] for r in results]).double() / ranks, of_image, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.cat([r[2] for r in results]).double() / ranks, of_text, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("at_a_time", [1, 2])
@pytest.mark.parametrize("mode", MODES)
@on_2_and_4
def test_chunks_of_rows_change_no_gradient(ranks: int, mode: str, at_a_time: int) -> None:
    for got, due in zip(outcome(ranks)[contrast_in_chunks], outcome(ranks)[contrast], strict=True):
        for a, b in zip(got[mode, at_a_time], due[mode], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@on_2_and_4
def test_global_gathering_equals_one_process(ranks: int) -> None:
    image, text = (x.clone().requires_grad_() for x in embeddings(ranks))
    scale = torch.tensor([SCALE], requires_grad=True)
    loss = contrastive_loss(image, text, scale).mean
    loss.backward()
    results = [result["global"] for result in outcome(ranks)[contrast]]
    torch.testing.assert_close(torch.stack([r[0] for r in results]).mean(), loss.detach())
    torch.testing.assert_close(torch.cat([r[1] for r in results]) / ranks, image.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.cat([r[2] for r in results]) / ranks, text.grad, rtol=1e-5, atol=1e-6)
    for mode in MODES:
        scales = torch.stack([result[mode][3] for result in outcome(ranks)[contrast]])
        torch.testing.assert_close(scales.mean(0), scale.grad, rtol=1e-5, atol=1e-6)


@on_2_and_4
def test_local_and_no_gathering_miss_part_of_the_gradient(ranks: int) -> None:
    def error(mode: str) -> float:
        got = torch.cat([result[mode][1] for result in outcome(ranks)[contrast]]).double() / ranks
        due, _, _ = by_formula(ranks, "global")
        return float((got - due).norm() / due.norm())

    assert error("global") < 1e-6
    # Measured: .14 and .48 on two ranks, .22 and .46 on four (spec §2.1 has .185 and .56 on a toy of its own).
    assert 0.1 < error("local") < error("none")
    assert error("none") > 0.4


def one_process(kind: str, ranks: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model = tiny.pretraining()
    means = mean_losses(model(whole_batch(kind, ranks)))
    sum(means.values()).backward()
    return {name: mean.detach() for name, mean in means.items()}, tiny.gradients(model)


def assert_same(got: dict[str, Tensor], due: dict[str, Tensor]) -> None:
    assert set(got) == set(due)
    for name, tensor in due.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-4, atol=2e-6, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("kind", tiny.KINDS)
@on_2_and_4
def test_losses_and_gradients_of_the_model_equal_one_process_on_the_whole_batch(ranks: int, kind: str) -> None:
    results = [result[kind, "global"] for result in outcome(ranks)[model_on_ranks]]
    means, grads = one_process(kind, ranks)
    assert_same({name: torch.stack([r[0][name] for r in results]).mean() for name in means}, means)
    for _, averaged_grads in results:
        assert_same(averaged_grads, grads)


@pytest.mark.parametrize("kind", ["image", "text"])
@on_2_and_4
def test_means_over_ranks_are_means_of_means(ranks: int, kind: str) -> None:
    results = [result[kind, "rank"] for result in outcome(ranks)[model_on_ranks]]
    model, name = tiny.pretraining(), {"image": "mim", "text": "mlm"}[kind]
    batch = whole_batch(kind, ranks)
    parts = [tiny.part(batch, slice(r * ROWS, (r + 1) * ROWS)) for r in range(ranks)]
    means = [model(part)[name].mean for part in parts]
    assert means[1].item() == 0.0, "the second rank has nothing to predict"
    mean_of_means = torch.stack(means).mean()
    mean_of_means.backward()
    torch.testing.assert_close(torch.stack([r[0][name] for r in results]).mean(), mean_of_means.detach())
    assert_same(results[0][1], tiny.gradients(model))
    whole = one_process(kind, ranks)[0][name]
    assert (mean_of_means - whole).abs() > 0.1 * whole, "uneven counts would not show"


def test_the_loss_passes_its_way_to_gather_on() -> None:
    assert ContrastiveLoss().gradients == "global"
    assert ContrastiveLoss("none").gradients == "none"
    image, text = (x.clone().requires_grad_() for x in embeddings(2))
    grads = [torch.autograd.grad(ContrastiveLoss(mode)(image, text).total, image)[0] for mode in ("global", "none")]
    assert not torch.allclose(*grads)
