"""No dead option: each setting of a run, changed alone, changes what the run logs."""

import json
import sys
from dataclasses import fields
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import pretrain
from presets import Config, Shares, Weights

from torchflava.training import TIMED

CHANGED = {
    "model": "mini",
    "image_size": "64",
    "patch_size": "16",
    "vocab_size": "200",
    "max_length": "8",
    "text_length": "8",
    "num_codes": "16",
    "code_size": "16",
    "batch_size": "4",
    "lr": "0.003",
    "weight_decay": "0.9",
    "warmup_steps": "1",
    "clip": "0.1",
    "eps": "0.1",
    "schedule": "linear",
    "image_encoder": "beit",
    "betas": "0.5 0.98",
    "mismatch_rate": "0.9",
    "mask_rate": "0.9",
    "patch_mask_rate": "0.1",
    "itm_input": "clean",
    "precision": "bf16",
    "seed": "1",
    "shares": "--shares.pair 0.4 --shares.image 0.45",
    "weights": "",
}
ELSEWHERE = {
    "steps": "its number is in every log: test_pretrain",
    "preset": "chooses where the others start: test_pretrain",
    "twin": "shrinks the others: test_presets",
    "init_image": "test_init",
    "init_text": "test_init",
    "architecture": "CLIP has no other losses and shares: test_clip",
    "corpus": "test_pretrain trains on two, test_own on the third",
    "own": "test_own",
    "vocab": "test_own",
    "codebook": "test_own",
    "data": "of the emoji: test_pretrain",
    "gradients": "differs over ranks only: tests/distributed",
    "loss_mean": "differs over ranks only: tests/distributed",
    "device": "there may be one only",
    "max_corrupt_fraction": "stops a run whose data is bad: tests/data/test_mixture",
    "debug": "compares ranks more often: tests/data/test_agreement",
    "micro_batch": "must change nothing: test_pretrain",
    "spread": "must change nothing: test_pretrain, tests/distributed",
    "recompute": "must change nothing: test_pretrain",
    "compiled": "must change nothing: test_pretrain",
    "offload": "must change nothing: tests/distributed",
    "threads": "must change nothing: tests/data/test_mixture",
    "log_every": "how often, not what",
    "save_every": "how often: test_pretrain",
    "keep": "how many: tests/training/test_checkpoint",
    "keep_every": "which: test_named_runs",
    "measure_every": "how often: test_pretrain",
    "select": "which checkpoint is kept: test_watching",
    "on_spike": "test_watching",
    "spike": "test_watching",
    "peak_tflops": "what is told: test_watching",
    "wandb": "who is told: test_watching, tests/training/test_meter",
    "profile_at": "what is recorded: test_watching",
    "folder": "where: test_pretrain",
    "name": "where, and from where on: test_named_runs",
    "checkpoints": "where, and from where on: test_going_on_elsewhere",
    "resume": "test_pretrain",
}


def test_every_setting_has_its_row() -> None:
    assert set(CHANGED) | set(ELSEWHERE) == {field.name for field in fields(Config)}
    assert not set(CHANGED) & set(ELSEWHERE)


def logged(words: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    import measure_scenes
    import report

    monkeypatch.setattr(measure_scenes, "measure_scenes", lambda measured: ([], []))
    monkeypatch.setattr(report, "report", lambda *parts: None)
    # Twenty steps: one block of the shares, so that every kind of batch comes up.
    pretrain.main(["--preset", "tiny", "--folder", str(folder), "--steps", "20", *words.split()])
    (log,) = folder.glob("*/log.jsonl")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in TIMED} for r in records]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_changed_setting_changes_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = logged("", tmp_path / "base", monkeypatch)
    assert logged("", tmp_path / "again", monkeypatch) == base
    rows = {name: f"--{name.replace('_', '-')} {value}" for name, value in CHANGED.items()}
    rows |= {"shares": CHANGED["shares"]} | {f"weights.{f.name}": f"--weights.{f.name} 0.5" for f in fields(Weights)}
    del rows["weights"]
    assert {f.name for f in fields(Shares)} == {"pair", "image", "text"}
    same = [name for name, words in rows.items() if logged(words, tmp_path / name, monkeypatch) == base]
    assert not same
