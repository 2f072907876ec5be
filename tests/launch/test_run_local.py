"""The literal `torchx run -s local_cwd FILE.py`: what the terminal shows, how a job fails, and how it is stopped."""

import os
import pty
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from torchflava.launch.cli import _describe_one_at_a_time

TORCHX = str(Path(sys.executable).parent / "torchx")

ORDERED = """
import os, sys
print("out 1"); print("err 2", file=sys.stderr); print("out 3")
names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS", "TTY_COMPATIBLE")
print([os.environ.get(name) for name in names], sys.argv[1:])
print("last")
"""
FAILING = """
import sys
def deep(): raise KeyError("the reason")
if sys.argv[1:] == ["fail"]: deep()
"""
WAITING = """
import os, signal, sys, time
if sys.argv[1:] == ["stubborn"]: signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(f"pid {os.getpid()} up")
time.sleep(120)
"""
BAR = """
import os, sys, time
sys.stderr.write("\\r 10%"); time.sleep(0.3)
sys.stderr.write("\\r100%\\n")
print(os.environ.get("TTY_COMPATIBLE"), os.environ.get("COLUMNS"))
"""
REPLICAS = """
from torchx.specs import AppDef, Role
def pair(n: int) -> AppDef:
    return AppDef(name="pair", roles=[Role(name="r", image="", entrypoint="sh",
        args=["-c", "echo first; sleep 1.02; echo LAST"], num_replicas=n)])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scripts = {"ordered": ORDERED, "failing": FAILING, "waiting": WAITING, "bar": BAR, "replicas": REPLICAS}
    for name, text in scripts.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def environment(**variables: str) -> dict[str, str]:
    hidden = ("OMP_NUM_THREADS", "TTY_COMPATIBLE", "COLUMNS", "PYTHONPATH")
    return {k: v for k, v in os.environ.items() if k not in hidden} | variables


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [TORCHX, "run", "-s", "local_cwd", *words]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=250)


def own_lines(text: str) -> list[str]:
    """What is not TorchX's log."""
    return [line for line in text.splitlines() if not line.startswith("torchx 20")]


def test_a_script_s_lines_arrive_whole_and_in_order(folder: Path) -> None:
    done = run(folder, "ordered.py", "--", "--model", "small", "--steps", "200")
    assert done.returncode == 0, done.stderr
    told = "['0', '1', '127.0.0.1', None, None] ['--model', 'small', '--steps', '200']"
    assert own_lines(done.stderr) == ["out 1", "err 2", "out 3", told, "last"]
    assert done.stdout.startswith("local_cwd://torchx/ordered-")


def test_a_failure_shows_its_traceback_and_fails(folder: Path) -> None:
    done = run(folder, "failing.py", "--", "fail")
    assert done.returncode == 1
    lines = own_lines(done.stderr)
    assert "KeyError: 'the reason'" in lines
    assert any("in deep" in line for line in lines)
    assert "The job ended: FAILED. Why, stands above." in done.stderr
    assert "state: FAILED" not in done.stderr  # TorchX's page of it


def test_the_last_words_of_a_quick_job_are_shown(folder: Path) -> None:
    done = run(folder, "utils.echo", "--msg", "LAST")  # TorchX's own `run` mostly loses them
    assert own_lines(done.stderr) == ["LAST"]


def test_the_end_of_a_job_is_seen_by_one_thread_at_a_time() -> None:
    class Scheduler:
        asking = most = 0

        def describe(self, app_id: str) -> str:
            self.asking += 1
            self.most = max(self.most, self.asking)
            time.sleep(0.01)  # closing a job's log takes TorchX a tenth of a second
            self.asking -= 1
            return app_id

    scheduler = Scheduler()
    _describe_one_at_a_time(scheduler)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(scheduler.describe, "abcd")) == [*"abcd"]
    assert scheduler.most == 1


@pytest.mark.slow
def test_the_last_words_of_many_replicas_are_shown(folder: Path) -> None:
    for _ in range(3):  # TorchX's own `run` loses some of them in about every sixth run
        done = run(folder, "replicas.py:pair", "--n", "6")
        assert done.stderr.count("LAST") == 6, done.stderr


