"""What a run writes of itself."""

import json
import time
from pathlib import Path

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
