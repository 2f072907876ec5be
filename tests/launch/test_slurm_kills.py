"""`recipes/pretrain.py` on two nodes of a real Slurm: whatever is killed, it ends with the trace of one left alone."""

import os
import signal
from pathlib import Path

import pytest
from slurm_cluster import Cluster, Torchx, cluster, emptied, torchx
from slurm_run import RANK, Record, Run, alone, trace, whole

__all__ = ["alone", "cluster", "emptied", "torchx"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def test_whatever_is_killed_the_next_start_goes_on(
    cluster: Cluster, torchx: Torchx, alone: dict[int, Record], tmp_path: Path
) -> None:
    """A rank, a torchrun, and a node's daemon; the job has two failures to spare, and a lost node is none."""
    run = Run(cluster, torchx, tmp_path, "--retries", "2")

    run.going(0)
    run.until(lambda: whole(run.folder))
    (rank,) = cluster.processes(run.number, RANK, on="1")
    os.kill(rank, signal.SIGKILL)

    run.going(1)
    (agent,) = cluster.processes(run.number, "-m torchflava.launch.torchrun", on="1")
    os.kill(agent, signal.SIGKILL)

    run.going(2)
    lost = cluster.ask("scontrol", "show", "hostnames", cluster.job(run.number)["NodeList"]).split()[-1]
    cluster.daemons[lost].kill()
    cluster.ask("scontrol", "update", f"NodeName={lost}", "State=DOWN", "Reason=lost")  # else found out in minutes
    cluster.until_state(run.number, "RUNNING", restarts=3)
    left = cluster.ask("scontrol", "show", "hostnames", cluster.job(run.number)["NodeList"]).split()

    assert run.end() == "COMPLETED", run.said()
    assert len(left) == 2
    assert lost not in left
    assert trace(run.folder) == alone
    assert "was killed by SIGKILL" in run.said()
    assert "failure 2, of which 2 are forgiven" in run.said()
    cluster.start_node(lost)
    cluster.ask("scontrol", "update", f"NodeName={lost}", "State=RESUME")
