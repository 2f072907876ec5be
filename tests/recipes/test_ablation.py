"""The comparison of table 4: which runs it makes, that it goes on, and what its table and curves are means of."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import ablation
from ablation import Ablation, command, jobs, made_otherwise, mean_curves, table, words_of
from presets import parse, presets, shaping

ROOT = Path(__file__).parents[2]


def written(folder: Path, values: dict[str, float], records: list[dict[str, float]]) -> Path:
    folder.mkdir()
    readings = {name: {"value": value, "chance": 0.25} for name, value in values.items()}
    (folder / "result.json").write_text(json.dumps({"readings": readings}))
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return folder


def test_what_flava_starts_from_is_made_first_and_once() -> None:
    made = list(jobs(Ablation(seeds=(3, 5))))
    assert [job.name for job in made[:2]] == ["mim_only-3", "text_stage1-3"]
    assert [job.name for job in made[2:6]] == ["flava_c-3", "flava_mm-3", "flava_no_init-3", "flava-3"]
    assert len(made) == 2 + 2 * 4
    first = {job.name: job.first for job in made}
    assert first["flava-5"] == (
        "--init-image",
        "runs/ablation/mim_only-3",
        "--init-text",
        "runs/ablation/text_stage1-3",
    )
    assert all("ablation" not in word for name, words in first.items() if name[:-2] != "flava" for word in words)
    assert [job.row for job in jobs(Ablation(rows=("flava_c",), seeds=(1,)))] == ["flava_c"]


@pytest.mark.parametrize("row", [*ablation.STAGE_ONE, *ablation.ROWS])
def test_a_run_is_its_preset_made_smaller(row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = Ablation(corpus="scenes", steps=300)
    job = next(job for job in jobs(asked) if job.row == row)
    words = command(asked, job)[2:]
    for place in ("basis/vocab.txt", "basis/codebook.safetensors", *job.first[1::2]):
        needed = asked.folder / place if place.startswith("basis") else Path(place)
        needed.parent.mkdir(parents=True, exist_ok=True)
        needed.touch()
    config, whole = parse(words), presets()[row]()
    kept = (
        "weights",
        "shares",
        "lr",
        "betas",
        "weight_decay",
        "clip",
        "schedule",
        "mismatch_rate",
        "mask_rate",
        "gradients",
    )
    for name in kept:
        assert getattr(config, name) == getattr(whole, name), name
    assert config.warmup_steps / config.steps == pytest.approx(whole.warmup_steps / whole.steps, abs=1 / 300)
    assert bool(config.init_image) == (row == "flava")
    assert (config.model, config.image_size, config.num_codes) == ("mini", 48, 128)


def test_the_table_has_means_and_deviations_over_the_seeds(tmp_path: Path) -> None:
    runs = [
        written(tmp_path / str(at), {"R@1": value, "only": 1.0}, [{"step": 1}])
        for at, value in enumerate((0.1, 0.4, 0.7))
    ]
    other = written(tmp_path / "other", {"R@1": 0.5}, [{"step": 1}])
    said = table({"first": runs, "second": [other]})
    deviation = np.std([0.1, 0.4, 0.7], ddof=1)
    assert f"| R@1 | {np.mean([0.1, 0.4, 0.7]):.3f} ± {deviation:.3f} | 0.500 | 0.250 |" in said
    assert "| only | 1.000 ± 0.000 |  | 0.250 |" in said
    assert "over 1 and 3 seeds" in said


def test_curves_are_means_where_all_runs_have_a_value(tmp_path: Path) -> None:
    rest = {"measured/pixels": 0.3, "step/lr": 0.1}
    logs = [{1: 2.0, 2: 4.0, 4: 4.0}, {2: 1.0, 3: 9.0, 4: 9.0}]
    one, two = (
        written(tmp_path / str(at), {}, [{"step": step, "pair/itm": value} | rest for step, value in log.items()])
        for at, log in enumerate(logs)
    )
    with (one / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "image/mim": 1.0}\n')
    assert mean_curves([one, two]) == {"pair/itm": ([2, 4], [2.5, 6.5])}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rows", "flava", "flavour"], "--rows flavour are no presets"),
        (["--seeds", "1", "1"], "--seeds 1 1 must be one or more different numbers"),
        (["--steps", "3"], "--steps 3 must be 15 or more"),
        (["--rows", "flava_beit_init"], "--rows flava_beit_init begins with a beit image encoder"),
        (["--only-table"], "no run in runs/ablation is complete"),
    ],
)
def test_what_cannot_be_is_said(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=said.replace("*", ".")):
        ablation.main(words)


def test_what_was_made_with_other_settings_is_not_taken_for_what_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "save_corpus", lambda corpus, folder: None)
    monkeypatch.setattr(ablation, "open_corpus", lambda config: None)
    asked = Ablation(folder=tmp_path, corpus="scenes", rows=("flava_c",), seeds=(1,))
    (job,) = jobs(asked)
    ablation._learn_basis(asked)
    result = tmp_path / job.name / "result.json"
    result.parent.mkdir()
    result.write_text(json.dumps({"readings": {}, "config": shaping(parse(words_of(asked, job), places=False))}))
    assert made_otherwise(asked) == ""
    assert made_otherwise(replace(asked, measure_every=1, procs=2, seeds=(1, 2))) == ""  # shapes no run that is there
    told = f"{result.parent} was made with other settings: batch_size was 128, is 64; steps was 900, is 300; "
    told += "warmup_steps was 12, is 4; give those, or another --folder"
    assert re.sub(r"warmup_steps was \d+, is \d+", "warmup_steps was 12, is 4", made_otherwise(
        replace(asked, batch_size=64, steps=300))) == told  # fmt: skip
    with pytest.raises(SystemExit, match="steps was 900, is 300"):
        ablation.main(
            ["--corpus", "scenes", "--rows", "flava_c", "--seeds", "1", "--steps", "300", "--folder", str(tmp_path)]
        )
    assert f"{tmp_path / 'basis'} was made with other settings: corpus was 'scenes', is 'emoji'" in made_otherwise(
        replace(asked, corpus="emoji")
    )


CHILD = """
import signal, sys, time
from pathlib import Path
def stop(*_):
    Path(sys.argv[1], "saved").touch()
    sys.exit(int(sys.argv[2]))
