"""What a run writes of itself."""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from torchflava.training import Meter


def run(folder: Path | None, steps: int = 5) -> None:
    meter = Meter(folder, steps, 2)
    for step in range(steps):
        losses = {"mim": torch.tensor(float(step), requires_grad=True)}
        meter.add("image", losses, samples=8, waited=0.0, lr=0.1 * step, norm=torch.tensor(2.0))
        meter.step(step + 1)
    meter.close()


def test_means_are_taken_over_the_steps_between_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(r["step"], r["image/mim"]) for r in records] == [(2, 0.5), (4, 2.5), (5, 4.0)]
    assert [r["step/lr"] for r in records] == pytest.approx([0.1, 0.3, 0.4])
    assert all(r["step/samples_per_s"] > 0 and r["step/grad_norm"] == 2.0 for r in records)
    said = capsys.readouterr().out
    assert "5/5" in said
    assert "image mim 4.00" in said


def test_tensorboard_gets_the_same(tmp_path: Path) -> None:
    run(tmp_path)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("image/mim")] == [(2, 0.5), (4, 2.5), (5, 4.0)]


def test_a_rank_that_does_not_write_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(None)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_what_is_no_number_stops_the_run_by_name(tmp_path: Path) -> None:
    meter = Meter(tmp_path, 5, 1)
    meter.add("pair", {"itm": torch.tensor(float("nan"))}, samples=8, waited=0.0, lr=0.1, norm=torch.tensor(1.0))
    with pytest.raises(FloatingPointError, match="by step 1, pair/itm is no finite number"):
        meter.step(1)
    meter.close()


def test_a_pause_is_no_training_time(tmp_path: Path) -> None:
    meter = Meter(tmp_path, 4, 2)
    for step in range(4):
        meter.add("image", {"mim": torch.tensor(1.0)}, samples=8, waited=0.0, lr=0.1, norm=torch.tensor(2.0))
        if step == 2:
            with meter.paused():
                time.sleep(0.4)
        meter.step(step + 1)
    meter.close()
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert records[1]["step/samples_per_s"] > 16 / 0.3


def test_measurements_before_the_checkpoint_stay_and_the_last_one_comes_anew(tmp_path: Path) -> None:
    def measured_at(start: int) -> list[int]:
        Meter(tmp_path, 6, 1, start=start).close()
        return [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]

    meter = Meter(tmp_path, 6, 1)
    for step in (2, 4, 6):
        meter.write(step, {"measured/auroc": 0.5})
    meter.close()
    assert measured_at(6) == [2, 4]
    assert measured_at(3) == [2]


def test_a_log_gone_on_with_has_each_step_once(tmp_path: Path) -> None:
    run(tmp_path)
    meter = Meter(tmp_path, 5, 1, start=2)
    for step in (2, 3, 4):
        losses = {"mim": torch.tensor(float(step))}
        meter.add("image", losses, samples=8, waited=0.0, lr=0.1, norm=torch.tensor(1.0))
        meter.step(step + 1)
    meter.close()
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2, 3, 4, 5]


def added(meter: Meter, step: int, value: float, *, fine: bool | None = None, flops: float = 0.0) -> None:
    told = None if fine is None else torch.tensor(fine)
    loss = {"mim": torch.tensor(value)}
    meter.add("image", loss, samples=8, waited=0.0, lr=0.1, norm=torch.tensor(value), flops=flops, fine=told)
    meter.step(step)


