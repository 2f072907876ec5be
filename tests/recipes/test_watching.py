"""A run in which one batch gives no numbers: it stops, leaves the step out, or goes back, and says whose samples they were."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import gradients
import pretrain

from torchflava.training import TIMED, Scaler

BAD = 7  # the step that is planted with NaN


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured, and no report written."""
    import measure_scenes
    import report

    monkeypatch.setattr(measure_scenes, "measure_scenes", lambda measured: ([], []))
    monkeypatch.setattr(report, "report", lambda *parts: None)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the batch of step 7 comes, all its losses and gradients are NaN."""
    monkeypatch.setattr(gradients, "gradients_of", poisoned(gradients.gradients_of))


def poisoned(real: Callable[..., Any]) -> Callable[..., Any]:
    seen: list[torch.Tensor] = []

    def gradients_of(raw: Any, model: Any, *rest: Any, **options: Any) -> dict[str, torch.Tensor]:
        means = real(raw, model, *rest, **options)
        seen.append(raw[0])
        if len(seen) >= BAD and seen[BAD - 1].equal(raw[0]):
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(float("nan"))
            return {name: value * float("nan") for name, value in means.items()}
        return means

    return gradients_of


def run(folder: Path, *words: str) -> list[dict[str, float]]:
    common = ["--preset", "tiny", "--steps", "10", "--save-every", "3"]
    pretrain.main([*common, *words, *([] if "--resume" in words else ["--folder", str(folder)])])
    return records(folder)


def records(folder: Path) -> list[dict[str, float]]:
    (log,) = folder.glob("*/log.jsonl")
    found = [json.loads(line) for line in log.read_text().splitlines()]
    # Without the last line, of what is measured at the end: here nothing.
    return [{k: v for k, v in one.items() if k not in (*TIMED, "step/left_out")} for one in found if len(one) > 1]


def of_run(folder: Path, name: str) -> Path:
    (found,) = folder.glob(f"*/{name}")
    return found


def test_a_run_stops_and_names_the_samples(planted: None, tmp_path: Path) -> None:
    with pytest.raises(
        FloatingPointError, match=r"mlm of text batches was nan at step 7 .* on rank 0, from scene-texts-train \d+, \d+"
    ) as raised:
        run(tmp_path)
    assert "--on-spike skip or rollback" in str(raised.value)
    told = [json.loads(line) for line in of_run(tmp_path, "spikes.jsonl").read_text().splitlines()]
    assert {row["name"] for row in told} >= {"grad_norm"}
    for row in told:
        assert (row["step"], row["value"]) == (7, "nan")
        ((source, samples),) = row["samples"].items()
        assert source in str(raised.value)
        assert len(samples) == 8
    assert [r["step"] for r in records(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert not list(tmp_path.glob("*/step-00000009"))


@pytest.mark.slow
def test_a_run_that_leaves_the_step_out_goes_on(
    planted: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(tmp_path, "--on-spike", "skip")
    assert [r["step"] for r in found] == [*range(1, 11)]
    assert set(found[6]) == {"step", "step/lr"}
    assert "left out" in capsys.readouterr().out
    state = json.loads(of_run(tmp_path, "step-00000010/state.json").read_text())
    assert state["watched"]["left_out"] == [7]


def test_a_run_that_is_told_to_leave_looks_before_it_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = poisoned(gradients.gradients_of), []

    def left(*given: Any, **options: Any) -> dict[str, torch.Tensor]:
        calls.append(1)
        if len(calls) == BAD:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*given, **options)

    monkeypatch.setattr(gradients, "gradients_of", left)
    with pytest.raises(FloatingPointError, match="was nan at step 7"):
        run(tmp_path, "--log-every", "10", "--save-every", "10")
    assert len(calls) == BAD
    assert not list(tmp_path.glob("*/step-*"))


def without(step: int) -> Callable[..., bool]:
    """The scaler's step, of which one is not taken."""
    real, calls = Scaler.step, []

    def taken(self: Scaler, optimizer: torch.optim.Optimizer, *, wanted: bool = True) -> bool:
        calls.append(wanted)
        return real(self, optimizer, wanted=wanted and len(calls) != step)

    return taken


@pytest.mark.slow
def test_a_run_that_goes_back_is_to_the_bit_one_without_that_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Scaler, "step", without(BAD))
        want = run(tmp_path / "want")
    monkeypatch.setattr(gradients, "gradients_of", poisoned(gradients.gradients_of))
    got = run(tmp_path / "got", "--on-spike", "rollback", "--log-every", "1")
    assert "going back to step 6" in capsys.readouterr().out
    assert [r["step"] for r in got] == [*range(1, 11)]
    assert set(got[6]) == {"step", "step/lr"}
    assert got[:6] + got[7:] == want[:6] + want[7:]


def test_without_a_checkpoint_a_run_cannot_go_back(planted: None, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="no checkpoint yet to go back to"):
        run(tmp_path, "--on-spike", "rollback", "--save-every", "9")


@pytest.mark.slow
def test_a_spike_by_its_height_is_found_and_the_mean_goes_on_with_the_run(tmp_path: Path) -> None:
    """A threshold that nothing passes changes nothing; its running means are in the checkpoint."""
    plain = run(tmp_path / "plain")
    watched = run(tmp_path / "watched", "--spike", "1000", "--on-spike", "skip")
    assert watched == plain
    kept = json.loads(of_run(tmp_path / "watched", "step-00000010/state.json").read_text())["watched"]["spikes"]
    assert sum(steps for steps, _, _ in kept.values()) == 10
    assert all(len(mean) == len(variance) >= 2 for _, mean, variance in kept.values())


@pytest.mark.slow
def test_a_trace_and_the_utilisation_are_written_if_asked(tmp_path: Path) -> None:
    run(tmp_path, "--profile-at", "3", "--peak-tflops", "0.01")
    trace = json.loads(of_run(tmp_path, "trace-3.json").read_text())
    names = {event.get("name", "") for event in trace["traceEvents"]}
    assert any("addmm" in name for name in names)
    logged = [json.loads(line) for line in of_run(tmp_path, "log.jsonl").read_text().splitlines()]
    assert all(one["step/mfu"] > 0 for one in logged if len(one) > 1)
    assert not list(tmp_path.glob("*/spikes.jsonl"))


@pytest.mark.slow
def test_a_resumed_run_has_the_running_means_of_the_whole(tmp_path: Path) -> None:
    def means() -> dict[str, Any]:
        state = json.loads(of_run(tmp_path, "step-00000010/state.json").read_text())
        return state["watched"]["spikes"]

    whole = run(tmp_path, "--spike", "9", "--keep", "3")
    want = means()
    shutil.rmtree(of_run(tmp_path, "step-00000010"))
    shutil.rmtree(of_run(tmp_path, "step-00000009"))
    assert run(tmp_path, "--spike", "9", "--resume", str(of_run(tmp_path, "step-00000006").parent)) == whole
    assert means() == want


def test_a_run_does_not_go_back_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step after the checkpoint is not fine: after the given number of returns the run stops."""
    import watch

    real, calls = gradients.gradients_of, []

    def worse(*given: Any, **options: Any) -> dict[str, torch.Tensor]:
        calls.append(1)
        means = real(*given, **options)
        return means if len(calls) <= 3 else {name: value * float("inf") for name, value in means.items()}

    monkeypatch.setattr(gradients, "gradients_of", worse)
    monkeypatch.setattr(watch, "_MOST", 2)
    with pytest.raises(FloatingPointError, match=r"has gone back to .*step-00000003 2 times: lower --lr"):
        run(tmp_path, "--on-spike", "rollback")