signal.signal(signal.SIGTERM, stop)
Path(sys.argv[1], "ready").touch()
time.sleep(60)
"""
PARENT = """
import sys
sys.path.insert(0, {recipes!r})
from child import run
sys.exit(run([sys.executable, "-c", {child!r}, *sys.argv[1:]]))
"""


@pytest.mark.parametrize(("code", "due"), [(75, 75), (3, 3), (0, 75)])
def test_a_signal_is_handed_on_to_the_run(code: int, due: int, tmp_path: Path) -> None:
    parent = PARENT.format(recipes=str(ROOT / "recipes"), child=CHILD)
    started = subprocess.Popen(
        [sys.executable, "-c", parent, str(tmp_path), str(code)], env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    end = time.monotonic() + 200
    while not (tmp_path / "ready").exists() and time.monotonic() < end:
        time.sleep(0.01)
    started.terminate()
    assert started.wait(200) == due
    assert (tmp_path / "saved").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_makes_the_runs_and_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    words = ["--corpus", "scenes", "--seeds", "0", "--rows", "flava_c", "flava", "--model", "tiny", "--steps", "16"]
    words += ["--batch-size", "8", "--measure-every", "8", "--precision", "fp32", "--folder", str(tmp_path)]
    line = [sys.executable, str(ROOT / "recipes/ablation.py"), *words]
    first = subprocess.run(line, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    made = [name.removeprefix("== ") for name in first.stdout.splitlines() if name.startswith("== ")]
    assert made == ["mim_only-0", "text_stage1-0", "flava_c-0", "flava-0"]
    assert "image_encoder from" in first.stdout
    assert (tmp_path / "ablation.png").stat().st_size > 10_000
    said = (tmp_path / "ablation.md").read_text()
    assert "| `flava_c` | `flava` |" in said
    (tmp_path / "flava-0" / "result.json").unlink()
    (tmp_path / "ablation.md").unlink()
    again = subprocess.run(line, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert [name for name in again.stdout.splitlines() if name.startswith("== ")] == ["== flava-0"]
    assert "going on at step 16" in again.stdout
    assert (tmp_path / "ablation.md").read_text() == said  # the finished run is measured again, on the same weights