def records(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_steps_that_are_not_fine_are_left_out_of_the_means(tmp_path: Path) -> None:
    meter = Meter(tmp_path, 6, 3)
    for step, (value, fine) in enumerate([(1.0, None), (1e6, False), (4.0, True)], 1):
        added(meter, step, value, fine=fine)
    for step in (4, 5, 6):
        added(meter, step, float("inf"), fine=False)
    meter.close()
    first, second = records(tmp_path)
    assert (first["image/mim"], first["step/grad_norm"]) == (2.5, 2.5)
    assert "image/mim" not in second
    assert second["step/lr"] == 0.1


def test_utilisation_is_of_the_peak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meter = Meter(tmp_path, 2, 2, peak_flops=1e6)
    added(meter, 1, 1.0, flops=1e5)
    time.sleep(0.2)
    added(meter, 2, 1.0, flops=3e5)
    meter.close()
    (record,) = records(tmp_path)
    seconds = 16 / record["step/samples_per_s"]
    assert record["step/mfu"] == pytest.approx(4e5 / seconds / 1e6)
    assert (
        f"MFU {100 * record['step/mfu']:.1f} %  peak {record['step/peak_memory_gb']:.1f} GB" in capsys.readouterr().out
    )


def test_no_utilisation_is_told_where_the_peak_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meter = Meter(tmp_path, 1, 1)
    added(meter, 1, 1.0, flops=1e5)
    meter.close()
    assert "step/mfu" not in records(tmp_path)[0]
    assert "MFU" not in capsys.readouterr().out


def test_the_time_left_is_that_of_the_steps_taken_since_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    meter = Meter(tmp_path, 1000, 1, start=989)
    time.sleep(0.5)
    added(meter, 990, 1.0)
    meter.close()
    assert "[00:00<00:05" in capsys.readouterr().out, "one step in half a second, ten to go"


def test_what_came_after_a_step_is_forgotten(tmp_path: Path) -> None:
    meter = Meter(tmp_path, 6, 2)
    for step in (1, 2, 3, 4, 5):
        added(meter, step, float(step))
    meter.rewind(3)
    for step in (4, 5, 6):
        added(meter, step, 10.0 * step)
    meter.rewind(5)
    added(meter, 6, 7.0)
    meter.close()
    assert [(r["step"], r["image/mim"]) for r in records(tmp_path)] == [(2, 1.5), (4, 40.0), (6, 7.0)]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("image/mim")] == [(2, 1.5), (4, 40.0), (6, 7.0)]


class Wandb:
    """Stands in for the package: notes what it is told."""

    def __init__(self) -> None:
        self.begun: dict[str, Any] = {}
        self.logged: list[dict[str, float]] = []
        self.metrics: list[tuple[str, str]] = []
        self.finished = 0

    def init(self, **told: Any) -> "Wandb":
        self.begun = told
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        self.metrics.append((name, step_metric))

    def log(self, record: dict[str, float]) -> None:
        self.logged.append(record)

    def finish(self) -> None:
        self.finished += 1


def test_weights_and_biases_gets_the_records_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    (tmp_path / "config.json").write_text('{"lr": 0.1}')
    meter = Meter(tmp_path, 2, 1, wandb="flava")
    added(meter, 1, 1.0)
    added(meter, 2, 3.0)
    meter.close()
    assert wandb.logged == records(tmp_path)
    assert (wandb.begun["project"], wandb.begun["name"], wandb.begun["resume"]) == ("flava", tmp_path.name, "allow")
    assert wandb.begun["config"] == {"lr": 0.1}
    assert wandb.metrics == [("*", "step")]
    assert wandb.finished == 1


def test_pictures_go_to_tensorboard_and_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Wandb()
    wandb.Image = lambda pixels: pixels.tolist()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    meter = Meter(tmp_path, 2, 1, wandb="flava")
    image = torch.arange(24, dtype=torch.uint8).view(3, 2, 4)
    meter.picture(2, "reconstructions", image)
    meter.close()
    assert wandb.logged == [{"step": 2, "reconstructions": image.permute(1, 2, 0).tolist()}]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (event,) = events.Images("reconstructions")
    assert (event.step, event.width, event.height) == (2, 4, 2)
    Meter(None, 2, 1).picture(1, "reconstructions", image)  # of a rank that does not write


def test_runs_of_one_name_in_two_places_are_two_of_weights_and_biases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.chdir(tmp_path)
    begun = []
    for folder in (tmp_path / "a" / "first", tmp_path / "b" / "first", Path("a/first")):
        folder.mkdir(parents=True, exist_ok=True)
        Meter(folder, 2, 1, wandb="flava").close()
        begun.append(wandb.begun["id"])
        assert wandb.begun["name"] == "first"
    assert begun[0] != begun[1]
    assert begun[0] == begun[2]  # which goes on


def test_without_the_package_its_name_and_the_remedy_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        ValueError, match=r"project 'flava', but its package is not there; pip install 'torchflava\[wandb\]'"
    ):
        Meter(tmp_path, 2, 1, wandb="flava")
    Meter(tmp_path, 2, 1).close()


def test_nothing_is_read_from_the_device_between_records(tmp_path: Path) -> None:
    """A value that cannot be read, as those on `meta`, is no trouble until it is written."""
    meter = Meter(tmp_path, 3, 3)
    fake = SimpleNamespace(detach=lambda: torch.ones((), device="meta"))
    for step in (1, 2):
        meter.add("image", {"mim": fake}, samples=8, waited=0.0, lr=0.1, norm=fake)  # type: ignore[dict-item, arg-type]
        meter.step(step)
    with pytest.raises((RuntimeError, NotImplementedError)):
        meter.step(3)
    meter.close()
