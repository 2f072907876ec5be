"""Where a Slurm job's replicas write, found from any directory, and how to follow what they write.

In a job's folder of logs, `slurm-12.out` is what its script says, `slurm-12-ROLE-0.out` and `slurm-12-ROLE-0.err` what the
first node's task does. All are appended to when the job starts again.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from torchx.schedulers.api import Stream

from torchflava.launch.ddp import ClusterError
from torchflava.launch.slurm_jobs import Job

_PAUSE = 0.5  # seconds between two looks at the files
_ASK_EVERY = 3.0  # seconds between two questions to the controller, which all users share


def keep_place(number: str, folder: Path) -> None:
    """Note a job's folder of logs: the controller forgets it soon after the job's end."""
    record = _record(number)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(str(folder))


def place_of(number: str, jobs: Sequence[Job]) -> Path:
    """The folder of a job's logs.

    Args:
        number: of the job.
        jobs: what Slurm knows of it.

    Raises:
        ClusterError: (a RuntimeError) if neither Slurm nor this user's notes know it.
    """
    for job in jobs:
        if job.output:
            return Path(job.output).parent
    if _record(number).exists():
        return Path(_record(number).read_text())
    raise ClusterError(
        f"where job {number} wrote its logs is not known any more: Slurm has forgotten it, and it was not submitted by "
        f"`torchx run` of this user ({_record(number)}); look for slurm-{number}-*.err"
    )


def files_of(folder: Path, number: str, replica: str, *, streams: Stream | None) -> list[Path]:
    """The files of a replica, `ROLE-0`: of one stream, or of both."""
    wanted = {Stream.STDOUT: ["out"], Stream.STDERR: ["err"]}.get(streams or Stream.COMBINED, ["err", "out"])
    return [folder / f"slurm-{number}-{replica}.{ending}" for ending in wanted]


def follow(files: Sequence[Path], ended: Callable[[], bool]) -> Iterator[str]:
    """Whole lines of files that grow, or are not there yet, until `ended`, and then what is left.

    Raises:
        ClusterError: (a RuntimeError) if the job has ended and none of the files is there.
    """
    parts = [_Growing(file) for file in files]
    asked, over = -_ASK_EVERY, False
    while True:
        lines = [line for part in parts for line in part.lines(rest=over)]
        yield from lines
        if over:
            break
        if not lines:
            if time.monotonic() - asked >= _ASK_EVERY:
                over, asked = ended(), time.monotonic()
            if not over:
                time.sleep(_PAUSE)
    if not any(part.opened for part in parts):
        raise ClusterError(f"the job has ended without writing {' or '.join(map(str, files))}")


class _Growing:
    """A file that another process appends to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text: TextIO | None = None
        self._begun = ""

    @property
    def opened(self) -> bool:
        return self._text is not None

    def lines(self, *, rest: bool) -> list[str]:
        """What has come since the last call, in whole lines; with `rest` the last one too, though it has no end."""
        if self._text is None:
            if not self._path.exists():
                return []
            self._text = self._path.open(newline="\n", errors="replace")
        *whole, self._begun = (self._begun + self._text.read()).split("\n")
        lines = [f"{line}\n" for line in whole]
        if rest and self._begun:
            lines, self._begun = [*lines, f"{self._begun}\n"], ""
        if rest:
            self._text.close()
        return lines


def _record(number: str) -> Path:
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "torchflava" / "slurm" / number
