"""Training a codebook through its own command line, and pretraining with it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from killed import Job
from own_layouts import make_own
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import codebook
import codebook_settings
import codebook_start
from codebook_data import open_images, pixels_of
from codebook_settings import Dvae, complaints, parse, tiny
from evaluated import loaded_model
from evaluation_settings import Subject
from own import Own
from presets import as_json

from torchflava.codebooks import DalleCodebook, DalleDecoder, clustered_logits, load_codebook
from torchflava.training import TIMED

ROOT = Path(__file__).parents[2]


def train(folder: Path, *words: str) -> Path:
    codebook.main(["--preset", "tiny", "--folder", str(folder), "--name", "it", *words])
    return folder / "it"


def losses(run: Path) -> list[dict[str, float]]:
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in TIMED} for record in records]


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs"), "--save-every", "2", "--measure-every", "3")


def test_a_run_leaves_a_codebook_and_what_it_is_worth(tiny_run: Path) -> None:
    found = load_codebook(tiny_run / "codebook.safetensors")
    assert isinstance(found, DalleCodebook)
    assert (found.num_codes, found.image_size) == (16, 16)
    decoder = DalleDecoder.from_file(tiny_run / "decoder.safetensors")
    pixels = pixels_of(open_images(tiny()).held_out, tiny(), 8)
    assert pixels.shape == (8, 3, 16, 16)
    drawn = decoder(found.encode(pixels).view(8, 2, 2))
    readings = json.loads((tiny_run / "result.json").read_text())["readings"]
    off = float((drawn - pixels / 255).abs().mean())
    assert readings["mean error, of 255"]["value"] == pytest.approx(255 * off, rel=1e-4)  # of the file, not of the run
    used = len(found.encode(pixels).unique())
    assert readings["codes used"] == {"value": used / 16, "chance": 1 / 16}
    assert "| PSNR, dB" in (tiny_run / "result.md").read_text()
    with Image.open(tiny_run / "picture.png") as picture:
        assert min(picture.size) > 500
    assert sorted(p.name for p in tiny_run.glob("step-*")) == ["step-00000002", "step-00000004"]


def test_the_log_has_losses_schedules_and_pictures(tiny_run: Path) -> None:
    records = losses(tiny_run)
    steps = [r for r in records if "image/kl" in r]
    assert [r["step"] for r in steps] == [1, 2, 3, 4]
    assert {"image/reconstruction", "step/grad_norm", "step/lr"} < set(steps[0])
    assert [r["step/temperature"] for r in steps] == pytest.approx(
        [1.0, 1 / 16 + 15 / 32, 1 / 16, 1 / 16]
    )  # 0.6 of 4 is 2
    assert [r["step"] for r in records if "measured/codes used" in r] == [3, 4]
    events = EventAccumulator(str(tiny_run))
    events.Reload()
    assert [event.step for event in events.Images("reconstructions")] == [3, 4]
    assert (events.Images("reconstructions")[0].width, events.Images("reconstructions")[0].height) == (8 * 16, 2 * 16)


def test_a_resumed_run_goes_on_to_the_bit(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(tiny_run, tmp_path / "it")
    shutil.rmtree(tmp_path / "it" / "step-00000004")
    (tmp_path / "it" / "codebook.safetensors").unlink()
    train(tmp_path, "--save-every", "2", "--measure-every", "3")
    assert "going on at step 2" in capsys.readouterr().out
    assert losses(tmp_path / "it") == losses(tiny_run)
    ours, due = (load_codebook(run / "codebook.safetensors").state_dict() for run in (tmp_path / "it", tiny_run))
    assert all(torch.equal(ours[name], due[name]) for name in due)
    with pytest.raises(ValueError, match=r"kl_weight was 2\.0, is 9\.0"):
        train(tmp_path, "--kl-weight", "9")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--preset", "nosuch"], "no preset is called 'nosuch'; there are scenes, emoji, tiny, paper"),
        (["--code-size", "30"], "--code-size 30 is no multiple of 8, the pixels of a code; 24 and 32 are"),
        (["--width", "10"], "--width 10 is no multiple of 4"),
        (["--temperature", "0"], "--temperature 0.0 must be at least 1e-06"),
        (["--crop", "0.9", "0.5"], "--crop 0.9 0.5 must rise from above 0 to at most 1"),
        (["--warmup-steps", "1500"], "--warmup-steps 1500 must be below the 1 of --steps 1500"),
        (["--corpus", "own"], "--images names no place; give one or more"),
        (["--images", "x"], "--images is for your own data; say --corpus own too"),
        (
            ["--corpus", "own", "--pairs", "x", "--images", "y"],
            "--pairs x is for pretraining; name the images by --images",
        ),
        (["--corpus", "own", "--images", "x", "--held-out", "x"], "--held-out x is among --images"),
        (["--corpus", "own", "--images", "x", "--image-size", "64"], "--image-size 64 is that of drawn scenes"),
        (["--corpus", "emoji", "--data", "/nowhere"], "/nowhere/google-*.tar is not there"),
        (["--resume", "/nowhere"], "/nowhere has no checkpoint"),
        (["--name", "a/b"], "--name a/b must be the name of a folder"),
        (["--batch-size", "9"], "--batch-size 9 is no multiple of 2, the number of ranks"),
    ],
)
def test_a_wrong_setting_ends_with_a_word_about_it(words: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as end:
        parse(words, ranks=[2])
    assert said in str(end.value)


def test_the_folder_of_a_codebook_is_no_model_s(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(as_json(tiny())))
    with pytest.raises(ValueError, match="is the run of a codebook; give a pretraining run"):
        loaded_model(Subject(str(tmp_path)))


def test_an_unknown_flag_ends_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--num-kodes", "3"])
    assert "--num-codes" in capsys.readouterr().err


@pytest.mark.parametrize("name", codebook_settings.PRESETS)
def test_presets_can_be_meant(name: str) -> None:
    config = codebook_settings.PRESETS[name]()
    assert config.preset == name
    places = Own(images=("some",)) if config.corpus == "own" else Own()
    assert [*complaints(replace(config, own=places))] == []


def test_the_papers_numbers() -> None:
    """Ramesh et al. 2021, appendix A.2."""
    paper = codebook_settings.paper()
    assert (paper.num_codes, paper.code_size, paper.batch_size, paper.steps) == (8192, 256, 512, 3_000_000)
    shares = (paper.temperature_share, paper.kl_share, paper.lr_share)
    assert [round(share * paper.steps) for share in shares] == [150_000, 5_000, 1_200_000]
    assert (paper.temperature, paper.kl_weight, paper.lr, paper.final_lr) == (1 / 16, 6.6, 1e-4, 1.25e-6)


CHANGED = {
    "image_size": "40", "code_size": "24", "crop": "0.4 0.6", "flip": "1.0", "num_codes": "8", "width": "12", "blocks": "2",
    "first_width": "12", "batch_size": "4", "lr": "0.01", "final_lr": "0.001", "lr_share": "0.5", "warmup_steps": "0",
    "weight_decay": "0.9", "clip": "0.01", "betas": "0.5 0.9", "eps": "0.1", "average": "0.5", "temperature": "0.5",
    "temperature_share": "0", "kl_weight": "9", "kl_share": "1", "least_scale": "0.5", "precision": "bf16", "seed": "1",
    "measured": "4", "encoder_lr": "1", "first_spread": "0",
}  # fmt: skip
ELSEWHERE = {
    "preset", "corpus", "data", "own", "steps", "max_corrupt_fraction", "micro_batch", "spread", "recompute", "compiled",
    "offload", "device", "threads", "debug", "log_every", "save_every", "keep", "keep_every", "measure_every", "on_spike",
    "spike", "wandb", "profile_at", "folder", "name", "checkpoints", "resume",
}  # fmt: skip
"""Where a run lies, how it is watched and what must change nothing: by the same code as test_settings of pretraining."""


def test_every_setting_has_its_row() -> None:
    assert CHANGED.keys() | ELSEWHERE == {field.name for field in fields(Dvae)}


@pytest.mark.slow
def test_a_changed_setting_changes_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import codebook_steps

    monkeypatch.setattr(codebook_steps, "report", lambda *parts: None)
    base = losses(train(tmp_path / "base"))
    assert losses(train(tmp_path / "again")) == base
    same = []
    for name, value in CHANGED.items():
        run = train(tmp_path / name, f"--{name.replace('_', '-')}", *value.split())
        same += [name] if losses(run) == base else []
    assert same == []


@pytest.mark.slow
@pytest.mark.parametrize("words", ["--micro-batch 3", "--recompute selective --offload", "--spread copies --threads 2"])
def test_what_saves_memory_changes_no_loss(words: str, tiny_run: Path, tmp_path: Path) -> None:
    run = train(tmp_path, "--save-every", "2", "--measure-every", "3", *words.split())
    for got, due in zip(losses(run), losses(tiny_run), strict=True):
        assert got == pytest.approx(due, rel=2e-3, abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "said"), [("rollback", "going back to step"), ("skip", "left out")])
def test_after_a_spike_it_goes_on(how: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"--steps 40 --spike 0.05 --on-spike {how} --save-every 2 --measure-every 0".split()
    run = train(tmp_path, *words)
    assert said in capsys.readouterr().out
    assert max(record["step"] for record in losses(run)) == 40
    assert load_codebook(run / "codebook.safetensors").num_codes == 16


@pytest.mark.slow
def test_two_ranks_learn_as_one(tiny_run: Path, tmp_path: Path) -> None:
    words = ["--preset", "tiny", "--folder", str(tmp_path), "--name", "it", "--save-every", "2", "--measure-every", "3"]
    assert Job(partial(codebook.main, words), 2).join() == [0, 0]
    for got, due in zip(losses(tmp_path / "it"), losses(tiny_run), strict=True):
        assert got == pytest.approx(due, rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_goes_on(tmp_path: Path) -> None:
    words = ["--preset", "tiny", "--steps", "30", "--measure-every", "0", "--folder", str(tmp_path), "--name", "it"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "recipes/codebook.py", *words], cwd=ROOT, env=env) as job:
        while not (tmp_path / "it" / "log.jsonl").exists() and job.poll() is None:
            time.sleep(0.1)
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 75
    stopped = max(int(saved.name.removeprefix("step-")) for saved in (tmp_path / "it").glob("step-*"))
    assert 0 < stopped < 30
    whole = losses(train(tmp_path / "whole", "--steps", "30", "--measure-every", "0"))
    codebook.main(words)
    assert losses(tmp_path / "it") == whole


def test_a_run_that_is_asked_to_stop_while_it_looks_for_clusters_begins_again(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looked = []

    def interrupted(*parts: Any, between: Callable[[], object], **more: Any) -> Any:
        def asked() -> None:
            looked.append(len(looked))
            if len(looked) == 20:  # seeds are found by then
                os.kill(os.getpid(), signal.SIGTERM)
            between()

        return clustered_logits(*parts, between=asked, **more)

    with monkeypatch.context() as patch:
        patch.setattr(codebook_start, "clustered_logits", interrupted)
        with pytest.raises(SystemExit) as end:
            train(tmp_path, "--save-every", "2", "--measure-every", "3")
    assert end.value.code == 75
    assert len(looked) == 20
    assert "stopped before the first step; the same command begins again" in capsys.readouterr().out
    assert losses(train(tmp_path, "--save-every", "2", "--measure-every", "3")) == losses(tiny_run)


def trained_with_slow_clusters(words: list[str]) -> None:
    def slowed(*parts: Any, between: Callable[[], object], **more: Any) -> Any:
        return clustered_logits(*parts, between=lambda: (time.sleep(0.3), between()), **more)

    codebook_start.clustered_logits = slowed  # type: ignore[assignment]
    codebook.main(words)


@pytest.mark.slow
def test_any_rank_may_be_the_one_that_is_asked(tmp_path: Path) -> None:
    words = ["--preset", "tiny", "--folder", str(tmp_path), "--name", "it"]
    job = Job(partial(trained_with_slow_clusters, words), 2)
    assert job.until((tmp_path / "it" / "config.json").exists)
    job.terminate(1)
    assert job.join(60) == [75, 75]
    assert not (tmp_path / "it" / "log.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["codebook", "pretrain"])
def test_ctrl_c_ends_in_a_line(recipe: str, tmp_path: Path) -> None:
    words = ["--preset", "tiny", "--steps", "3000", "--measure-every", "0", "--folder", str(tmp_path), "--name", "it"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a script it is ignored
    try:
        job = subprocess.Popen(
            [sys.executable, f"recipes/{recipe}.py", *words], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, ours)
    while not (tmp_path / "it" / "log.jsonl").exists() and job.poll() is None:
        time.sleep(0.1)
    job.send_signal(signal.SIGINT)
    _, said = job.communicate(timeout=60)
    assert job.returncode == -signal.SIGINT
    assert re.search(r"\nEnded by Ctrl-C\. This was on rank 0 of 1, (in|after) step \d+.*\.\n$", said), said
    assert "Traceback" not in said


@pytest.mark.slow
def test_own_images_and_what_is_held_out(tmp_path: Path) -> None:
    own = make_own(tmp_path / "own")
    words = ["--corpus", "own", "--images", f"{own}/coco", f"{own}/imagenet", "--held-out", f"{own}/valid"]
    run = train(tmp_path, *words)
    assert "hold some out" not in (run / "result.md").read_text()
    parts = json.loads((run / "data.json").read_text())["sources"]["image"]["sources"]
    assert [part["length"] for part in parts] == [60, 80]
    with pytest.raises(ValueError, match="both have"):
        train(tmp_path / "two", *words[:-1], f"{own}/coco/*.tar")
    run = train(tmp_path / "three", *words[:4])
    assert "Measured on images that it was trained on" in (run / "result.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_trained_codebook_is_pretrained_with(tmp_path: Path) -> None:
    """From scenes to codes that tell them apart, to a FLAVA that predicts these codes."""
    import pretrain

    words = "--code-size 32 --num-codes 64 --width 16 --first-width 32 --steps 60 --batch-size 16 --warmup-steps 5"
    run = train(tmp_path, *words.split(), *["--log-every", "10", "--average", "0.9", "--measured", "64"])
    readings: dict[str, Any] = json.loads((run / "result.json").read_text())["readings"]
    assert readings["mean error, of 255"]["value"] < 0.9 * readings["mean error, of 255"]["chance"]
    assert readings["perplexity of codes"]["value"] > 5
    file = run / "codebook.safetensors"
    pretrain.main(["--preset", "tiny", "--codebook", str(file), "--folder", str(tmp_path), "--name", "pretrained"])
    kept = load_codebook(tmp_path / "pretrained" / "codebook.safetensors")
    assert (kept.num_codes, kept.grid) == (64, (4, 4))
    weights = load_codebook(file).state_dict()
    assert all(torch.equal(weights[name], value) for name, value in kept.state_dict().items())
    records = losses(tmp_path / "pretrained")
    assert any("image/mim" in record for record in records)
