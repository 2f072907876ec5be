"""CLIP sharded on two ranks, and in parts of its batch, against the same steps in one process."""

from functools import cache, partial
from typing import Any

import pytest
import tiny
import torch
from ranks import Outcome, on_ranks
from steps import MAX_NORM, RANKS, ROWS, mine, optimizer_of, step, weights, whole
from torch import Tensor
from torch.distributed.tensor import DTensor

from torchflava.batch import CachedPairBatch
from torchflava.losses import mean_losses
from torchflava.models import VERBS
from torchflava.models.labelled import labelled_rows
from torchflava.training import Across, accumulate, compile_units, mesh_of, recompute, shard

WAYS = ("all", "copies", "recomputed", "bf16")


def steps_of_clip(number: int, ranks: int) -> Any:
    """Embeddings, two steps and embeddings again, for each way to shard."""
    results, batch = {}, mine("pair", number)
    for way in WAYS:
        model = tiny.clip_pretraining()
        if way == "recomputed":
            recompute(model.units(), "selective")
        mesh = mesh_of(torch.device("cpu"), "copies" if way == "copies" else "all")
        precision = "bf16" if way == "bf16" else "fp32"
        shard(model, mesh, precision=precision, verbs=VERBS, whole=[model.contrastive])
        assert all(isinstance(p, DTensor) for p in model.parameters())
        optimizer = optimizer_of(model)
        with torch.no_grad():
            seen = [model.embed_text(batch.ids, batch.keep), model.embed_image(batch.pixels)]
        means = [step(model, optimizer, batch) for _ in range(2)]
        with torch.no_grad():
            seen += [model.embed_text(batch.ids, batch.keep), model.embed_image(batch.pixels)]
        results[way] = seen, means, {name: p.full_tensor().detach() for name, p in model.named_parameters()}
    return results


def in_parts_of_clip(number: int, ranks: int) -> Any:
    """A step's mean and gradients from parts of one row; sharded."""
    model, batch = tiny.clip_pretraining(), mine("pair", number)
    shard(model, mesh_of(torch.device("cpu")), verbs=VERBS)
    parts = [tiny.part(batch, slice(at, at + 1)) for at in range(ROWS)]
    rows = {name: sum(labelled_rows(part)[name] for part in parts) for name in labelled_rows(batch)}

    def contrast(image: Tensor, text: Tensor, parts: Any) -> Any:
        return model.contrast(image, text, torch.cat([part.contrast for part in parts]))

    means = accumulate(
        model,
        parts,
        partial(mean_losses, num_rows=rows),
        objective=lambda found: torch.stack(list(found.values())).sum(),
        make=lambda part: part,
        across=Across("contrastive", model.embed_pair, contrast, CachedPairBatch),
    )
    return means, {name: g.full_tensor() for name, g in tiny.gradients(model).items()}


@cache
def outcome() -> Outcome:
    return on_ranks(RANKS, steps_of_clip, in_parts_of_clip)


@pytest.mark.parametrize("way", WAYS)
def test_sharded_steps_equal_plain_steps(way: str) -> None:
    model, batch = tiny.clip_pretraining(), whole("pair")
    optimizer = optimizer_of(model)
    close = {"rtol": 1e-4, "atol": 1e-5} if way != "bf16" else {"rtol": 0.1, "atol": 0.1}
    due = [model.embed_text(batch.ids, batch.keep), model.embed_image(batch.pixels)]
    steps = [step(model, optimizer, batch) for _ in range(2)]
    due += [model.embed_text(batch.ids, batch.keep), model.embed_image(batch.pixels)]
    assert (due[0] - due[2]).abs().max() > 1e-2, "a stale verb would not show"
    results = [result[way] for result in outcome()[steps_of_clip]]
    for number, embedded in enumerate(due):
        torch.testing.assert_close(torch.cat([seen[number] for seen, _, _ in results]), embedded.detach(), **close)
    for number, (means, norm) in enumerate(steps):
        assert norm > MAX_NORM, "clipping is not seen"
        found = torch.stack([each[number][0]["contrastive"] for _, each, _ in results]).mean()
        torch.testing.assert_close(found, means["contrastive"], **close)
    for name, tensor in weights(model).items():
        torch.testing.assert_close(results[0][2][name], tensor, **close, msg=lambda m, name=name: f"{name}: {m}")


def test_parts_of_a_batch_give_the_gradients_of_the_whole() -> None:
    model = tiny.clip_pretraining()
    mean = mean_losses(model(whole("pair")))["contrastive"]
    mean.backward()
    results = outcome()[in_parts_of_clip]
    assert results[0][0].keys() == {"contrastive"}
    torch.testing.assert_close(torch.stack([means["contrastive"] for means, _ in results]).mean(), mean.detach())
    due = tiny.gradients(model)
    for _, gradients in results:
        assert gradients.keys() == due.keys()
        for name, tensor in due.items():
            torch.testing.assert_close(gradients[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's compiler asks for it
def test_blocks_compile_whole() -> None:
    plain, compiled, batch = tiny.clip_pretraining(), tiny.clip_pretraining(), whole("pair")
    compile_units(compiled.units())
    for model in (plain, compiled):
        tiny.total(model, batch).backward()
    for name, gradient in tiny.gradients(plain).items():
        torch.testing.assert_close(
            tiny.gradients(compiled)[name.replace("._orig_mod", "")], gradient, rtol=1e-4, atol=1e-5
        )
