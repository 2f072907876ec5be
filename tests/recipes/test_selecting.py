"""The best of what was measured on the way is kept, and is what the run ends with."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import pretrain
from best import Selection
from presets import parse

from torchflava.evaluation import Reading
from torchflava.training import best_checkpoint


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, values: list[float], *words: str) -> tuple[Path, list[float]]:
    """A tiny run of six steps, measured after every second one; the measurements are given."""
    import measure_scenes
    import report

    left, reported = [*values], []
    monkeypatch.setattr(
        measure_scenes, "measure_scenes", lambda measured: ([Reading("accuracy", left.pop(0), 0.1)], [])
    )
    monkeypatch.setattr(report, "report", lambda config, readings, *rest: reported.append(readings[0].value))
    common = ["--preset", "tiny", "--steps", "6", "--keep", "1", "--measure-every", "2"]
    pretrain.main([*common, *words, "--folder", str(folder)])
    assert not left
    (found,) = folder.iterdir()
    return found, reported


def exported_is(folder: Path, checkpoint: str) -> bool:
    (shard,) = (folder / checkpoint).glob("*.safetensors")
    saved, exported = load_file(shard), load_file(folder / "model.safetensors")
    return all(saved[f"model/{name}"].equal(value) for name, value in exported.items())


@pytest.mark.slow
def test_the_best_is_kept_and_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Before the first step, after 2, 4 and 6, and of what the run ends with.
    folder, reported = run(tmp_path, monkeypatch, [0.5, 0.2, 0.4, 0.3, 0.45], "--select", "accuracy")
    assert sorted(path.name for path in folder.glob("step-*")) == ["step-00000004", "step-00000006"]
    assert best_checkpoint(folder) == folder / "step-00000004"
    assert exported_is(folder, "step-00000004")
    assert not exported_is(folder, "step-00000006")
    assert reported == [0.45]
    measured = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    curve = [(r["step"], r["measured/accuracy"]) for r in measured if "measured/accuracy" in r]
    assert curve == [(2, 0.2), (4, 0.4), (6, 0.3)]
    assert json.loads((folder / "step-00000006/state.json").read_text())["selected"] == {"accuracy": 0.4}


@pytest.mark.slow
def test_the_last_may_be_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = run(tmp_path, monkeypatch, [0.5, 0.2, 0.4, 0.6, 0.6], "--select", "accuracy")
    assert best_checkpoint(folder) == folder / "step-00000006"
    assert exported_is(folder, "step-00000006")


def test_without_a_name_none_is_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, reported = run(tmp_path, monkeypatch, [0.9, 0.2, 0.4])
    assert best_checkpoint(folder) is None
    assert exported_is(folder, "step-00000006")
    assert reported == [0.4]


def test_a_name_that_is_not_measured_is_told_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="--select 'auroc' is not measured; there are: accuracy"):
        run(tmp_path, monkeypatch, [0.9], "--select", "auroc")
    with pytest.raises(SystemExit, match="--select 'accuracy' needs measurements"):
        parse(["--select", "accuracy"])


class Alone:
    """One process."""

    leads = True

    def agree(self, value: object) -> object:
        return value


@pytest.mark.parametrize(
    ("name", "values", "better"),
    [
        ("accuracy", [0.3, 0.2, 0.4, 0.4], [True, False, True, False]),
        ("mlm loss", [3.0, 3.1, 2.0, 2.0], [True, False, True, False]),
        ("accuracy", [float("nan"), 0.1, float("nan"), 0.2], [False, True, False, True]),
    ],
)
def test_more_is_better_but_for_losses(name: str, values: list[float], better: list[bool], tmp_path: Path) -> None:
    config = parse(["--preset", "tiny", "--select", name, "--measure-every", "2"])
    selection = Selection(config, tmp_path, Alone())  # type: ignore[arg-type]
    assert [selection.better([Reading("other", 9.0, 0.0), Reading(name, v, 0.0)]) for v in values] == better


@pytest.mark.slow
def test_a_run_that_goes_on_knows_its_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = run(tmp_path, monkeypatch, [0.5, 0.2, 0.4, 0.3, 0.45], "--select", "accuracy")
    config = parse(["--preset", "tiny", "--select", "accuracy", "--measure-every", "2"])
    selection = Selection(config, folder, Alone())  # type: ignore[arg-type]
    assert selection.value == 0.4
    assert not selection.better([Reading("accuracy", 0.35, 0.1)])


@pytest.mark.slow
def test_a_best_by_another_reading_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = run(tmp_path, monkeypatch, [0.5, 0.2, 0.4, 0.3, 0.45], "--select", "accuracy")
    exported = (folder / "model.safetensors").read_bytes()
    told = "--select 'mlm loss', but .* was chosen by 'accuracy'; go on with --select 'accuracy', or start a new run"
    with pytest.raises(ValueError, match=told):
        run(tmp_path, monkeypatch, [], "--select", "mlm loss", "--name", folder.name)
    assert (folder / "model.safetensors").read_bytes() == exported


def test_a_name_for_a_run_without_a_step_left_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = run(tmp_path, monkeypatch, [0.2, 0.4, 0.3])
    with pytest.raises(ValueError, match=r"--select 'accuracy' has nothing to choose from: .* has done its 6 steps"):
        run(tmp_path, monkeypatch, [], "--select", "accuracy", "--name", folder.name)


@pytest.mark.slow
def test_a_run_that_goes_on_tells_at_once_a_name_that_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = run(tmp_path, monkeypatch, [0.2, 0.4, 0.3])
    shutil.rmtree(folder / "step-00000006")
    words = ["--name", folder.name, "--save-every", "2", "--keep", "9"]
    run(tmp_path, monkeypatch, [0.2, 0.4, 0.3], *words)
    shutil.rmtree(folder / "step-00000006")
    with pytest.raises(ValueError, match="--select 'auroc' is not measured; there are: accuracy"):
        run(tmp_path, monkeypatch, [0.9], "--select", "auroc", *words)
    log = (folder / "log.jsonl").read_text().splitlines()
    assert max(json.loads(line)["step"] for line in log) == 4  # no step was taken
    # A name that is measured may come late: of what is measured from then on, the best is kept.
    later, reported = run(tmp_path, monkeypatch, [0.9, 0.3, 0.3], "--select", "accuracy", *words)
    assert best_checkpoint(later) == folder / "step-00000006"
    assert reported == [0.3]


def test_where_no_reading_was_a_number_the_last_weights_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = float("nan")
    folder, _ = run(tmp_path, monkeypatch, [nan, nan, nan, nan, nan], "--select", "accuracy")
    assert best_checkpoint(folder) is None
    assert exported_is(folder, "step-00000006")
