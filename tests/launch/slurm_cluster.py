"""A throw-away Slurm on this machine, for tests: munged, slurmctld and three slurmd from the distribution's packages.

Needs root, no systemd and no cgroups. It has two partitions of the same nodes: jobs of `low` are preempted by those of
`high`, with GraceTime, and start again. Whatever was started in it ends with it.

A job that starts again waits for cred_expire (120 s by default). That must be more than KillWait: the kill that a start's end has
pending hits the next start otherwise, whose step has the same number (seen with 5 and 30).
"""

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
NODES, CPUS, MEMORY, GPUS = 3, 8, 16_000, 4
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
PATIENCE = 900.0  # seconds: a crowded machine is slow, and a test that waits for nothing costs nothing

CONFIGURATION = """
ClusterName=flava
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
SlurmdParameters=config_overrides
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={dir}/munge.sock,cred_expire=25
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool.%n
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd.%n.pid
SlurmctldLogFile={dir}/slurmctld.log
SlurmdLogFile={dir}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,bf_resolution=1,sched_min_interval=0,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
KillWait=20
MinJobAge=300
FirstJobId={first}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=DEFAULT CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
{nodes}
PartitionName=low Nodes=ALL Default=YES MaxTime=7-0 PriorityTier=10 PreemptMode=REQUEUE GraceTime=120
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=100 PreemptMode=OFF
"""


