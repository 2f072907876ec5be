"""Fine-tuning that is stopped and started again, or shared by ranks, learns the same."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))

from tuned import ROOT, log, results, tiny_model, tune

sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))

import tuning_steps
from made_tuning import TUNING, own_pairs

STEPS = 7
WORDS = [
    "--task",
    "hateful_memes",
    "--image-size",
    "16",
    "--steps",
    str(STEPS),
    "--warmup",
    "2",
    "--batch-size",
    "6",
    "--lr",
]
WORDS += ["1e-3", "--log-every", "2", "--measure-every", "2", "--device", "cpu", "--ema", "0.7", "--layer-decay", "0.8"]


def inputs(tmp_path: Path) -> list[str]:
    TUNING["hateful_memes"](tmp_path / "data")
    return ["--model", str(tiny_model(tmp_path / "first")), "--data", str(tmp_path / "data")]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("stops", [(3,), (1, 4, 7)])
def test_a_run_that_is_stopped_goes_on_to_the_bit(
    stops: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*inputs(tmp_path), *WORDS, "--dropout", "0.3", "--crop", "0.5", "--micro-batch", "4"]
    whole = tune(tmp_path / "whole", *words)
    taken = tuning_steps.gradients
    left = [*stops]

    def stopping(batch: object, started: tuning_steps.Started, device: torch.device) -> torch.Tensor:
        step = 1 + int(next(iter(started.optimizer.state.values()), {"step": torch.zeros(())})["step"])
        if left and step == left[0]:
            left.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)
        return taken(batch, started, device)

    monkeypatch.setattr(tuning_steps, "gradients", stopping)
    for _ in stops:
        with pytest.raises(SystemExit) as end:
            tune(tmp_path / "again", *words)
        assert end.value.code == 75
    again = tune(tmp_path / "again", *words)
    assert not left
    assert all(value.equal(weights(again)[name]) for name, value in weights(whole).items())
    assert log(again) == log(whole)
    assert log(whole)[-1].keys() >= {"measured/auroc_dev_seen", "measured/auroc"}
    assert results(again) == results(whole)


@pytest.mark.slow
def test_a_run_that_died_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    """Death after step 3, as its folder then is: no later checkpoint, a log that is ahead of it."""
    words = [*inputs(tmp_path), *WORDS, "--save-every", "1", "--keep", "9"]
    whole = tune(tmp_path, *words)
    due = weights(whole), log(whole), results(whole)
    for step in range(4, STEPS + 1):
        shutil.rmtree(whole / f"step-{step:08d}")
    (whole / "model.safetensors").unlink()
    again = tune(tmp_path, *words)
    assert all(value.equal(weights(again)[name]) for name, value in due[0].items())
    assert (log(again), results(again)) == due[1:]


@pytest.mark.slow
def test_other_settings_or_examples_do_not_go_on(tmp_path: Path) -> None:
    words = [*inputs(tmp_path), *WORDS]
    tune(tmp_path / "runs", *words)
    with pytest.raises(ValueError, match=r"belongs to another run: lr was 0.001, is 0.002"):
        tune(tmp_path / "runs", *words, "--lr", "2e-3")
    file = tmp_path / "data/hateful_memes/train.jsonl"
    file.write_text(file.read_text().replace('"label": 1', '"label": 0', 1))
    with pytest.raises(ValueError, match="belongs to another run: fingerprint was"):
        tune(tmp_path / "runs", *words)


@pytest.mark.slow
def test_two_ranks_learn_what_one_does(tmp_path: Path) -> None:
    words = [*inputs(tmp_path), *WORDS]
    one = tune(tmp_path / "one", *words)
    start = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
    ]
    command = [sys.executable, *start, "--local-addr", "127.0.0.1", "recipes/finetune.py", *words]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--folder", str(tmp_path), "--name", "two"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for got, due in zip(log(tmp_path / "two"), log(one), strict=True):
        assert got == pytest.approx(due, rel=1e-3, abs=1e-4)
    assert results(tmp_path / "two") == pytest.approx(results(one))
    again = (tmp_path / "two/predictions_test_unseen.csv").read_text()
    assert [line.split(",")[0] for line in again.splitlines()] == ["id", "29", "30", "31"]


@pytest.mark.slow
def test_the_average_is_what_is_measured_and_kept(tmp_path: Path) -> None:
    words = [*inputs(tmp_path), *WORDS, "--select", ""]
    folder = tune(tmp_path, *words)
    (shard,) = folder.glob(f"step-{STEPS:08d}/*.safetensors")
    saved, kept = load_file(shard), weights(folder)
    name = "classifier.dense.weight"
    assert kept[name].equal(saved[f"optimizer/{name}/average"])
    assert not kept[name].equal(saved[f"model/{name}"])
    assert json.loads((folder / "config.json").read_text())["ema"] == 0.7


@pytest.mark.slow
def test_a_pretraining_run_s_folder_is_tuned(tmp_path: Path) -> None:
    import pretrain

    pretrain.main(["--preset", "tiny", "--folder", str(tmp_path), "--name", "first"])
    own_pairs(tmp_path / "own")
    files = ["--train", str(tmp_path / "own/train.jsonl"), "--dev", str(tmp_path / "own/dev.jsonl")]
    words = [
        "--task",
        "own",
        *files,
        "--model",
        str(tmp_path / "first"),
        "--steps",
        "2",
        "--warmup",
        "0.5",
        "--lr",
        "1e-9",
    ]
    folder = tune(tmp_path, *words)
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "run"))
    shared = [name for name in before if name.startswith("flava.")]
    assert shared
    for name in shared:  # nothing but a learning rate of next to nothing lies between them
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=1e-6)
    assert (folder / "vocab.txt").read_text() == (tmp_path / "first/vocab.txt").read_text()
