"""`recipes/pretrain.py --nodes 2:3` on a real Slurm: it goes on with the nodes that are left, to its end."""

import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import slurm_run
from slurm_cluster import Cluster, Torchx, cluster, emptied, torchx
from slurm_run import trace, whole

__all__ = ["cluster", "emptied", "torchx"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

AGENT = "-m torchflava.launch.torchrun"


class Run(slurm_run.Run):
    """A job of two or three nodes, whose batch of 12 both can share."""

    nodes = "2:3"

    def __init__(self, cluster: Cluster, torchx: Torchx, folder: Path, *, steps: int) -> None:
        self.steps = steps
        self.own = [*slurm_run.SMALL, "--steps", str(steps), "--batch-size", "12"]
        super().__init__(cluster, torchx, folder)

    def starts(self) -> list[tuple[int, int]]:
        """Step and number of ranks of each start."""
        told = re.findall(r"(?:starting|going on at step (\d+)) in \S+, on (\d) x cpu", self.said())
        return sorted((int(step or 0), int(ranks)) for step, ranks in told)

    def started(self, count: int) -> tuple[int, int]:
        """Step and number of ranks of the last start, once there are so many and it has done three steps."""
        self.until(lambda: len(self.starts()) >= count)
        step, ranks = self.starts()[-1]
        self.until(lambda: self.step() >= step + 3)
        return step, ranks

    def lose(self, node: int) -> str:
        """Kill all that runs on its n-th node, Slurm's own too, as where a machine dies, and tell Slurm: the node's name."""
        nodes = self.cluster.job(self.number)["NodeList"]
        name = self.cluster.ask("scontrol", "show", "hostnames", nodes).split()[node]
        self.cluster.daemons[name].kill()
        pids = self.cluster.processes(self.number, on=str(node))
        for pid in (*filter(of_slurm, map(parent, pids)), *pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # which it would find out in minutes
        self.cluster.ask("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=lost")
        return name


def parent(pid: int) -> int:
    """The process that started it, or cares for it; itself if it has ended."""
    stat = Path(f"/proc/{pid}/stat")
    return int(stat.read_text().rpartition(")")[2].split()[1]) if stat.exists() else pid


def of_slurm(pid: int) -> bool:
    """Whether it is what Slurm leaves beside a job's processes to care for them."""
    line = Path(f"/proc/{pid}/cmdline")
    return line.exists() and b"slurmstepd" in line.read_bytes()


def up(cluster: Cluster, name: str) -> None:
    cluster.start_node(name)
    cluster.ask("scontrol", "update", f"NodeName={name}", "State=RESUME")
    cluster.until(lambda: cluster.ask("sinfo", "-h", "-p", "low", "-t", "idle", "-o", "%D") == "3")


def test_it_goes_on_without_a_node_that_is_lost(cluster: Cluster, torchx: Torchx, tmp_path: Path) -> None:
    run = Run(cluster, torchx, tmp_path, steps=150)
    assert run.started(1) == (0, 3)
    cluster.until(lambda: whole(run.folder), run.said)
    lost = run.lose(1)
    step, ranks = run.started(2)
    assert (step % 5, ranks) == (0, 2)
    assert step >= 5
    assert run.end() == "COMPLETED", run.said()
    assert cluster.job(run.number)["Restarts"] == "0"
    assert sorted(trace(run.folder)) == list(range(1, run.steps + 1))
    assert "| matching AUROC " in run.said()
    assert "ended with code 0, start 1" in run.said()
    cluster.until(lambda: not cluster.processes(run.number), run.said)
    up(cluster, lost)


def test_a_torchrun_that_dies_is_a_lost_node_and_being_asked_to_stop_still_is_none(
    cluster: Cluster, torchx: Torchx, tmp_path: Path
) -> None:
    run = Run(cluster, torchx, tmp_path, steps=400)
    assert run.started(1) == (0, 3)
    cluster.until(lambda: whole(run.folder), run.said)
    (agent,) = (pid for pid in cluster.processes(run.number, AGENT, on="2") if "python" in name_of(pid))
    os.kill(agent, signal.SIGKILL)
    assert run.started(2)[1] == 2
    cluster.ask("scancel", "--signal=USR1", f"{run.number}.0")  # as ahead of the time limit; here it is a failure
    assert run.end() == "FAILED"
    said = run.said()
    stopped = re.findall(r"stopped after step (\d+) of", said)
    assert len(stopped) == 1, said
    assert max(trace(run.folder)) == int(stopped[0])
    assert "asked to stop by SIGUSR1 and has ended" in said
    assert "ended with code 75, start 1" in said


def test_without_its_first_node_it_starts_again(cluster: Cluster, torchx: Torchx, tmp_path: Path) -> None:
    run = Run(cluster, torchx, tmp_path, steps=150)
    assert run.started(1) == (0, 3)
    cluster.until(lambda: whole(run.folder), run.said)
    first = run.lose(0)
    step, ranks = run.started(2)
    assert step >= 5
    assert ranks == 2  # which are left
    assert run.end() == "COMPLETED", run.said()
    assert cluster.job(run.number)["Restarts"] == "1"
    assert f"the first node, {first}, is lost: the job is to start again" in run.said()
    assert sorted(trace(run.folder)) == list(range(1, run.steps + 1))
    up(cluster, first)


def name_of(pid: int) -> str:
    """Its program."""
    return Path(os.readlink(f"/proc/{pid}/exe")).name
