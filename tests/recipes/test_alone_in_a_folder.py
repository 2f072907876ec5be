"""Two processes never train in one folder, where they would write over each other's checkpoints."""

import errno
import fcntl
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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
