"""What Slurm knows of jobs: asked of the controller first, which every Slurm has, then of the accounting, where there is one.

The controller forgets a job some minutes after its end (MinJobAge, 300 s by default); the accounting keeps it.
"""

import getpass
import re
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from torchx.specs import AppState

from torchflava.launch.ddp import ClusterError, LaunchError

_STATES = {
    AppState.PENDING: "CONFIGURING PENDING REQUEUED REQUEUE_FED REQUEUE_HOLD RESV_DEL_HOLD SPECIAL_EXIT STOPPED SUSPENDED",
    # COMPLETING too: its processes are still there, and it may be on its way to CANCELLED as well as back to PENDING
    AppState.RUNNING: "COMPLETING RESIZING RUNNING SIGNALING STAGE_OUT",
    AppState.SUCCEEDED: "COMPLETED",
    AppState.FAILED: "BOOT_FAIL DEADLINE FAILED LAUNCH_FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED RECONFIG_FAIL REVOKED TIMEOUT",
    AppState.CANCELLED: "CANCELLED",
}
_APP_STATES = {word: state for state, words in _STATES.items() for word in words.split()}


class Job(NamedTuple):
    """One job, or one part of a heterogeneous one."""

    number: str
    """Of the job, `12`; the parts of a heterogeneous one share their first's."""
    part: int
    name: str
    state: str
    """Slurm's word, such as `RUNNING` or `CANCELLED by 0`."""
    nodes: int
    places: str
    """The nodes' names as Slurm writes them, `n[1-2]`; empty while it has none."""
    reason: str = ""
    restarts: int = -1
    output: str = ""
    """Where the job's script writes; empty where only the accounting knows the job."""

    @property
    def app_state(self) -> AppState:
        """TorchX's word for the state."""
        return _APP_STATES.get(self.state.partition(" ")[0].rstrip("+"), AppState.UNKNOWN)


def find(number: str) -> list[Job]:
    """The parts of a job, one as a rule; none if nobody knows it.

    Raises:
        LaunchError: (a ValueError) if there is no Slurm here.
        ClusterError: (a RuntimeError) if Slurm does not answer, with its words.
    """
    told = _ask("scontrol", "--oneliner", "show", "job", number, unknown="Invalid job id")
    jobs = [_of_controller(line) for line in told.splitlines() if "JobId=" in line]
    return [job for job in jobs if job.number == number] or [job for job in _accounted(number) if job.number == number]


def all_jobs() -> list[Job]:
    """This user's jobs: those that the controller remembers, and those of the last 30 days that the accounting has.

    Raises:
        LaunchError, ClusterError: as `find`.
    """
    told = _ask("squeue", "-h", "-a", "-t", "all", "-u", getpass.getuser(), "-o", "%i|%T|%D|%N|%j")
    found = [_of_columns(line) for line in told.splitlines() if line.count("|") >= 4]
    jobs = {(job.number, job.part): job for job in (*_accounted(), *found)}
    return sorted(jobs.values(), key=lambda job: (len(job.number), job.number, job.part))


def cancel(number: str) -> None:
    """End a job.

    Raises:
        LaunchError, ClusterError: as `find`.
    """
    _ask("scancel", number)


def names_of(places: str) -> list[str]:
    """`n[1-2]` as `n1`, `n2`."""
    return _ask("scontrol", "show", "hostnames", places).split() if places else []


def _ask(*command: str, unknown: str = "") -> str:
    """What Slurm answers; nothing, if it answers with the words `unknown`."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise LaunchError(f"no {command[0]} here: Slurm is asked from a machine of its cluster") from error
    if done.returncode == 0:
        return done.stdout
    if unknown and unknown in done.stderr:
        return ""
    raise ClusterError(f"{' '.join(command)}: {done.stderr.strip() or f'ended with code {done.returncode}'}")


def _of_controller(line: str) -> Job:
    """A line of `scontrol --oneliner show job`: names and values, `Name=value Name=value`."""

    def value(name: str, default: str = "") -> str:
        found = re.search(rf"(?:^| ){name}=(.*?)(?= [\w/:.]+=|$)", line)
        told = found[1].strip() if found else default
        return default if told in ("(null)", "None", "N/A") else told

    return Job(
        number=value("HetJobId") or value("JobId"),
        part=int(value("HetJobOffset", "0")),
        name=value("JobName"),
        state=value("JobState"),
        nodes=_leading_number(value("NumNodes")),
        places=value("NodeList"),
        reason=value("Reason"),
        restarts=int(value("Restarts", "0")),
        output=value("StdOut"),
    )


def _accounted(number: str = "") -> Iterator[Job]:
    """From the accounting; nothing where there is none."""
    whose = ["-j", number] if number else ["-u", getpass.getuser(), "-S", "now-30days"]
    try:
        told = _ask("sacct", "-n", "-X", "-P", "-o", "JobID,State,NNodes,NodeList,JobName", *whose)
    except (LaunchError, ClusterError):  # none is set up, or not installed here
        return
    for line in told.splitlines():
        if line.count("|") >= 4:
            yield _of_columns(line)


def _of_columns(line: str) -> Job:
    """`12+0|RUNNING|2|n[1-2]|name`, whose name may hold anything."""
    number, state, nodes, places, name = line.split("|", 4)
    number, _, part = number.partition("+")
    places = "" if places in ("None assigned", "(null)") else places
    return Job(number, int(part or 0), name, state, _leading_number(nodes), places)


def _leading_number(text: str) -> int:
    """2 of `2`, and of `2-2`, as some versions write of a job that waits."""
    found = re.match(r"\d+", text)
    return int(found[0]) if found else 0