class Cluster:
    """A running one.

    Args:
        folder: of its own, for all that it writes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"SLURM_CONF": str(folder / "slurm.conf")}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start all daemons and wait until every node is idle."""
        ports = _free_ports(NODES + 1)
        host = socket.gethostname().partition(".")[0]
        here = f"NodeHostname={host} NodeAddr=127.0.0.1"
        nodes = [f"NodeName=n{i} {here} Port={port}" for i, port in enumerate(ports[1:], start=1)]
        words = {"host": host, "user": getpass.getuser(), "dir": self.folder}
        words["first"] = ports[0] * 100  # jobs meet at ports by their numbers, and another test may have a cluster too
        words |= {"controller": ports[0], "cpus": CPUS, "memory": MEMORY, "gpus": GPUS, "nodes": "\n".join(nodes)}
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format_map(words))
        # Files stand in for GPUs: nothing keeps a job from the others', but they are counted.
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-{GPUS - 1}]\n")
        for name in (*(f"gpu{i}" for i in range(GPUS)), "key"):
            (self.folder / name).touch(mode=0o600)
        (self.folder / "key").write_bytes(os.urandom(1024))
        (self.folder / "state").mkdir()
        of_munge = [f"--{name}={self.folder / file}" for name, file in MUNGE.items()]
        # --force: pytest's folders are closed to others, which munged takes for a mistake
        self._run("munged", "munged", "--foreground", "--force", "--num-threads=2", *of_munge)
        self.until(lambda: (self.folder / "munge.sock").exists())
        self._run("slurmctld", "slurmctld", "-D", "-i")
        for node in range(1, NODES + 1):
            self.start_node(f"n{node}")
        self.until(lambda: self.ask("sinfo", "-h", "-p", "low", "-t", "idle", "-o", "%D") == str(NODES))

    def start_node(self, name: str) -> None:
        """Start a node's daemon."""
        (self.folder / f"spool.{name}").mkdir(exist_ok=True)
        self._run(name, "slurmd", "-D", "-N", name)

    def stop(self) -> None:
        """End the jobs, then the daemons, then whatever a killed daemon left behind."""
        if "slurmctld" in self.daemons:
            self.ask("scancel", "--user", getpass.getuser())
            self.ask("scancel", "--signal=KILL", "--user", getpass.getuser())
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and self.ask("squeue", "-h"):
                time.sleep(0.2)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for pid in self.processes():
            _send(pid, signal.SIGKILL)

    def ask(self, *command: str) -> str:
        """What a command of Slurm's prints, on both streams."""
        done = subprocess.run(
            command, env=os.environ | self.env, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        return (done.stdout + done.stderr).strip()

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of a job, by its names."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.ask("scontrol", "-o", "show", "job", number)))

    def until(self, seen: Callable[[], Any], told: Callable[[], str] | None = None) -> None:
        """Wait for what is to be seen."""
        end = time.monotonic() + PATIENCE
        while not seen():
            dead = [name for name, daemon in self.daemons.items() if daemon.poll() not in (None, -signal.SIGKILL)]
            assert not dead, [(self.folder / f"{name}.said").read_text() for name in dead]
            assert time.monotonic() < end, (told or self.story)()
            time.sleep(0.2)

    def until_state(self, number: str, *states: str, restarts: int = 0) -> None:
        """Wait until a job is in one of these states and was started again at least so many times.

        What has ended otherwise, for longer than a job that starts again shows it, is not waited for.
        """
        ended: list[float] = []

        def there() -> bool:
            job = self.job(number)
            if job.get("JobState") in ENDED and job["JobState"] not in states:
                ended.append(time.monotonic())
                assert ended[-1] - ended[0] < 60, f"{job}\n{self.story()}"
            else:
                ended.clear()
            return job.get("JobState") in states and int(job.get("Restarts", "0")) >= restarts

        self.until(there, lambda: f"{self.job(number)}\n{self.story()}")

    def story(self) -> str:
        """The end of the controller's log."""
        return self.said("slurmctld")[-3000:]

    def said(self, daemon: str) -> str:
        """A daemon's log."""
        return (self.folder / f"{daemon}.log").read_text()

    def processes(self, number: str = "", *words: str, on: str = "") -> list[int]:
        """Processes that were started in this cluster: all, or those of a job's n-th node whose command line has the words."""
        return [
            pid
            for pid, env, line in _all_processes()
            if env.get("SLURM_CONF") == self.env["SLURM_CONF"]
            and pid != os.getpid()
            and (not number or env.get("SLURM_JOB_ID") == number)
            and (not on or env.get("SLURM_NODEID") == on)
            and all(word in line for word in words)
        ]

    def _run(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.said").open("ab") as said:
            self.daemons[name] = subprocess.Popen(command, env=os.environ | self.env, stdout=said, stderr=said)


class Torchx:
    """The `torchx` command, as a user of the cluster types it."""

    def __init__(self, cluster: Cluster, home: Path) -> None:
        self.home = home
        (home / "config").touch()
        self.env = os.environ | cluster.env | {"XDG_STATE_HOME": str(home), "TORCHXCONFIG": str(home / "config")}

    def __call__(self, *words: str, cwd: Path | None = None, code: int = 0) -> str:
        """What it prints, on both streams."""
        command = [str(Path(sys.executable).parent / "torchx"), *words]
        done = subprocess.run(
            command, cwd=cwd or self.home, env=self.env, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    def submit(self, *words: str, cwd: Path | None = None) -> str:
        """The number of the job that `torchx run -s slurm WORDS` submits."""
        told = self("run", "-s", "slurm", *words, cwd=cwd)
        found = re.search(r"^slurm://torchx/(\d+)$", told, re.MULTILINE)
        assert found, told
        return found[1]


MUNGE = {
    "key-file": "key",
    "socket": "munge.sock",
    "pid-file": "munged.pid",
    "log-file": "munged.log",
    "seed-file": "seed",
}
"""munged's options, and the files in the cluster's folder."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Slurm of three nodes, shared by a module's tests."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here: apt-get install --no-install-recommends slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("slurmd wants to be root")
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    with ExitStack() as at_the_end:
        at_the_end.callback(made.stop)
        made.start()
        yield made


@pytest.fixture(autouse=True)
def emptied(cluster: Cluster) -> Iterator[None]:
    """No job of a test that failed keeps the next one's from starting."""
    yield
    cluster.ask("scancel", "--user", getpass.getuser())
    cluster.ask("scancel", "--signal=KILL", "--full", "--user", getpass.getuser())


@pytest.fixture(scope="module")
def torchx(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Torchx:
    """`torchx` on that cluster, from a directory of its own."""
    return Torchx(cluster, tmp_path_factory.mktemp("home"))


def _environment_of(pid: int) -> dict[str, str]:
    """A process's variables; none if it has ended, or is another's."""
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(word.split("=", 1) for word in text.split("\0") if "=" in word)


def _all_processes() -> Iterator[tuple[int, Mapping[str, str], str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        if line:  # a zombie has none
            yield int(folder.name), _environment_of(int(folder.name)), line


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as open_ones:
        sockets = [open_ones.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
