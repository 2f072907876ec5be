"""A run's folder: only one process trains in it, as two would write over each other's checkpoints; and its disk has room."""

import errno
import fcntl
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import folders
from presets import parse

ANOTHER = f"""
import sys, time
sys.path.insert(0, {sys.path[0]!r})
from folders import find_folder
from presets import parse
print(find_folder(parse(sys.argv[1:]))[0], flush=True)
time.sleep(120)
"""


def words(folder: Path, name: str = "mine") -> list[str]:
    return ["--preset", "tiny", "--folder", str(folder), "--name", name]


@pytest.fixture
def another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["subprocess.Popen[str]"]:
    """A process that trains in the run `mine`."""
    monkeypatch.setattr(folders, "_PATIENCE", 0.5)
    process = subprocess.Popen([sys.executable, "-c", ANOTHER, *words(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == str(tmp_path / "mine")
    yield process
    process.kill()
    process.communicate()


def test_who_trains_there_is_named(
    another: "subprocess.Popen[str]", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    who = rf"process {another.pid} on \S+"
    with pytest.raises(ValueError, match=rf"^{who} is training in {tmp_path}/mine; .* another run by another --name$"):
        folders.find_folder(parse(words(tmp_path)))
    assert capsys.readouterr().out.count("waiting for process") == 1
    assert folders.find_folder(parse(words(tmp_path, "other")))[0] == tmp_path / "other"


def test_a_process_that_was_killed_holds_nothing(another: "subprocess.Popen[str]", tmp_path: Path) -> None:
    another.send_signal(signal.SIGKILL)
    another.wait()
    for _ in range(2):  # what this process holds, it may ask for again
        assert folders.find_folder(parse(words(tmp_path)))[0] == tmp_path / "mine"


def test_a_disk_without_locks_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(number: int) -> Any:
        def flock(*given: Any) -> None:
            raise OSError(number, "flock")

        return flock

    monkeypatch.setattr(fcntl, "flock", lacking(errno.ENOLCK))
    assert folders.find_folder(parse(words(tmp_path)))[0] == tmp_path / "mine"
    monkeypatch.setattr(fcntl, "flock", lacking(errno.EIO))
    with pytest.raises(OSError, match="flock"):
        folders.find_folder(parse(words(tmp_path, "other")))


def test_room_is_asked_for_all_checkpoints_that_will_lie_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(1000, 999)  # a million weights, 12 MB a checkpoint
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 30 * 10**6))
    config = parse([*words(tmp_path), "--keep", "2"])
    told = r"has 0.03 GB left and a checkpoint takes 0.012 GB, and 3 of them are to come; make room, keep fewer by --keep, or"
    with pytest.raises(OSError, match=told):
        folders.check_space(config, tmp_path, model)
    folders.check_space(parse([*words(tmp_path), "--keep", "1"]), tmp_path, model)
    (tmp_path / "step-00000002").mkdir()
    folders.check_space(config, tmp_path, model)