def wait_for(folder: Path, log: Path, word: str, count: int) -> list[int]:
    """The process ids that the job's lines name, once there are `count` of them."""
    end = time.monotonic() + 200
    while (text := log.read_text()).count(word) < count:
        assert time.monotonic() < end, text
        time.sleep(0.05)
    return [int(line.split()[1]) for line in text.splitlines() if line.startswith("pid ")]


def stop(folder: Path, number: signal.Signals, *words: str, count: int = 1) -> tuple[int, list[int], str]:
    """Send a signal to `torchx run`, alone, when the job is up: its exit code, the job's processes, the log."""
    log = folder / "log"
    with log.open("w") as out:
        command = [TORCHX, "run", "-s", "local_cwd", "waiting.py", *words]
        # A suite that runs in the background of a script has SIGINT ignored, and would hand that on.
        ours = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            torchx = subprocess.Popen(
                command, cwd=folder, env=environment(), stdout=out, stderr=out, start_new_session=True
            )
        finally:
            signal.signal(signal.SIGINT, ours)
        pids = wait_for(folder, log, " up\n", count)
        torchx.send_signal(number)
        code = torchx.wait(timeout=200)
    return code, pids, log.read_text()


def gone(pid: int) -> bool:
    """Ended, or a zombie that its adopter has not looked at yet."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_ctrl_c_ends_the_job(folder: Path) -> None:
    code, pids, log = stop(folder, signal.SIGINT)
    assert code == 130
    assert len(pids) == 1
    assert all(map(gone, pids))
    assert "SIGINT: the job's processes are ended" in own_lines(log)
    assert "Traceback" not in log


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)]
)
def test_no_process_outlives_its_terminal(folder: Path, number: signal.Signals, code: int) -> None:
    ended, pids, _ = stop(folder, number, "--procs", "2", "--", "stubborn", count=2)
    assert ended == code
    assert len(pids) == 2
    assert all(map(gone, pids))


@pytest.mark.slow
@pytest.mark.parametrize("nodes", ["2", "1:2"])
def test_two_nodes_meet_on_this_machine(folder: Path, nodes: str) -> None:
    done = run(folder, "ordered.py", "--nodes", nodes, "--cpus", "4", "--port", "29517")
    assert done.returncode == 0, done.stderr
    told = [line.partition("[")[2] for line in done.stderr.splitlines() if "['" in line]
    assert sorted(line[:10] for line in told) == ["'0', '2', ", "'1', '2', "]
    assert all("'4', None] []" in line for line in told)


@pytest.mark.slow
def test_an_error_that_comes_every_time_ends_a_job_that_may_lose_nodes(folder: Path) -> None:
    text = "from torchflava.launch.worker import run_main\ndef main(words):\n    raise KeyError('the reason')\n"
    (folder / "broken.py").write_text(f"{text}run_main(main, [])\n")
    done = run(folder, "broken.py", "--nodes", "1:2", "--port", "29518")
    assert done.returncode == 1
    tracebacks = done.stderr.count("KeyError: 'the reason'\n")
    assert tracebacks >= 2 * 3  # of each start but the last, of which the reports tell
    reports = [line for line in done.stderr.splitlines() if "== broken.py failed on" in line]
    assert len(reports) in (1, 2)
    assert all("raised KeyError ==" in line for line in reports)


@pytest.mark.slow
def test_a_bar_is_drawn_on_a_terminal(folder: Path) -> None:
    leader, follower = pty.openpty()
    command = [TORCHX, "run", "-s", "local_cwd", "bar.py"]
    with subprocess.Popen(
        command, cwd=folder, env=environment(COLUMNS="77"), stderr=follower, stdout=follower
    ) as torchx:
        os.close(follower)
        text = b""
        try:
            while piece := os.read(leader, 4096):
                text += piece
        except OSError:  # how Linux says that the other end is closed
            pass
    os.close(leader)
    assert torchx.returncode == 0
    assert b"\r 10%\r100%\r\n1 77\r\n" in text
