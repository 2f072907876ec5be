"""`recipes/pretrain.py` on two nodes of a real Slurm: stopped and preempted, it ends with the trace of one left alone."""

from pathlib import Path

import pytest
from slurm_cluster import Cluster, Torchx, cluster, emptied, torchx
from slurm_run import Record, Run, alone, trace

__all__ = ["alone", "cluster", "emptied", "torchx"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def test_it_loses_at_most_a_step_to_whoever_asks_it_to_stop(
    cluster: Cluster, torchx: Torchx, alone: dict[int, Record], tmp_path: Path
) -> None:
    """A requeue, a job of a higher partition, and the time limit: no --retries and no --name are needed."""
    run = Run(cluster, torchx, tmp_path)

    run.going(0)
    run.asked_to_stop("scontrol", "requeue", run.number)

    run.going(1)
    run.asked_to_stop("sbatch", "--partition=high", "--nodes=3", "--output=/dev/null", "--wrap", "sleep 1")

    run.going(2)
    minutes, seconds = map(int, cluster.job(run.number)["RunTime"].split(":")[-2:])
    limit = minutes + (
        2 if seconds < 30 else 3
    )  # 90 to 150 s are left: Slurm signals at its next look, in half a minute
    run.asked_to_stop("scontrol", "update", f"JobId={run.number}", f"TimeLimit={limit}")
    cluster.until_state(run.number, "PENDING", "RUNNING", restarts=3)
    cluster.ask("scontrol", "update", f"JobId={run.number}", "TimeLimit=60")

    assert run.end() == "COMPLETED", run.said()
    assert trace(run.folder) == alone
    said = run.said()
    assert said.count("stopped after step") == 3, said
    stops = [int(line.split()[3]) for line in said.splitlines() if line.startswith("stopped after step")]
    goes_on = [int(line.split()[4]) for line in said.splitlines() if line.startswith("going on at step")]
    assert sorted(goes_on) == sorted(stops)  # nothing was done twice; rank 0 is on either node
    assert "preempted: the job is to start again" in said
    assert "its time is up: the job is to start again" in said
