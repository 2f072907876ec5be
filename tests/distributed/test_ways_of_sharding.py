"""Copies, recomputing, offloading, the meta device, parts of a batch and checkpoints on two ranks, against one process."""

import os
import shutil
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.distributed as dist
from ranks import Outcome, on_ranks
from steps import RANKS, ROWS, State, mine, model_of, optimizer_of, sharded, step, whole
from torch import Tensor

from torchflava.batch import CachedPairBatch
from torchflava.losses import mean_losses
from torchflava.models import VERBS
from torchflava.models.labelled import labelled_rows
from torchflava.training import (
    Across,
    Checkpoints,
    accumulate,
    initialise,
    load_checkpoint,
    mesh_of,
    recompute,
    session,
    shard,
)

pytestmark = pytest.mark.slow  # one start of ranks serves all


def other_ways(number: int, ranks: int) -> Any:
    """A step of each kind with copies instead of shards; inner states computed again; kept in main memory; drawn unit by unit."""
    device, results = torch.device("cpu"), {}
    for way in ("copies", "selective", "full", "offloaded", "meta"):
        with torch.device("meta" if way == "meta" else "cpu"):
            model = model_of()
        if way in ("selective", "full"):
            recompute(model.units(), way)
        mesh = mesh_of(device, "copies" if way == "copies" else "all")
        shard(model, mesh, verbs=VERBS, offload=way == "offloaded", seed=11)
        drawn = {name: p.full_tensor().detach().clone() for name, p in model.named_parameters()}
        optimizer = optimizer_of(model)
        means = [step(model, optimizer, mine(kind, number))[0] for kind in tiny.KINDS]
        results[way] = drawn, means, {name: p.full_tensor().detach() for name, p in model.named_parameters()}
    return results


def refused(number: int, ranks: int) -> list[str]:
    """What is said of models and meshes that cannot be."""
    with torch.device("meta"):
        model = model_of()
    told = []
    for wrong in (
        lambda: shard(model, mesh_of(torch.device("cpu"))),
        lambda: mesh_of(torch.device("cpu"), "node", per_node=3),
        lambda: mesh_of(torch.device("cpu"), "rows"),
        lambda: shard(model, mesh_of(torch.device("cpu")), precision="fp8"),
    ):
        try:
            wrong()
        except ValueError as error:
            told.append(str(error))
    return told


def checkpointed(number: int, ranks: int) -> Any:
    """Three steps, a checkpoint by both ranks, three more."""
    model = sharded()
    optimizer = optimizer_of(model)
    for kind in tiny.KINDS:
        step(model, optimizer, mine(kind, number))
    folder = Path(tempfile.gettempdir()) / f"checkpointed-{os.getppid()}"
    checkpoints = Checkpoints(folder)
    path = checkpoints.save(3, model, optimizer, state={"config": {}})
    means = [step(model, optimizer, mine(kind, number))[0] for kind in tiny.KINDS]
    checkpoints.wait()
    dist.barrier()
    again = sharded("ours")
    its = optimizer_of(again)
    load_checkpoint(path, again, its, config={})
    return path, means, [step(again, its, mine(kind, number))[0] for kind in tiny.KINDS]


def in_parts(number: int, ranks: int) -> Any:
    """A step's gradients and means from parts of one row, for each kind of batch; sharded."""
    results = {}
    for kind in tiny.KINDS:
        model, batch = sharded(), mine(kind, number)
        parts = [tiny.part(batch, slice(at, at + 1)) for at in range(ROWS)]
        rows = {name: sum(labelled_rows(part)[name] for part in parts) for name in labelled_rows(batch)}

        def contrast(image: Tensor, text: Tensor, parts: Any, model: Any = model) -> Any:
            return model.contrast(image, text, torch.cat([part.contrast for part in parts]))

        means = accumulate(
            model,
            parts,
            partial(mean_losses, num_rows=rows),
            objective=lambda found: torch.stack(list(found.values())).sum(),
            make=lambda part: part,
            across=Across("contrastive", model.embed_pair, contrast, CachedPairBatch) if kind == "pair" else None,
        )
        results[kind] = means, {name: g.full_tensor() for name, g in tiny.gradients(model).items()}
    return results


@cache
def outcome() -> Outcome:
    return on_ranks(RANKS, in_parts, other_ways, refused, checkpointed)


def assert_same(got: State, due: State, *, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    assert set(got) == set(due)
    for name, tensor in due.items():
        torch.testing.assert_close(got[name], tensor, rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


def over_ranks(results: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([result[name] for result in results]).mean() for name in results[0]}


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_parts_on_two_ranks_add_up_to_the_batch_of_both(kind: str) -> None:
    """Cached embeddings, with gradients through the other rank's columns and means over both ranks' labelled rows."""
    model, ranks = model_of(), [result[kind] for result in outcome()[in_parts]]
    means = mean_losses(model(whole(kind)))
    torch.stack(list(means.values())).sum().backward()
    assert_same(over_ranks([got for got, _ in ranks]), {name: mean.detach() for name, mean in means.items()})
    for _, gradients in ranks:
        assert_same(gradients, tiny.gradients(model), atol=1e-5)


@pytest.mark.parametrize("way", ["copies", "selective", "full", "offloaded", "meta"])
def test_other_ways_of_sharding_take_the_same_steps(way: str) -> None:
    model = model_of()
    initialise(model, 11)
    ranks = [result[way] for result in outcome()[other_ways]]
    for drawn, _, _ in ranks:
        assert_same(drawn, dict(model.named_parameters()), rtol=0, atol=0)
    optimizer = optimizer_of(model)
    means = [step(model, optimizer, whole(kind))[0] for kind in tiny.KINDS]
    for place, due in enumerate(means):
        assert_same(over_ranks([got[place] for _, got, _ in ranks]), due)
    for _, _, after in ranks:
        assert_same(after, dict(model.named_parameters()))


def test_what_cannot_be_sharded_is_told() -> None:
    for told in outcome()[refused]:
        assert told[0] == "the model is on the meta device; give a seed, so that its weights can be drawn"
        assert told[1] == "2 ranks do not fill nodes of 3 evenly; start equally many on each node"
        assert told[2] == "spread must be all, node or copies, got 'rows'"
        assert told[3] == "precision must be one of fp32, bf16, fp16, got 'fp8'"


def test_a_checkpoint_of_two_ranks_goes_on_to_the_bit_on_two_and_within_rounding_on_one() -> None:
    ranks = outcome()[checkpointed]
    path = ranks[0][0]
    try:
        assert len(list(path.glob("*.safetensors"))) == RANKS
        for _, means, again in ranks:
            for due, got in zip(means, again, strict=True):
                assert_same(got, due, rtol=0, atol=0)
        with session(0, "cpu"):
            model = tiny.pretraining()
            optimizer = optimizer_of(model)
            assert load_checkpoint(path, model, optimizer)["step"] == 3
            for place, kind in enumerate(tiny.KINDS):
                got = step(model, optimizer, whole(kind))[0]
                assert_same(got, over_ranks([means[place] for _, means, _ in ranks]))
    finally:
        shutil.rmtree(path.parent)
