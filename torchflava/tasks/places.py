"""What must lie where, and where it comes from: said before anything is read."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple


class Needed(NamedTuple):
    """A file or folder that a task reads."""

    path: str
    """From the root of all tasks' data; of several names with | between them one is enough."""
    source: str
    """What holds it and where that comes from."""
    split: Literal["all", "train", "test"] = "all"
    """What cannot be read without it; validation images count as training images."""


class MissingData(ValueError):  # noqa: N818  # a state of the disk, as CorruptSample is one of a file
    """A task's data are not there."""


def check_there(task: str, root: Path, needed: Sequence[Needed]) -> None:
    """See that all that a task reads is below `root`.

    Raises:
        MissingData: naming the first file or folder that is not, where it comes from and where to put it.
    """
    for path, source, _ in needed:
        names = path.split("|")
        if not any((root / name).exists() for name in names):
            raise MissingData(
                f"{task}: there is no {root / names[0]}; it comes from {source}. Unpacked, it belongs there: see docs/tasks.md"
            )


def need(package: str, task: str) -> None:
    """See that a package of the extra `eval` is installed.

    Raises:
        ImportError: if it is not.
    """
    if find_spec(package) is None:
        raise ImportError(f"{task} is read with {package}: pip install 'torchflava[eval]'")
