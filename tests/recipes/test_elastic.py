"""Under torchrun a dead rank ends the job in seconds and says why; under its elastic mode the ranks that are left go on."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from killed import trace, whole

ROOT = Path(__file__).parents[2]
SMALL = ["recipes/pretrain.py", "--preset", "tiny", "--name", "run", "--steps", "5000", "--save-every", "5"]
SMALL += ["--warmup-steps", "2", "--vocab-size", "120", "--max-length", "12"]


class Agents:
    """torchruns on this machine, each a node; ended when the test is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, nodes: str, *words: str) -> subprocess.Popen[bytes]:
        """One more node."""
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", nodes, "--nproc-per-node", "1"]
        command += ["--rdzv-backend", "c10d", "--rdzv-id", "job", "--rdzv-endpoint", f"localhost:{self.port}"]
        # The first holds the store: unless told so, whichever binds the port first does, and the test may end that one.
        store = f"is_host={0 if self.started else 1}"
        command += ["--rdzv-conf", f"{store},last_call_timeout=15,keep_alive_interval=1,keep_alive_max_attempt=4"]
        command += ["--local-addr", "127.0.0.1", "--monitor-interval", "0.1", *words]
        # torchrun shares a store between its rounds, which a node that comes in a later round waits for in vain.
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        with (self.folder / f"said-{len(self.started)}").open("wb") as out:
            agent = subprocess.Popen(
                [*command, *SMALL, "--folder", str(self.folder)], cwd=ROOT, env=env, stdout=out, stderr=out
            )
        self.started.append(agent)
        return agent

    def said(self) -> str:
        """By all of them."""
        return "\n".join(file.read_text() for file in sorted(self.folder.glob("said-*")))

    def until(self, seen: Callable[[], Any]) -> None:
        """Wait for what is to be seen."""
        end = time.monotonic() + 150
        while not seen():
            assert time.monotonic() < end, self.said()
            time.sleep(0.05)


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    made = Agents(tmp_path)
    yield made
    for agent in made.started:
        for pid in [*workers(agent.pid), agent.pid] if agent.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
        agent.wait()


def workers(agent: int) -> list[int]:
    """The processes that a torchrun started and that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has ended meanwhile
            continue
        if int(parent) == agent and state != "Z":
            found.append(int(stat.parent.name))
    return found


def starts(agents: Agents) -> list[tuple[int, int]]:
    """Step and number of ranks of each start."""
    told = re.findall(r"(?:starting|going on at step (\d+)) in \S+, on (\d) x cpu", agents.said())
    return sorted((int(step or 0), int(ranks)) for step, ranks in told)


def of_one(agents: Agents) -> list[int]:
    """Steps of the starts of one rank; another of two ranks may be at the same step, before the next checkpoint."""
    return [step for step, ranks in starts(agents) if ranks == 1]


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds workers by /proc")
def test_the_ranks_that_are_left_go_on_from_the_last_checkpoint(agents: Agents) -> None:
    folder = agents.folder / "run"
    first = agents.start("1:2", "--max-restarts", "3")
    second = agents.start("1:2", "--max-restarts", "3")
    agents.until(lambda: whole(folder))
    assert starts(agents) == [(0, 2)]
    os.kill(workers(second.pid)[0], signal.SIGKILL)  # its torchrun starts another
    agents.until(lambda: len(starts(agents)) == 2)
    ((step, ranks),) = starts(agents)[1:]
    assert step >= 5
    assert ranks == 2
    agents.until(lambda: max(trace(folder)) > step + 5)
    for pid in (*workers(second.pid), second.pid):  # the node is gone
        os.kill(pid, signal.SIGKILL)
    agents.until(lambda: len(starts(agents)) >= 3 and of_one(agents))
    (step,) = of_one(agents)
    agents.until(lambda: max(trace(folder)) > step + 2)
    first.send_signal(signal.SIGTERM)  # which torchrun hands on, and answers with 1
    assert first.wait(timeout=150) == 1
    seen = trace(folder)
    assert sorted(seen) == list(range(1, max(seen) + 1))
    assert max(whole(folder)) == max(seen)
    assert "stopped after step" in agents.said()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds workers by /proc")
def test_a_dead_rank_ends_the_job_of_two_nodes_in_seconds(agents: Agents) -> None:
    first, second = agents.start("2", "--max-restarts", "0"), agents.start("2", "--max-restarts", "0")
    agents.until(lambda: whole(agents.folder / "run"))
    os.kill(workers(second.pid)[0], signal.SIGKILL)
    began = time.monotonic()
    assert first.wait(timeout=150) == second.wait(timeout=150) == 1
    assert time.monotonic() - began < 120  # not the minutes that a rank waits for another
    said = agents.said()
    assert "Signal 9 (SIGKILL)" in said
    assert re.search(r"This was on rank [01] of 2, (?:after|in) step \d+[,.]", said)
