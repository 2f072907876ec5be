"""What is damaged is told with the task and the folder, whatever the library that reads it raises."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from made_tasks import MADE

from torchflava.tasks import VISION_TASKS, MissingData, vision_task

PICTURES = (".jpg", ".jpeg", ".png", ".ppm")
DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "junk": lambda data: b"\x00\xff\xfejunk,1;2\n\n",
}


def _error_of(read: Callable[[], object]) -> Exception | None:
    try:
        read()
    except Exception as error:  # whatever it is, it is looked at
        return error
    return None


@pytest.mark.parametrize("name", VISION_TASKS)
def test_a_damaged_file_is_told(name: str, tmp_path: Path) -> None:
    MADE[name](tmp_path)
    task = vision_task(name, tmp_path)
    files = [file for file in tmp_path.rglob("*") if file.is_file() and file.suffix.lower() not in PICTURES]
    told = 0
    for file in files:
        data = file.read_bytes()
        for spoil in DAMAGE.values():
            file.write_bytes(spoil(data))
            for read in (task.train_and_valid, task.test):
                error = _error_of(read)  # none where it does not need this file, or the table was cut between rows
                if error is not None:
                    assert isinstance(error, ValueError)
                    assert not isinstance(error, MissingData)
                    assert str(tmp_path) in str(error)
                    told += 1
        file.write_bytes(data)
    assert told or {file.name for file in files} <= {"tmp"}  # Caltech101's, which is not read
    shutil.rmtree(tmp_path)
