"""Small jobs on a real Slurm without accounting: what `torchx` says of them, how they are ended, and when they start again."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from slurm_cluster import Cluster, Torchx, cluster, emptied, torchx

__all__ = ["cluster", "emptied", "torchx"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

TALKS = "echo to out $SLURM_NODEID; echo to err $SLURM_NODEID >&2; echo $TORCHX_JOB_ID; "
PAIR = """
from torchx.specs import AppDef, Role, macros
def pair() -> AppDef:
    \"\"\"Two roles.\"\"\"
    def role(name, n):
        words = ["-c", 'echo $0 of $SLURM_JOB_ID meets at $SLURM_LAUNCH_NODE_IPADDR', name + macros.replica_id]
        return Role(name=name, image="", entrypoint="bash", args=words, num_replicas=n)
    return AppDef(name="pair", roles=[role("a", 1), role("b", 2)])
"""
WAITS = """
import time
print("up", flush=True)
time.sleep(3000)
"""


def lines(text: str) -> list[str]:
    """A log's, without TorchX's own."""
    return [line for line in text.splitlines() if line and not line.startswith("torchx 20")]


def restarts(cluster: Cluster, number: str) -> int:
    return int(cluster.job(number)["Restarts"])


def test_status_list_and_log(cluster: Cluster, torchx: Torchx, tmp_path: Path) -> None:
    words = ["utils.sh", "--num_replicas", "2", "bash", "-c", TALKS + "while [ ! -e $0 ]; do sleep 0.2; done"]
    number = torchx.submit(*words, str(tmp_path / "go"))
    handle = f"slurm://torchx/{number}"
    cluster.until_state(number, "RUNNING")
    told = torchx("status", handle, cwd=tmp_path)
    assert "State: RUNNING" in told
    assert "*sh[0]:RUNNING" in told
    assert " sh[1]:RUNNING" in told
    assert re.search(rf"{handle}\s+RUNNING", torchx("list", "-s", "slurm"))
    (tmp_path / "go").touch()
    log = lines(torchx("log", handle, cwd=tmp_path))  # follows to the end, from another directory
    expected = {f"sh/{n} {word}" for n in (0, 1) for word in (f"to out {n}", f"to err {n}", handle)}
    assert set(log) == expected
    assert lines(torchx("log", "--streams", "stderr", f"{handle}/sh/1", cwd=tmp_path)) == ["sh/1 to err 1"]
    cluster.until_state(number, "COMPLETED")
    assert "State: SUCCEEDED" in torchx("status", handle)


def test_a_cancelled_job_stays_cancelled_whatever_its_retries(cluster: Cluster, torchx: Torchx) -> None:
    number = torchx.submit("utils.sh", "--max_retries", "5", "bash", "-c", "echo up; sleep 3000")
    cluster.until_state(number, "RUNNING")
    cluster.until(
        lambda: "up" in "".join(f.read_text() for f in torchx.home.glob(f"runs/logs/slurm-{number}-sh-0.out"))
    )
    torchx("cancel", f"slurm://torchx/{number}")
    cluster.until_state(number, "CANCELLED")
    assert "State: CANCELLED" in torchx("status", f"slurm://torchx/{number}")
    assert re.search(rf"slurm://torchx/{number}\s+CANCELLED", torchx("list", "-s", "slurm"))
    time.sleep(3)
    assert cluster.job(number)["JobState"] == "CANCELLED"
    assert restarts(cluster, number) == 0
    assert cluster.processes(number) == []
    torchx("cancel", f"slurm://torchx/{number}")  # once more is no mistake


def test_a_failure_ends_it_and_retries_are_counted(cluster: Cluster, torchx: Torchx) -> None:
    once = torchx.submit("utils.sh", "bash", "-c", "exit 3")
    twice = torchx.submit(
        "utils.sh", "--max_retries", "1", "bash", "-c", "echo start ${SLURM_RESTART_COUNT:-0}; exit 3"
    )
    cluster.until_state(once, "FAILED")
    assert "State: FAILED" in torchx("status", f"slurm://torchx/{once}")
    cluster.until_state(twice, "FAILED", restarts=1)
    assert lines(torchx("log", f"slurm://torchx/{twice}")) == ["sh/0 start 0", "sh/0 start 1"]  # both are kept
    assert (restarts(cluster, once), restarts(cluster, twice)) == (0, 1)


def test_who_is_preempted_before_it_can_note_it_starts_again(cluster: Cluster, torchx: Torchx) -> None:
    """Its processes die of SIGTERM at once, within the grace time: to Slurm that is a job that failed by itself."""
    number = torchx.submit("utils.sh", "--num_replicas", "3", "bash", "-c", "echo up; sleep 3000")
    cluster.until_state(number, "RUNNING")
    cluster.ask("sbatch", "--partition=high", "--nodes=3", "--output=/dev/null", "--wrap", "sleep 1")
    cluster.until_state(number, "RUNNING", restarts=1)
    # A controller that is late by the grace time kills it and queues it again by itself.
    late = f"preempted JobId={number} has been requeued to reclaim resources" in cluster.said("slurmctld")
    said = (torchx.home / f"runs/logs/slurm-{number}.out").read_text()
    assert late != ("preempted: the job is to start again" in said)
    torchx("cancel", f"slurm://torchx/{number}")
    cluster.until_state(number, "CANCELLED")


def test_a_dead_rank_fails_the_job_and_the_log_says_so(cluster: Cluster, torchx: Torchx) -> None:
    (torchx.home / "waits.py").write_text(WAITS)
    number = torchx.submit("waits.py", "--nodes", "2", "--name", "mine")
    log = torchx.home / "runs" / "logs"
    cluster.until(lambda: "".join(f.read_text() for f in log.glob(f"slurm-{number}-*.err")).count("up\n") == 2)
    (rank,) = cluster.processes(number, "-u waits.py", on="1")
    os.kill(rank, signal.SIGKILL)
    cluster.until_state(number, "FAILED")
    assert restarts(cluster, number) == 0
    assert "was killed by SIGKILL" in torchx("log", f"slurm://torchx/{number}/waits")
    assert "State: FAILED" in torchx("status", f"slurm://torchx/{number}")
    cluster.until(lambda: not cluster.processes(number, "waits.py"))  # no rank outlives its job


def test_two_roles_are_a_heterogeneous_job(cluster: Cluster, torchx: Torchx) -> None:
    (torchx.home / "pair.py").write_text(PAIR)
    number = torchx.submit("pair.py:pair")
    cluster.until_state(number, "COMPLETED")
    log = lines(torchx("log", f"slurm://torchx/{number}"))
    meets = f"of {number} meets at 127.0.0.1"
    assert sorted(log) == [f"a/0 a0 {meets}", f"b/0 b0 {meets}", f"b/1 b1 {meets}"]
    assert torchx("list", "-s", "slurm").count(f"slurm://torchx/{number} ") == 1


def test_what_the_cluster_lacks_is_refused(cluster: Cluster, torchx: Torchx) -> None:
    (torchx.home / "waits.py").write_text(WAITS)
    before = torchx("list", "-s", "slurm").count("slurm://")
    for words, message in (
        (["waits.py", "--nodes", "4"], "--nodes 4 is more than the 3 nodes of partition low"),
        (["waits.py", "--gpus", "5"], "--gpus 5 is more than a node of partition low has: 4"),
        (["-cfg", "partition=nope", "waits.py"], "no partition 'nope' on this cluster; there are low, high"),
        (["-cfg", "constraint=moon", "waits.py"], "sbatch: error: Batch job submission failed: Invalid feature"),
    ):
        told = torchx("run", "-s", "slurm", *words, code=2)
        assert f"torchx run: error: {message}" in told
        assert "Traceback" not in told
    assert torchx("list", "-s", "slurm").count("slurm://") == before


def test_a_job_in_a_copy_of_its_own(cluster: Cluster, torchx: Torchx, tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "runs").mkdir(parents=True)
    (work / "runs" / "big").touch()
    (work / "prints.py").write_text("import os, sys; print('v1', os.getcwd(), os.environ['PYTHONPATH'].split(':')[0])")
    copy = tmp_path / "copy"
    number = torchx.submit("-cfg", f"job_dir={copy}", "prints.py", cwd=work)
    (work / "prints.py").write_text("raise SystemExit('edited too late')")
    cluster.until_state(number, "COMPLETED", "FAILED")
    assert f"v1 {copy} {copy}" in torchx("log", f"slurm://torchx/{number}")
    assert not (copy / "runs" / "big").exists()
