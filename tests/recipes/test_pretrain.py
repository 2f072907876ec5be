"""Pretraining through its own command line, in seconds."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from killed import Job
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchx.components.component_test_base import ComponentTestCase

from torchflava.training import TIMED

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "recipes"))


def run(words: list[str], folder: Path, *, timeout: int = 280) -> subprocess.CompletedProcess[str]:
    """Run the recipe as a plain script."""
    words = [sys.executable, "recipes/pretrain.py", *words, "--folder", str(folder)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=env, timeout=timeout, check=False)


def here(words: list[str], folder: Path, *, measured: bool = True) -> None:
    """The same in this process, which has imported torch; measured as there, or not at all."""
    import measure
    import measure_scenes
    import pretrain
    import report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_BATCH", 64)
        if not measured:
            patch.setattr(measure_scenes, "measure_scenes", lambda measured: ([], []))
            patch.setattr(report, "report", lambda *parts: None)
        pretrain.main([*words, "--folder", str(folder)])


def only_folder(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def losses(folder: Path) -> list[dict[str, float]]:
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in TIMED} for record in records]


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("runs")
    done = run(["--preset", "tiny", "--save-every", "3"], folder)
    assert done.returncode == 0, done.stderr
    return only_folder(folder), done.stdout


def test_a_run_leaves_all_that_it_promises(tiny_run: tuple[Path, str]) -> None:
    folder, said = tiny_run
    for name in (
        "config.json",
        "vocab.txt",
        "codebook.safetensors",
        "result.md",
        "result.json",
        "picture.png",
        "log.jsonl",
    ):
        assert (folder / name).stat().st_size > 0, name
    assert "| zero-shot, 16 unseen" in said
    assert "text to image R@5" in said
    assert (folder / "result.md").read_text().split("\n\n")[1].strip() in said
    with Image.open(folder / "picture.png") as picture:
        assert min(picture.size) > 500
    assert sorted(p.name for p in folder.glob("step-*")) == ["step-00000003", "step-00000005"]
    (shard,) = (folder / "step-00000005").glob("*.safetensors")
    tensors = load_file(shard)
    weights = {name.removeprefix("model/"): value for name, value in tensors.items() if name.startswith("model/")}
    assert weights["contrastive.log_scale"].shape == (1,)
    assert not any("codebook" in name for name in weights)
    from torchflava.models import FlavaForPreTraining, from_pretrained

    model = from_pretrained(folder / "model.safetensors")
    assert isinstance(model, FlavaForPreTraining)
    assert all(weights[name].equal(value) for name, value in model.state_dict().items())
    events = EventAccumulator(str(folder))
    events.Reload()
    logged = {name for tag in events.Tags()["scalars"] for name in [tag.split("/")[1]]}
    seen = {name.split("/")[1] for record in losses(folder) for name in record if "/" in name}
    assert {"contrastive", "mmm_image", "mmm_text", "itm"} <= seen & logged


@pytest.mark.slow
def test_the_same_seed_gives_the_same_losses_and_another_seed_others(
    tiny_run: tuple[Path, str], tmp_path: Path
) -> None:
    assert run(["--preset", "tiny"], tmp_path / "again").returncode == 0
    assert losses(only_folder(tmp_path / "again")) == losses(tiny_run[0])


@pytest.mark.slow
def test_measuring_on_the_way_changes_nothing_but_the_log(tiny_run: tuple[Path, str], tmp_path: Path) -> None:
    here(["--preset", "tiny", "--measure-every", "2"], tmp_path)
    records, name = losses(only_folder(tmp_path)), "measured/text to image R@1"
    assert [record["step"] for record in records if name in record] == [2, 4, 5]
    on_the_way = [record for record in records if name in record and record["step"] < 5]
    assert [record for record in records if record not in on_the_way] == losses(tiny_run[0])
    assert on_the_way[0] != on_the_way[1] | {"step": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["--micro-batch", "2", "--spread", "copies", "--recompute", "full"],
        ["--micro-batch", "3"],
        ["--recompute", "full"],
    ],
)
def test_what_saves_memory_changes_no_loss(words: list[str], tiny_run: tuple[Path, str], tmp_path: Path) -> None:
    here(["--preset", "tiny", *words], tmp_path, measured=False)
    for got, due in zip(losses(only_folder(tmp_path))[:5], losses(tiny_run[0])[:5], strict=True):
        assert len(got) > 1
        assert got == pytest.approx(due, rel=2e-3, abs=2e-3)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compiling_changes_no_loss(tiny_run: tuple[Path, str], tmp_path: Path) -> None:
    done = run(["--preset", "tiny", "--compiled"], tmp_path, timeout=580)
    assert done.returncode == 0, done.stderr
    for got, due in zip(losses(only_folder(tmp_path)), losses(tiny_run[0]), strict=True):
        assert got == pytest.approx(due, rel=2e-3, abs=2e-3)


def test_a_resumed_run_goes_on_to_the_bit(
    tiny_run: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "resumed"
    shutil.copytree(tiny_run[0], folder)
    shutil.rmtree(folder / "step-00000005")
    here(["--preset", "tiny", "--resume", str(folder)], tmp_path)
    assert "going on at step 3" in capsys.readouterr().out
    assert losses(folder) == losses(tiny_run[0])
    kept = json.loads((folder / "data.json").read_text())
    assert kept["batch_size"] == 8
    kept["sources"]["pair"]["length"] += 1  # the source has grown since
    (folder / "data.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=r"sources\.pair\.length was 1048577, is 1048576"):
        here(["--preset", "tiny", "--resume", str(folder)], tmp_path)
    with pytest.raises(ValueError, match=r"lr was 0\.0015, is 0\.1"):
        here(["--preset", "tiny", "--resume", str(folder), "--lr", "0.1"], tmp_path)


@pytest.mark.parametrize("data", [None, b"", b'{"step": 0, "see'])
def test_a_run_whose_order_was_lost_says_what_to_do(data: bytes | None, tmp_path: Path) -> None:
    import start

    if data is not None:
        (tmp_path / "data.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"data\.json, which says .* put it back .*, or start a new run"):
        start.keep_order(SimpleNamespace(check_state=dict), tmp_path, SimpleNamespace(leads=True), 3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stepz", "3"], "--steps"),
        (["--preset", "nosuch"], "no preset is called 'nosuch'; there are scenes, emoji, tiny, text_stage1"),
        (
            ["--corpus", "emoji", "--data", "/nowhere"],
            "/nowhere/google-*.tar is not there; make it by: python recipes/data/emoji.py",
        ),
        (["--resume", "/nowhere"], "/nowhere has no checkpoint"),
        (["--weights.mim", "0"], "--shares.image is 0.15, but mim have weight 0"),
        (["--shares.pair", "0.5"], "must be 0 or more and add up to 1"),
        (["--batch-size", "0"], "--batch-size 0 must be 1 or more"),
        (["--weights.mim", "nan"], "must be numbers of 0 or more"),
        (["--save-every", "0"], "--save-every 0 must be at least 1"),
        (["--mask-rate", "1.5"], "--mask-rate 1.5 must be at least 0 and below 1"),
        (["--image-size", "50"], "--image-size 50 is no multiple of --patch-size 12"),
        (["--warmup-steps", "900"], "--warmup-steps 900 must be below --steps 900"),
    ],
)
def test_a_wrong_setting_ends_with_a_word_about_it(words: list[str], said: str, tmp_path: Path) -> None:
    done = run(words, tmp_path)
    assert done.returncode != 0
    assert said in " ".join(done.stderr.split()) + " ".join(done.stdout.split())


def test_a_model_that_there_is_not_ends_with_a_word_about_it(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no model is called 'huge'; there are tiny"):
        here(["--model", "huge"], tmp_path)


class TestComponent(ComponentTestCase):  # type: ignore[misc]
    """TorchX reads the recipe's component."""

    def test_pretrain(self) -> None:
        import pretrain

        self.validate(pretrain, "pretrain")


