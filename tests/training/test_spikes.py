"""What is no number, or far above what it was, is seen in its own step, kept from the weights, and told with its numbers."""

import json
import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from torchflava.training import Scaler, Spike, Spikes, adamw, clip_gradients, drop_gradients

NAN, INF = float("nan"), float("inf")


def looked(spikes: Spikes, step: int, value: float, kind: str = "image", *, norm: float | None = 1.0) -> bool:
    told = None if norm is None else torch.tensor(norm)
    return bool(spikes.look(step, kind, {"mim": torch.tensor(value), "other": torch.tensor(2.0)}, norm=told))


def noisy(n: int, seed: int = 0) -> Iterator[float]:
    yield from (3 + 0.1 * torch.randn(n, generator=torch.Generator().manual_seed(seed))).tolist()


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_what_is_no_number_is_seen_from_the_first_step_on(value: float) -> None:
    spikes = Spikes()
    assert not looked(spikes, 1, value)
    assert looked(spikes, 2, 1e30)
    assert not looked(spikes, 3, 1.0, norm=value)
    assert looked(spikes, 4, 1.0, "text", norm=None)
    one, two = spikes.read()
    assert (one.step, one.kind, one.name, one.ranks) == (1, "image", "mim", (0,))
    assert (two.step, two.name, math.isfinite(two.value)) == (3, "grad_norm", False)
    assert spikes.read() == []


def test_mean_and_deviation_are_those_of_the_values_before() -> None:
    values = [*noisy(30)]
    spikes = Spikes(6.0)
    assert all(looked(spikes, step, value) for step, value in enumerate(values))
    assert not looked(spikes, 30, 9.0)
    (spike,) = spikes.read()
    before = torch.tensor(values)
    assert spike.mean == pytest.approx(float(before.mean()), rel=1e-5)
    assert spike.deviation == pytest.approx(float(before.std(correction=0)), rel=1e-4)
    assert str(spike) == f"mim of image batches was 9 at step 30 ({spike.mean:.3g} +- {spike.deviation:.2g} before)"


def test_the_threshold_is_in_deviations_and_only_upwards() -> None:
    def after_thirty(threshold: float, deviations: float) -> bool:
        spikes, values = Spikes(threshold), [*noisy(30)]
        for step, value in enumerate(values):
            looked(spikes, step, value)
        before = torch.tensor(values)
        return looked(spikes, 30, float(before.mean() + deviations * before.std(correction=0)))

    assert after_thirty(5.0, 4.9)
    assert not after_thirty(5.0, 5.1)
    assert after_thirty(5.0, -50.0)
    assert after_thirty(0.0, 1e6)


def test_each_kind_has_its_own_mean_and_needs_twenty_steps() -> None:
    spikes = Spikes(5.0)
    for step, value in enumerate(noisy(20)):
        assert looked(spikes, step, value, "image")
        assert looked(spikes, step, value - 2, "text")
        assert step == 19 or looked(spikes, step, 100.0 if step == 18 else value, "pair")
    assert looked(spikes, 20, 1e4, "pair")
    assert not looked(spikes, 20, 3.0, "text")
    assert looked(spikes, 20, 3.0, "image")


def test_a_spike_moves_the_mean_little_and_a_new_level_is_learnt() -> None:
    spikes = Spikes(6.0)
    for step, value in enumerate(noisy(50)):
        looked(spikes, step, value)
    assert not looked(spikes, 50, 1e9)
    assert not looked(spikes, 51, NAN)
    assert not looked(spikes, 52, 8.0)
    seen = [looked(spikes, step, value + 5) for step, value in enumerate(noisy(200, 1), 53)]
    assert not seen[0]
    assert all(seen[100:])


def test_values_that_never_differ_do_not_spike_by_rounding() -> None:
    spikes = Spikes(4.0)
    assert all(looked(spikes, step, 2.0 if step < 50 else 2.0000002) for step in range(60))


def test_a_state_goes_through_json_and_on_as_before() -> None:
    whole, first, second = Spikes(5.0), Spikes(5.0), Spikes(5.0)
    values = [*noisy(40)]
    for step, value in enumerate(values):
        looked(whole, step, value)
        if step < 25:
            looked(first, step, value)
    second.load(json.loads(json.dumps(first.state())), torch.device("cpu"))
    for step in range(25, 40):
        looked(second, step, values[step])
    assert second.state() == whole.state()
    assert Spikes(0.0).state() == {}


def test_gradients_are_dropped_where_a_step_is_not_fine() -> None:
    layer = nn.Linear(3, 2)
    layer.weight.grad = torch.full_like(layer.weight, NAN)
    drop_gradients(layer.parameters(), torch.tensor(True))
    assert layer.weight.grad.isnan().all()
    drop_gradients(layer.parameters(), torch.tensor(False))
    assert layer.weight.grad.equal(torch.zeros_like(layer.weight))
    assert layer.bias.grad is None


def test_looking_and_dropping_read_nothing_from_the_device() -> None:
    """On `meta` there are no values to read."""
    spikes, layer = Spikes(3.0), nn.Linear(3, 2, device="meta")
    layer.weight.grad = torch.empty_like(layer.weight)
    for step in range(25):
        value = torch.ones((), device="meta")
        drop_gradients(layer.parameters(), spikes.look(step, "image", {"mim": value}, norm=value))


def test_a_step_that_is_not_wanted_changes_nothing() -> None:
    for precision in ("fp32", "fp16"):
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        optimizer, scaler = adamw(layer, 0.1, 0.1), Scaler(precision, torch.device("cpu"))
        taken = []
        for wanted in (True, False, True):
            before, state = layer.weight.detach().clone(), scaler.state()
            scaler.scale(layer(torch.ones(4, 3)).square().sum()).backward()
            scaler.unscale(optimizer)
            clip_gradients(layer, 1.0)
            taken.append(scaler.step(optimizer, wanted=wanted))
            optimizer.zero_grad()
            assert before.equal(layer.weight) is not wanted
            assert wanted or {k: v for k, v in scaler.state().items() if k != "_growth_tracker"} == {
                k: v for k, v in state.items() if k != "_growth_tracker"
            }
        assert taken == [True, False, True]
        assert int(optimizer.state[layer.weight]["step"]) == 2


@pytest.mark.parametrize("threshold", [-1.0, NAN, INF])
def test_a_threshold_that_cannot_be_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="must be 0, for what is no number alone, or above 0 and finite"):
        Spikes(threshold)


def test_a_spike_without_a_past_says_so() -> None:
    spike = Spike(3, "pair", "itm", NAN, 0.0, 0.0, (0,))
    assert str(spike) == "itm of pair batches was nan at step 3 (nothing before to compare with)"
