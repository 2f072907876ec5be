"""No dead option: each setting of a run, changed alone, changes what the run logs."""

import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import gradients
import pretrain
import start
from complaints import complaints
from corpora import Corpus, _codebook
from gradients import gradients_of
from presets import Config, Shares, Weights, tiny

from torchflava.batch import RawTextBatch
from torchflava.codebooks import DalleCodebook
from torchflava.codebooks.dalle_names import dalle_layout
from torchflava.training import TIMED, Meter, Run

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
    "tokenizer": "CLIP's: test_clip_vocabularies",
    "codebook": "test_own",
    "code_precision": "of a dVAE: tests/codebooks, and below",
    "data": "of the emoji: test_pretrain",
    "gradients": "differs over ranks only: tests/distributed, and below",
    "loss_mean": "differs over ranks only: tests/distributed, and below",
    "device": "there may be one only",
    "max_corrupt_fraction": "stops a run whose data is bad: tests/data/test_mixture",
    "debug": "compares ranks more often: tests/data/test_agreement",
    "micro_batch": "must change nothing: test_pretrain",
    "spread": "must change nothing: test_pretrain, tests/distributed",
    "recompute": "must change nothing: test_pretrain, and below",
    "compiled": "must change nothing: test_pretrain, and below",
    "offload": "must change nothing: tests/distributed, and below",
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
    return records(log)


def records(log: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in log.read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in TIMED} for r in found]


class AnotherError(Exception):
    """The first record that is another than that of the run of which nothing was changed."""


def changes(words: str, folder: Path, base: list[dict[str, float]], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a run logs anything else; it ends where it does."""
    write = Meter.write

    def compared(meter: Meter, step: int, record: dict[str, float]) -> None:
        write(meter, step, record)
        assert meter.folder is not None
        so_far = records(meter.folder / "log.jsonl")
        if so_far != base[: len(so_far)]:
            raise AnotherError

    with monkeypatch.context() as patch:
        patch.setattr(Meter, "write", compared)
        try:
            return logged(words, folder, patch) != base
        except AnotherError:
            return True


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_changed_setting_changes_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = logged("", tmp_path / "base", monkeypatch)
    assert logged("", tmp_path / "again", monkeypatch) == base
    rows = {name: f"--{name.replace('_', '-')} {value}" for name, value in CHANGED.items()}
    rows |= {"shares": CHANGED["shares"]} | {f"weights.{f.name}": f"--weights.{f.name} 0.5" for f in fields(Weights)}
    del rows["weights"]
    assert {f.name for f in fields(Shares)} == {"pair", "image", "text"}
    assert not changes("--keep 3", tmp_path / "same", base, monkeypatch)
    assert [name for name, words in rows.items() if not changes(words, tmp_path / name, base, monkeypatch)] == []


@pytest.mark.parametrize("architecture", ["flava", "clip"])
@pytest.mark.parametrize("way", ["global", "local", "none"])
def test_gradients_reach_the_contrastive_loss(architecture: str, way: str) -> None:
    config = replace(cast(Any, tiny()), architecture=architecture, gradients=way)
    with torch.device("meta"):
        model = start.build(config, 300, 32)
    assert model.contrastive is not None
    assert model.contrastive.gradients == way


@pytest.mark.parametrize("rows", [0, 1])  # all at once, and in parts
@pytest.mark.parametrize("over", ["global", "rank"])
def test_loss_mean_reaches_the_losses(over: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def mean_losses(losses: object, over: str = "global", **more: object) -> dict[str, torch.Tensor]:
        seen.append(over)
        return {"mlm": torch.ones((), requires_grad=True)}

    def accumulate(model: object, parts: list[object], means_of: Any, **more: object) -> dict[str, torch.Tensor]:
        means = [means_of({}) for _ in parts]
        return means[0]

    monkeypatch.setattr(gradients, "mean_losses", mean_losses)
    monkeypatch.setattr(gradients, "accumulate", accumulate)
    monkeypatch.setattr(gradients, "prepare", lambda raw, *more, **named: raw)
    monkeypatch.setattr(gradients, "labelled_rows", lambda batch: {"mlm": torch.ones(())})
    raw = RawTextBatch(*(torch.zeros(2, 3, dtype=torch.int64) for _ in range(4)))
    config = replace(cast(Any, tiny()), loss_mean=over, micro_batch=rows)
    device = torch.device("cpu")
    gradients_of(raw, cast(Any, lambda batch: {}), None, config=config, device=device, scale=lambda loss: loss)
    assert seen == [over] * (2 if rows else 1)


@pytest.mark.parametrize("name", ["recompute", "compiled", "offload"])
def test_what_must_change_nothing_is_done_where_it_is_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done: dict[str, Any] = {}
    monkeypatch.setattr(start, "recompute", lambda units, how: done.update({"recompute": how}))
    monkeypatch.setattr(start, "compile_units", lambda units: done.update({"compiled": len(list(units))}))
    monkeypatch.setattr(start, "shard", lambda *parts, offload, **more: done.update({"offload": int(offload)}))
    monkeypatch.setattr(start, "mesh_of", lambda *parts, **more: None)
    monkeypatch.setattr(start, "give_weights", lambda *parts: None)
    run, corpus = Run(0, 1, torch.device("cpu"), cast(Any, None)), Corpus(cast(Any, None), None, None)
    start._sharded(tiny(), run, corpus)
    none = {"recompute": "none", "offload": 0}
    assert done == none
    given = {"recompute": "selective", "compiled": True, "offload": True}[name]
    model = start._sharded(replace(cast(Any, tiny()), **{name: given}), run, corpus)
    assert done == none | {name: {"recompute": given, "compiled": len(list(model.units())), "offload": 1}[name]}


def test_the_dvae_runs_in_the_precision_that_is_told(tmp_path: Path) -> None:
    draws, file = torch.Generator().manual_seed(0), tmp_path / "dvae.safetensors"
    dvae = {name: torch.randn(shape, generator=draws) for name, shape in dalle_layout(8, 1, 16).items()}
    DalleCodebook(dvae, image_size=24).save(file)
    config = replace(cast(Any, tiny()), codebook=str(file), code_size=48, code_precision="bf16")
    codebook = _codebook(config, cast(Any, None))
    assert isinstance(codebook, DalleCodebook)
    assert (codebook.precision, codebook.image_size) == ("bf16", 48)
    assert [*complaints(replace(config, codebook=""))] == [
        "--code-precision bf16 is of the dVAE that --codebook names; name it, or leave this out"
    ]