@pytest.mark.slow
def test_two_ranks_give_the_losses_of_one(tiny_run: tuple[Path, str], tmp_path: Path) -> None:
    import pretrain

    words = ["--preset", "tiny", "--folder", str(tmp_path)]
    assert Job(partial(pretrain.main, words), 2).join() == [0, 0]
    for one, two in zip(losses(tiny_run[0]), losses(only_folder(tmp_path)), strict=True):
        assert one.keys() == two.keys()
        for name in one:
            if not name.startswith("measured") or name.endswith(" loss"):
                assert one[name] == pytest.approx(two[name], rel=2e-4), name


@pytest.mark.slow
def test_emoji_trains_and_is_measured_on_the_unseen_vendor(tmp_path: Path) -> None:
    data = tmp_path / "data"
    emoji_shards(data, corrupt=3)
    words = ["--preset", "emoji", "--data", str(data), "--model", "tiny", "--image-size", "32", "--code-size", "32"]
    words += ["--patch-size", "8"]
    small = ["--num-codes", "16", "--vocab-size", "200", "--batch-size", "8", "--steps", "6", "--warmup-steps", "1"]
    here([*words, *small], tmp_path / "runs")
    readings = json.loads((only_folder(tmp_path / "runs") / "result.json").read_text())["readings"]
    # Emoji 3 cannot be decoded; it stops neither the training nor the measuring.
    assert readings["microsoft's image to name R@1"]["chance"] == pytest.approx(1 / 11)
    for by in ("embedding", "patch states", "pixels"):
        for white in ("", ", white"):
            assert readings[f"google's to microsoft's by {by}{white} R@5"]["chance"] == pytest.approx(5 / 11)
            # Random pictures have nothing in common across vendors.
            assert 0 <= readings[f"google's to microsoft's by {by}{white} R@1"]["value"] < 0.6


def emoji_shards(folder: Path, corrupt: int) -> None:
    """Twelve emoji of three vendors in the layout that recipes/data/emoji.py writes."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    (folder / "texts.txt").write_text("".join(f"a gloss about thing {i}\n" for i in range(30)))
    for vendor in ("google", "twitter", "microsoft"):
        with tarfile.open(folder / f"{vendor}-00000.tar", "w") as tar:
            for i in range(12):
                picture = io.BytesIO()
                Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(picture, "PNG")
                meta = {"name": f"thing {i}", "keywords": [f"word{i}"], "tones": [], "vendor": vendor}
                files = {
                    "png": picture.getvalue()[: 60 if i == corrupt else None],
                    "txt": f"thing {i}; word{i}".encode(),
                    "json": json.dumps(meta).encode(),
                }
                for ending, content in files.items():
                    member = tarfile.TarInfo(f"{vendor}-{i}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
