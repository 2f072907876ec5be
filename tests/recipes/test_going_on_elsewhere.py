"""A run whose checkpoints lie in an object store goes on from there on another machine, whose folder is empty, to the bit."""

import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import bucket
import pytest
from bucket import Bucket, asked
from killed import Job, trace, whole
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import measure_scenes
import pretrain
import report
import watch
from folders import find_folder
from kept import local_disk
from presets import parse

from torchflava.data.mixture import Planned
from torchflava.evaluation import Reading

WORDS = ["--preset", "tiny", "--steps", "6", "--save-every", "2", "--name", "mine"]


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured at the end is tested elsewhere, and takes longer than these runs."""
    bucket.register()
    monkeypatch.setattr(measure_scenes, "measure_scenes", lambda measured: ([Reading("nothing", 0.5, 0.5)], []))
    monkeypatch.setattr(report, "report", lambda *parts: None)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped, with its checkpoints in its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_scenes, "measure_scenes", lambda measured: ([Reading("nothing", 0.5, 0.5)], []))
        patch.setattr(report, "report", lambda *parts: None)
        return start(tmp_path_factory.mktemp("whole"), "")


def start(folder: Path, url: str, *words: str) -> Path:
    """The command, on the machine whose runs lie in `folder`; the run's folder."""
    pretrain.main([*WORDS, "--folder", str(folder), *(["--checkpoints", url] if url else []), *words])
    return folder / "mine"


