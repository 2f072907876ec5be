"""One rank's batch gives no numbers: all ranks see it, take the same branch, and know whose samples they were."""

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from ranks import Outcome, on_ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from torchflava.data.mixture import Kind, Mixture
from torchflava.training import Run, Spikes, adamw, clip_gradients, drop_gradients, mesh_of, shard

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

POISON = 5  # the sample of the source that is no number
BAD = 7  # the step of the recipe that is planted


class Numbers:
    name = "numbers"

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> float:
        return float("nan") if index == POISON else 1.0 + index


def row(source: Numbers, index: int, rng: np.random.Generator) -> float:
    return source[index]


def column(rows: Sequence[float]) -> Any:
    return torch.tensor(rows)[:, None]


def from_a_source(rank: int, world_size: int) -> dict[str, Any]:
    """A source with one sample that is NaN, three batches of 8 an epoch; the weights after leaving one step out."""
    mixture = Mixture({"numbers": Kind(Numbers(), row, column, 1.0)}, 8, seed=0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1))
    alone = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1))
    alone.load_state_dict(model.state_dict())
    shard(model, init_device_mesh("cpu", (world_size,)), [model[0]])
    optimizer, other = adamw(model, 0.1, 0.1), adamw(alone, 0.1, 0.1)
    spikes, fine = Spikes(), []
    for step in range(3):
        loss = model(mixture[step].batch).square().mean()
        loss.backward()
        norm = clip_gradients(model, 1.0)
        good = spikes.look(step, "numbers", {"loss": loss}, norm=norm)
        drop_gradients(model.parameters(), good)
        fine.append(bool(good))
        optimizer.step()
        optimizer.zero_grad()
        whole = torch.cat([mixture.part(step, rank=r, world_size=world_size).batch for r in range(world_size)])
        alone(whole).square().mean().backward()
        clip_gradients(alone, 1.0)
        for parameter in alone.parameters():
            assert parameter.grad is not None
            parameter.grad = parameter.grad if good else torch.zeros_like(parameter)
        other.step()
        other.zero_grad()
    for mine, its in zip(model.parameters(), alone.parameters(), strict=True):
        assert isinstance(mine, DTensor) == (world_size > 1)  # one rank keeps its weights whole
        weights = mine.full_tensor() if isinstance(mine, DTensor) else mine.detach()
        torch.testing.assert_close(weights, its.detach(), rtol=1e-5, atol=1e-6)
    found = spikes.read()
    samples = [
        [one.at for one in mixture.chosen(s.step, rank=r, world_size=world_size)] for s in found for r in s.ranks
    ]
    return {"fine": fine, "found": [(s.step, s.name, s.ranks) for s in found], "samples": samples}


def through_the_recipe(rank: int, world_size: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """A run that goes back, on ranks of which the last one's batch is planted."""
    import gradients
    import measure_scenes
    import pretrain
    import report

    from torchflava import training

    real, seen = gradients.gradients_of, []

    def planted(raw: Any, model: Any, *rest: Any, **options: Any) -> dict[str, torch.Tensor]:
        means = real(raw, model, *rest, **options)
        seen.append(raw[0])
        wrong = rank == world_size - 1 and len(seen) >= BAD and seen[BAD - 1].equal(raw[0])
        for parameter in model.parameters():
            if wrong and parameter.grad is not None:
                grad = parameter.grad
                (grad.to_local() if isinstance(grad, DTensor) else grad).mul_(float("nan"))
        return {name: value * float("nan") for name, value in means.items()} if wrong else means

    @contextmanager
    def here(seed: int, device: str) -> Iterator[Run]:
        yield Run(rank, world_size, torch.device("cpu"), mesh_of(torch.device("cpu")))

    said, words = StringIO(), "--preset tiny --steps 10 --save-every 3 --on-spike rollback"
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(gradients, "gradients_of", planted),
        mock.patch.object(training, "session", here),
        mock.patch.object(measure_scenes, "measure_scenes", return_value=([], [])),
        mock.patch.object(report, "report"),
        redirect_stdout(said),
    ):
        pretrain.main([*words.split(), "--folder", folder])
        files = [Path(folder).glob(f"*/{name}") for name in ("log.jsonl", "spikes.jsonl")]
        log, spikes = (
            [json.loads(line) for path in paths for line in path.read_text().splitlines()] for paths in files
        )
        torch.distributed.barrier()
    return log, spikes, said.getvalue()


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return on_ranks(2, from_a_source, through_the_recipe)


@pytest.mark.slow
def test_all_ranks_see_the_step_leave_it_out_and_know_the_sample(outcome: Outcome) -> None:
    first, second = outcome[from_a_source]
    assert first == second
    (bad,) = [step for step, fine in enumerate(first["fine"]) if not fine]
    assert [(step, name) for step, name, _ in first["found"]] == [(bad, "loss"), (bad, "grad_norm")]
    assert all(len(ranks) == 1 for _, _, ranks in first["found"])
    assert all(POISON in samples and len(samples) == 4 for samples in first["samples"])


@pytest.mark.slow
def test_one_rank_sees_as_two_do() -> None:
    alone = from_a_source_alone()
    assert [name for _, name, _ in alone["found"]] == ["loss", "grad_norm"]
    assert all(POISON in samples and len(samples) == 8 for samples in alone["samples"])


def from_a_source_alone() -> dict[str, Any]:
    (result,) = on_ranks(1, from_a_source)[from_a_source]
    return result


@pytest.mark.slow
def test_all_ranks_go_back_together(outcome: Outcome) -> None:
    (log, spikes, said), (_, _, other) = outcome[through_the_recipe]
    assert [one["step"] for one in log if "step/lr" in one] == [*range(1, 11)]
    assert "step/grad_norm" not in log[6]
    assert log[-2]["step/left_out"] == 1.0
    assert {(one["step"], tuple(one["ranks"])) for one in spikes} == {(7, (1,))}
    assert all(len(keys) == 4 for one in spikes for keys in one["samples"].values())
    assert "on rank 1, from" in said
    assert "going back to step 6" in said
    assert other == ""
