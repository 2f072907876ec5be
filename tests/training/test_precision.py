"""Twenty steps in float16 beside float32, and a forced overflow that is left out and counted."""

from collections.abc import Iterator

import pytest
import tiny
import torch

from torchflava.losses import mean_losses
from torchflava.training import Scaler, adamw, clip_gradients, initialise, mesh_of, session, shard

DEVICE = torch.device("cpu")


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    with session(0, "cpu"):
        yield


def started(precision: str):
    model = tiny.pretraining()
    initialise(model, 0)
    shard(model, mesh_of(DEVICE), precision=precision, whole=[model.contrastive])
    return model, adamw(model, 2e-3, 0.1), Scaler(precision, DEVICE)


def step(model, optimizer, scaler, number: int) -> tuple[float, bool]:
    batch = tiny.batch_of(tiny.KINDS[number % 3], seed=number // 3 % 2)
    loss = torch.stack(list(mean_losses(model(batch)).values())).sum()
    scaler.scale(loss).backward()
    scaler.unscale(optimizer)
    norm = clip_gradients(model, 1.0)
    taken = scaler.step(optimizer)
    assert taken == bool(norm.isfinite())
    optimizer.zero_grad()
    return float(loss.detach()), taken


@pytest.mark.slow
def test_float16_learns_as_float32_does() -> None:
    losses = {}
    for precision in ("fp32", "fp16"):
        run = started(precision)
        if precision == "fp16":
            run[2].load(run[2].state() | {"scale": 1024.0})
        told = [step(*run, number) for number in range(20)]
        assert all(taken for _, taken in told)
        losses[precision] = torch.tensor([loss for loss, _ in told])
    exact = losses["fp32"]
    assert exact[-6:].sum() < 0.9 * exact[:6].sum()
    torch.testing.assert_close(losses["fp16"], exact, rtol=0.02, atol=0.02)
    assert not torch.equal(losses["fp16"], exact)


def test_steps_that_overflow_are_left_out_and_counted_and_the_scale_falls() -> None:
    model, optimizer, scaler = started("fp16")
    scaler.load(scaler.state() | {"scale": 2.0**40})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    taken = []
    while not (taken and taken[-1]):
        assert all(torch.equal(p.detach(), before[name]) for name, p in model.named_parameters())
        taken.append(step(model, optimizer, scaler, 2)[1])
        assert len(taken) < 60
    assert any(not torch.equal(p.detach(), before[name]) for name, p in model.named_parameters())
    assert scaler.skipped == len(taken) - 1 > 3
    assert scaler.readings() == {"step/loss_scale": 2.0 ** (40 - scaler.skipped), "step/skipped": float(scaler.skipped)}
    again = Scaler("fp16", DEVICE)
    again.load(scaler.state())
    assert (again.state(), again.skipped) == (scaler.state(), scaler.skipped)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_precisions_scale_nothing(precision: str) -> None:
    scaler = Scaler(precision, DEVICE)
    loss = torch.tensor(3.0)
    assert scaler.scale(loss) is loss
    assert (scaler.state(), scaler.readings(), scaler.skipped) == ({}, {}, 0)
    model, optimizer, _ = started(precision)
    assert step(model, optimizer, scaler, 0)[1]
