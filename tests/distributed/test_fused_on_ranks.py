"""Masked prediction in chunks where weights are sharded: heads belong to the root, whose weights are there in its forward."""

from functools import cache
from typing import Any

import pytest
import tiny
import torch
from ranks import Outcome, on_ranks
from torch import Tensor

from torchflava.losses import mean_losses
from torchflava.models import predicted
from torchflava.training import mesh_of, shard

ROWS = 4


def steps(number: int, ranks: int) -> Any:
    """A validation, then losses and whole gradients, in chunks and with all logits, by kind and precision."""
    results = {}
    fused = predicted.fused_prediction_loss
    chunks: list[int] = []

    def few_at_a_time(*given: Tensor, labels: Tensor) -> object:
        chunks.append(labels.numel())
        return fused(*given, labels=labels, at_a_time=3)

    predicted.fused_prediction_loss = few_at_a_time
    for precision in ("fp32", "bf16"):
        for in_chunks in (True, False):
            predicted.pays = lambda *_, in_chunks=in_chunks: in_chunks
            model = tiny.pretraining()
            shard(model, mesh_of(torch.device("cpu")), precision=precision, whole=[model.contrastive], verbs=["losses"])
            for kind in tiny.KINDS:
                batch = tiny.batch_of(kind, ranks * ROWS, seed=5)
                batch = tiny.part(batch, slice(number * ROWS, (number + 1) * ROWS))
                with torch.no_grad():
                    seen = {name: loss.total for name, loss in model.losses(batch).items()}
                means = mean_losses(model(batch))
                sum(means.values()).backward()
                grads = {n: p.grad.full_tensor() for n, p in model.named_parameters() if p.grad is not None}
                model.zero_grad()
                told = {name: mean.detach() for name, mean in means.items()}
                results[kind, precision, in_chunks] = seen | {f"mean {n}": x for n, x in told.items()} | grads
    return results, len(chunks)


@cache
def outcome() -> Outcome:
    return on_ranks(2, steps)


def test_it_was_in_chunks() -> None:
    assert {count for _, count in outcome()[steps]} == {2 * 2 * (1 + 1 + 2)}


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-5), ("bf16", 0.02)])
def test_losses_and_gradients_are_those_of_all_logits(kind: str, precision: str, near: float) -> None:
    for results, _ in outcome()[steps]:
        got, due = results[kind, precision, True], results[kind, precision, False]
        assert set(got) == set(due)
        for name, tensor in due.items():
            error = float((got[name] - tensor).norm())
            assert error <= near * float(tensor.norm()) + 1e-6, name
