"""The same command goes on where it was stopped; what cannot go on is refused before the first step, nothing overwritten."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import measure_scenes
import pretrain
import report
import start as recipe_start
import watch
from folders import find_folder
from presets import parse
from safetensors.torch import load_file

from torchflava.data.mixture import Planned
from torchflava.evaluation import Reading
from torchflava.training import TIMED, Checkpoints

WORDS = ["--preset", "tiny", "--steps", "6", "--save-every", "2"]


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured at the end is tested elsewhere, and takes longer than these runs."""
    monkeypatch.setattr(measure_scenes, "measure_scenes", lambda measured: ([Reading("nothing", 0.5, 0.5)], []))
    monkeypatch.setattr(report, "report", lambda *parts: None)


def start(folder: Path, *words: str, name: str = "mine") -> Path:
    """The command; the run's folder."""
    pretrain.main([*WORDS, "--folder", str(folder), "--name", name, *words])
    return folder / name


def logged(folder: Path) -> list[dict[str, float]]:
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in TIMED} for r in records]


def at_step(step: int, happens: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Something happens in the middle of a step, before its record is written."""
    plain = watch.Watch.looked

    def noted(watched: watch.Watch, planned: Planned, *more: Any) -> Any:
        if planned.step + 1 == step:
            happens()
        return plain(watched, planned, *more)

    monkeypatch.setattr(watch.Watch, "looked", noted)


def die(after: Path | None = None) -> None:
    """Once the checkpoint `after` is whole, which is written meanwhile."""
    end = time.monotonic() + 200
    while after is not None and not (after / "state.json").exists() and time.monotonic() < end:
        time.sleep(0.01)
    raise RuntimeError("the power is gone")


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.parent.name[5:]) for path in folder.glob("step-*/state.json"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_scenes, "measure_scenes", lambda measured: ([Reading("nothing", 0.5, 0.5)], []))
        patch.setattr(report, "report", lambda *parts: None)
        return start(tmp_path_factory.mktemp("whole"))


def same_end(folder: Path, whole: Path) -> bool:
    got, want = (load_file(path / "model.safetensors") for path in (folder, whole))
    return logged(folder) == logged(whole) and all(got[name].equal(value) for name, value in want.items())


def test_the_same_command_goes_on_after_an_error(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        at_step(5, lambda: die(after=tmp_path / "mine" / "step-00000004"), patch)
        with pytest.raises(RuntimeError, match="the power is gone") as caught:
            start(tmp_path)
    assert caught.value.__notes__ == ["This was on rank 0 of 1, in step 5, with a batch of kind pair."]
    assert checkpoints(tmp_path / "mine") == [2, 4]
    assert same_end(start(tmp_path), whole)
    assert "going on at step 4 in" in capfd.readouterr().out
    start(tmp_path, "--resume", str(tmp_path / "mine"), name="")  # the other way; it has nothing left to do
    assert same_end(tmp_path / "mine", whole)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
def test_what_died_before_its_first_checkpoint_starts_anew(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        at_step(2, die, patch)
        with pytest.raises(RuntimeError, match="the power is gone"):
            start(tmp_path)
    left = tmp_path / "mine"
    (left / "step-00000002").mkdir(exist_ok=True)  # half a checkpoint, of which nothing is used
    (left / "step-00000002" / "shard-00007-model-00001-of-00001.safetensors").write_bytes(b"half")
    (left / "vocab.txt").write_text("[PAD]\nhal")
    (left / "codebook.safetensors").write_bytes(b"half")
    assert same_end(start(tmp_path), whole)


@pytest.mark.parametrize(("step", "left"), [(3, [2, 3]), pytest.param(6, [4, 6], marks=pytest.mark.slow)])
def test_a_signal_finishes_the_step_saves_and_leaves_to_be_started_again(
    step: int, left: list[int], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        at_step(step, lambda: os.kill(os.getpid(), signal.SIGTERM), patch)
        with pytest.raises(SystemExit) as caught:
            start(tmp_path)
    assert caught.value.code == 75
    assert signal.getsignal(signal.SIGTERM) is before
    assert checkpoints(tmp_path / "mine") == left
    assert logged(tmp_path / "mine") == logged(whole)[:step]
    assert same_end(start(tmp_path), whole)


@pytest.mark.parametrize("during", ["wait", "export"])
def test_a_signal_after_the_last_step_leaves_before_what_is_measured(
    during: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signalled(plain: Callable[..., Any]) -> Callable[..., Any]:
        def then(*parts: Any) -> Any:
            done = plain(*parts)
            os.kill(os.getpid(), signal.SIGTERM)
            return done

        return then

    shutil.copytree(whole, tmp_path / "mine")  # which has nothing left to do but to be measured
    (tmp_path / "mine" / "model.safetensors").unlink()
    measured: list[object] = []
    monkeypatch.setattr(report, "report", lambda *parts: measured.append(parts))
    with monkeypatch.context() as patch:
        owner, name = (Checkpoints, "wait") if during == "wait" else (recipe_start, "export")
        patch.setattr(owner, name, signalled(getattr(owner, name)))
        with pytest.raises(SystemExit) as caught:
            start(tmp_path)
    assert caught.value.code == 75
    assert not measured
    assert (tmp_path / "mine" / "model.safetensors").exists() == (during == "export")
    assert same_end(start(tmp_path), whole)
    assert len(measured) == 1


@pytest.mark.slow
def test_a_record_has_the_steps_of_before_a_signal_too(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        at_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM), patch)
        with pytest.raises(SystemExit):
            start(tmp_path, "--log-every", "5")
    (record, *_) = logged(start(tmp_path, "--log-every", "5"))
    of_each = logged(whole)[:5]
    assert record["step"] == 5
    for name in record.keys() - {"step", "step/lr"}:
        values = [step[name] for step in of_each if name in step]
        assert record[name] == torch.tensor(values).mean().item(), name


class Spoilt(NamedTuple):
    """What is wrong with a folder or a command, and what is said of it."""

    spoil: Callable[[Path], object]
    words: list[str]
    told: str


def newer(folder: Path) -> None:
    state = folder / "step-00000006" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"format": 99}))


def cut(folder: Path) -> None:
    (shard,) = (folder / "step-00000006").glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])


def other_words(folder: Path) -> None:
    vocab = folder / "vocab.txt"
    vocab.write_text(vocab.read_text() + "zyzzyva\n")


SPOILT = {
    "settings": Spoilt(lambda folder: None, ["--lr", "0.1"], r"belongs to another run: lr was 0.0015, is 0.1"),
    "newer": Spoilt(newer, [], r"has format 99, this version reads \d+; use the version that wrote it"),
    "cut": Spoilt(cut, [], r"step-00000006 is damaged .*is not as long as it was.*delete it to go on from the"),
    "model": Spoilt(other_words, [], r"step-00000006 is of another model: .*\(.*\), the model's \("),
    "lost": Spoilt(lambda folder: (folder / "vocab.txt").unlink(), [], r"vocab.txt"),
    "order": Spoilt(lambda folder: (folder / "data.json").unlink(), [], r"put it back from a copy"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SPOILT)
def test_what_cannot_go_on_is_refused_and_left_as_it_was(name: str, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "mine")
    SPOILT[name].spoil(tmp_path / "mine")
    before = contents(tmp_path)
    with pytest.raises((ValueError, OSError), match=SPOILT[name].told):
        start(tmp_path, *SPOILT[name].words)
    assert contents(tmp_path) == before


def test_half_a_checkpoint_is_passed_over(whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole, tmp_path / "mine")
    (tmp_path / "mine" / "step-00000006" / "state.json").unlink()
    assert same_end(start(tmp_path), whole)
    assert "going on at step 4 in" in capfd.readouterr().out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_disk_without_room_is_told_before_the_first_step(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole, tmp_path / "mine")
    before = contents(tmp_path)
    usage = shutil.disk_usage("/")._replace(free=999)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"mine has 9.99e-07 GB left and a checkpoint takes .* GB; make room"):
        start(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_run_and_leaves_the_last_good_one(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchflava.training import checkpoint

    plain = checkpoint.HuggingFaceStorageWriter.write_data

    def full_from_step_4(writer: Any, *more: Any) -> Any:
        if "step-00000002" not in str(writer.path):
            raise OSError(28, "No space left on device")
        return plain(writer, *more)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.HuggingFaceStorageWriter, "write_data", full_from_step_4)
        with pytest.raises(OSError, match=r"step-00000004 could not be written .*No space left on device"):
            start(tmp_path)
    assert checkpoints(tmp_path / "mine") == [2]
    assert same_end(start(tmp_path), whole)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/mine cannot be written to \(.*\); choose another place by --folder"):
        start(tmp_path / "file")


@pytest.mark.parametrize("name", ["a/b", "..", "."])
def test_a_name_is_that_of_a_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="without a slash"):
        start(tmp_path, name=name)


def test_a_job_that_may_start_again_names_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHFLAVA_RUN_NAME", "20261126-061812-slurm-7")
    words = ["--preset", "tiny", "--folder", str(tmp_path)]
    folder = find_folder(parse(words))[0]
    assert folder == tmp_path / "20261126-061812-slurm-7-tiny"
    assert find_folder(parse(words))[0] == folder
    assert find_folder(parse([*words, "--name", "mine"]))[0] == tmp_path / "mine"
    monkeypatch.setenv("TORCHFLAVA_RUN_NAME", "")
    assert find_folder(parse(words))[0] not in (folder, tmp_path / "mine")


def test_runs_without_a_name_that_begin_in_one_second_have_a_folder_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "strftime", lambda form: "20261126-061812")
    config = parse(["--preset", "tiny", "--folder", str(tmp_path / "runs")])
    names = [find_folder(config)[0].name for _ in range(3)]
    assert names == ["20261126-061812-tiny", "20261126-061812-tiny-2", "20261126-061812-tiny-3"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == names


def test_what_torchrun_may_start_again_is_named_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "my/job 7")
    words = ["--preset", "tiny", "--folder", str(tmp_path)]
    assert [find_folder(parse(words))[0] for _ in range(2)] == [tmp_path / "my-job-7-tiny"] * 2
    assert find_folder(parse([*words, "--name", "mine"]))[0] == tmp_path / "mine"
    monkeypatch.setenv("TORCHFLAVA_RUN_NAME", "slurm-7")
    assert find_folder(parse(words))[0] == tmp_path / "slurm-7-tiny"
    monkeypatch.delenv("TORCHFLAVA_RUN_NAME")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(ValueError, match=r"name the run by --name, or the job by torchrun's --rdzv-id"):
        find_folder(parse(words))
    assert find_folder(parse([*words, "--checkpoints", str(tmp_path / "far")]))[1] is None  # goes on from there
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    assert find_folder(parse(words))[0] != find_folder(parse(words))[0]


RESTARTED = """
import os, sys
sys.path.insert(0, {recipes!r})
from folders import find_folder
from presets import parse
print("in", find_folder(parse(["--preset", "tiny", "--folder", {folder!r}]))[0], flush=True)
sys.exit(int(os.environ["TORCHELASTIC_RESTART_COUNT"]) == 0)
"""


@pytest.mark.slow
def test_a_restart_of_torchruns_is_in_the_same_folder(tmp_path: Path) -> None:
    script, root = tmp_path / "script.py", Path(__file__).parents[2]
    script.write_text(RESTARTED.format(recipes=str(root / "recipes"), folder=str(tmp_path / "runs")))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    env = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [*torchrun, "--max-restarts", "1", str(script)], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = [line for line in done.stdout.splitlines() if line.startswith("in ")]
    assert first == second
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_name_does_not_write_among_other_files(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(SystemExit, match=r"mine is there and is no run's folder"):
        start(tmp_path)
    with pytest.raises(SystemExit, match="two ways to name a run's folder; give one"):
        start(tmp_path, "--resume", str(whole))


def test_what_a_run_left_that_died_at_once_is_a_runs_folder(tmp_path: Path) -> None:
    """Hidden files, and the folder of checkpoints that it had tried."""
    (tmp_path / "mine" / "deep" / "saved").mkdir(parents=True)
    (tmp_path / "mine" / ".nfs0001").touch()
    words = [*WORDS, "--folder", str(tmp_path), "--name", "mine"]
    assert parse([*words, "--checkpoints", str(tmp_path / "mine" / "deep" / "saved")]).name == "mine"
    with pytest.raises(SystemExit, match=r"mine is there and is no run's folder"):
        parse(words)
    (tmp_path / "mine" / "deep" / "saved").rmdir()
    (tmp_path / "mine" / "deep").rmdir()
    assert parse(words).name == "mine"


def test_every_nth_checkpoint_is_kept(tmp_path: Path) -> None:
    assert checkpoints(start(tmp_path, "--keep", "1", "--keep-every", "4")) == [4, 6]