def dying(step: int, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is lost in the middle of a step, once the file `there` is there."""
    plain = watch.Watch.looked

    def noted(watched: watch.Watch, planned: Planned, *more: Any) -> Any:
        end = time.monotonic() + 200
        while planned.step + 1 == step and not there.exists() and time.monotonic() < end:
            time.sleep(0.01)
        if planned.step + 1 == step:
            raise RuntimeError("the power is gone")
        return plain(watched, planned, *more)

    monkeypatch.setattr(watch.Watch, "looked", noted)


def same_end(folder: Path, due: Path) -> bool:
    got, want = (load_file(path / "model.safetensors") for path in (folder, due))
    return trace(folder) == trace(due) and all(got[name].equal(value) for name, value in want.items())


@pytest.mark.slow
def test_another_machine_goes_on_with_all_that_the_run_had(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    url, there = bucket.made(tmp_path), tmp_path / "bucket" / "run"
    with monkeypatch.context() as patch:
        dying(5, there / "step-00000004" / "state.json", patch)
        with pytest.raises(RuntimeError, match="the power is gone"):
            start(tmp_path / "one", url)
    assert whole(there) == [2, 4]
    left = tmp_path / "one" / "mine"
    assert not list(left.glob("step-*"))
    for name in ("config.json", "data.json", "vocab.txt", "codebook.safetensors"):
        assert (there / name).read_bytes() == (left / name).read_bytes()
    assert same_end(start(tmp_path / "two", url), alone)
    assert "going on at step 4 in" in capfd.readouterr().out
    assert whole(there) == [4, 6]
    # The first machine again: what the second did is not done a second time, and its log is the whole one.
    assert same_end(start(tmp_path / "one", url), alone)
    words = [*WORDS[:-2], "--resume", str(tmp_path / "three"), "--checkpoints", url]
    pretrain.main(words)
    assert same_end(tmp_path / "three", alone)
    assert not list(Path(tempfile.gettempdir()).glob("torchflava-checkpoint-*")) or others_run()


def others_run() -> bool:
    """Whether another process of this machine has files that travel."""
    for path in Path(tempfile.gettempdir()).glob("torchflava-checkpoint-*"):
        opened = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(opened)
    return False


@pytest.mark.slow
def test_another_folder_serves_as_a_store_does(alone: Path, tmp_path: Path) -> None:
    folder = start(tmp_path / "runs", str(tmp_path / "disk" / "mine"))
    assert same_end(folder, alone)
    assert whole(tmp_path / "disk" / "mine") == [4, 6]
    assert not list(folder.glob("step-*"))
    assert same_end(start(tmp_path / "other", f"file://{tmp_path}/disk/mine"), alone)


def refused(verb: str, path: str) -> None:
    raise PermissionError("AccessDenied")


@pytest.mark.parametrize(
    ("url", "words", "told"),
    [
        ("s3://bucket/run", [], r"s3://bucket/run cannot be opened here \(Install s3fs .*\); pip install s3fs"),
        (
            "bucket:///nowhere/bucket/run",
            [],
            r"cannot be written to \(.*there is no bucket .*\); choose .* --checkpoints",
        ),
        ("refused", [], r"run cannot be written to \(.*AccessDenied\); choose another place by --checkpoints"),
        ("", ["--resume", "SOME"], "has no checkpoint for .*/some to go on from; start anew without --resume"),
    ],
)
def test_a_place_that_does_not_serve_is_told_before_the_first_step(
    url: str, words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bucket.made(tmp_path)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    if url == "refused":
        plain = Bucket.fault
        monkeypatch.setattr(
            Bucket, "fault", staticmethod(lambda v, path: refused(v, path) if v == "put" else plain(v, path))
        )
    monkeypatch.setattr(watch.Watch, "looked", lambda *parts: pytest.fail("a step was taken"))
    place = url if url not in ("", "refused") else made
    named = ["--resume", str(tmp_path / "some")] if words else WORDS[-2:]
    with pytest.raises((ValueError, OSError), match=told):
        pretrain.main([*WORDS[:-2], *named, "--folder", str(tmp_path / "runs"), "--checkpoints", place])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_another_runs_checkpoints_change_nothing_here(alone: Path, tmp_path: Path) -> None:
    shutil.copytree(alone, tmp_path / "other")
    shutil.copytree(alone, tmp_path / "runs" / "mine", ignore=shutil.ignore_patterns("step-*"))
    for name in ("data.json", "vocab.txt", "log.jsonl"):
        (tmp_path / "other" / name).write_text("another run's")
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"belongs to another run: lr was 0.0015, is 0.1"):
        start(tmp_path / "runs", str(tmp_path / "other"), "--lr", "0.1")
    assert files(tmp_path) == before


def test_a_run_is_not_begun_anew_where_its_checkpoints_lie_in_another_place(alone: Path, tmp_path: Path) -> None:
    """Given by mistake, or mistyped, or left out."""
    shutil.copytree(alone, tmp_path / "mine")
    wrong, place = tmp_path / "wrong", tmp_path / "place"
    before = files(tmp_path)
    told = r"wrong has no checkpoint, but the run in .*mine has its checkpoints in .*mine; go on without --checkpoints"
    with pytest.raises(ValueError, match=told):
        start(tmp_path, str(wrong))
    assert files(tmp_path) == before
    place.mkdir()
    shutil.move(tmp_path / "mine" / "step-00000006", place)
    shutil.rmtree(tmp_path / "mine" / "step-00000004")
    config = tmp_path / "mine" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"checkpoints": str(place)}))
    before = files(tmp_path)
    for given, none in ((str(wrong), "wrong"), ("", "mine")):
        with pytest.raises(
            ValueError, match=rf"{none} has no checkpoint, but .* in .*place; go on with --checkpoints /.*place,"
        ):
            start(tmp_path, given)
    assert files(tmp_path) == before
    shutil.rmtree(place)  # nothing is left that could be lost
    assert find_folder(parse([*WORDS, "--folder", str(tmp_path)])) == (tmp_path / "mine", None)


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("s3://", "--checkpoints s3:// names no folder; give one, such as s3://bucket/run"),
        ("https://there/run", "https://there/run cannot be written to; name a folder of an object store"),
        ("simplecache::s3://bucket/run", "cannot be written to; name a folder"),
        ("s3:bucket/run", "is neither a folder nor a URL, which has :// in it"),
    ],
)
def test_a_place_that_cannot_be_is_told_at_once(place: str, told: str) -> None:
    with pytest.raises(SystemExit, match=told):
        parse([*WORDS, "--checkpoints", place])


def test_a_machine_whose_disk_is_too_small_to_send_from_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=999)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"has 9.99e-07 GB left .* make room, or choose another place by TMPDIR"):
        start(tmp_path / "one", bucket.made(tmp_path))


@pytest.mark.slow
def test_a_store_that_is_lost_ends_the_run_and_leaves_the_last_good_one(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = bucket.made(tmp_path)

    def fault(verb: str, path: str) -> None:
        if "step-00000004" in path and verb == "half":
            raise ConnectionResetError("the line is cut")

    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", lambda seconds: None)
        patch.setattr(Bucket, "fault", staticmethod(fault))
        with pytest.raises(OSError, match=r"step-00000004 could not be written .*the line is cut"):
            start(tmp_path / "one", url)
    assert whole(tmp_path / "bucket" / "run") == [2]
    assert same_end(start(tmp_path / "two", url), alone)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ranks_killed_while_they_send_go_on_elsewhere_to_the_bit(tmp_path: Path) -> None:
    """SIGKILL for two ranks amid the first file, between two, and between the files and state.json; each time a new machine."""
    words = ["--preset", "tiny", "--name", "run", "--save-every", "4", "--steps", "16", "--vocab-size", "120"]
    assert Job([*words, "--folder", str(tmp_path / "alone")], 2).join(600) == [0, 0]
    due = trace(tmp_path / "alone" / "run")
    url, there = bucket.made(tmp_path), tmp_path / "bucket" / "run"
    (tmp_path / "slow").write_text("shard-00001 1.0\nshard-00002 1.0\nstate.json 1.0\n")
    in_a_save = 0
    for number, sent in enumerate((0, 1, 2)):

        def amid(sent: int = sent) -> bool:
            """Whether there is a checkpoint, and a save that is none yet sends, and has sent so many of its two files.

            That it sends now is asked of all: the half that the last machine left behind is one too.
            """
            halves = [path for path in there.glob("step-*") if not (path / "state.json").exists()]
            sends = bool(list(tmp_path.glob("sent-*")))
            there_so_far = not sent or any(len(list(path.iterdir())) == sent for path in halves)
            return bool(list(there.glob("step-*/state.json"))) and sends and there_so_far

        for left in tmp_path.glob("sent-*"):
            left.unlink()
        words_here = [*words, "--folder", str(tmp_path / f"machine{number}"), "--checkpoints", url]
        job = Job(words_here, 2, before=bucket.register)
        assert job.until(amid, seconds=600), f"the run ended before kill {number + 1}"
        before = max(path.parent.name for path in there.glob("step-*/state.json"))
        job.kill(first=number % 2)
        assert int(before[5:]) in whole(there)
        in_a_save += bool(list(tmp_path.glob("sent-*")))
        seen = trace(tmp_path / f"machine{number}" / "run")
        assert seen
        assert all(due[step] == record for step, record in seen.items())
    assert in_a_save == 3
    (tmp_path / "slow").unlink()
    last = [*words, "--folder", str(tmp_path / "last"), "--checkpoints", url]
    assert Job(last, 2, before=bucket.register).join(600) == [0, 0]
    assert trace(tmp_path / "last" / "run") == due
    assert whole(there) == [12, 16]
    got, want = (load_file(tmp_path / name / "run" / "model.safetensors") for name in ("last", "alone"))
    assert all(got[name].equal(value) for name, value in want.items())
    gets = [line for line in asked(tmp_path, "get") if line.endswith(".safetensors")]
    assert len(gets) % 2 == 0  # a machine's two ranks fetch two files once
    assert len(gets) >= 6


@pytest.mark.parametrize(
    ("place", "disk"),
    [
        ("file:///big/a%20run", "/big/a run"),
        ("file://localhost/big", "/big"),
        ("big/run", "big/run"),
        ("", "mine"),
        ("s3://bucket/run", tempfile.gettempdir()),
    ],
)
def test_the_disk_that_needs_room_is_the_one_that_is_written_to(place: str, disk: str) -> None:
    assert local_disk(parse([*WORDS, "--checkpoints", place]), Path("mine")) == Path(disk)
