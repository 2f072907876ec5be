"""What torchrun says last: the one failure that was the cause, not each rank's, and a code that tells stopping from failing."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import torchflava.training as training
from torchflava.launch.torchrun import REQUEUE, Failure, report, stopped

RAISED = """Traceback (most recent call last):
  File "/lib/torch/distributed/elastic/multiprocessing/errors/__init__.py", line 380, in wrapper
    return f(*args, **kwargs)
           ^^^^^^^^^^^^^^^^^^
  File "recipes/pretrain.py", line 7, in main
    step()
ValueError: no such thing: 7
This was on rank 1 of 4, in step 3, with a batch of kind pair.
"""
MISSED = RAISED.replace("ValueError: no such thing: 7", "RuntimeError: [gloo] Connection closed by peer [127.0.0.1]:1")

RANKS = """
import os, signal, sys, time
from pathlib import Path
from torchflava.launch.worker import run_main
def main(words):
    rank = int(os.environ["RANK"])
    if words == ["leave"]:
        sys.exit(75)
    if words == ["say"] or (words == ["say", "alone"] and rank == 1):
        time.sleep(rank == 0)  # the first may be the last to know
        sys.exit("the vocabulary is not there")
    if words == ["say", "alone"]:
        time.sleep(60)
    if words == ["wait"]:
        os.write(1, b"up %d" % os.getpid() + os.linesep.encode())  # at once, for two write
        time.sleep(120)
    if rank == 1 and words == ["crash"]:
        os.abort()
    if rank == 1 and words == ["kill"]:
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 1:
        raise ValueError("rank one's own reason")
    others = Path(os.environ["TORCHELASTIC_ERROR_FILE"]).parents[1] / "1" / "error.json"
    wait = 1 if words == ["crash"] else 60  # rank 1 goes first, however busy the machine is; a crash leaves no file
    end = time.monotonic() + wait
    while not others.exists() and time.monotonic() < end:
        time.sleep(0.01)
    raise RuntimeError("Connection closed by peer")
run_main(main, sys.argv[1:])
"""


def test_the_cause_is_told_and_its_consequences_are_named() -> None:
    failures = [
        Failure(0, 10, 1, MISSED, 5.0),
        Failure(1, 11, 1, RAISED, 5.1),
        Failure(2, 12, -signal.SIGTERM, "", 4.0),
    ]
    text, code = report("recipes/pretrain.py", failures)
    assert code == 1
    first, *rest = text.splitlines()
    assert re.fullmatch(r"== recipes/pretrain.py failed on \S+: rank 1 \(process 11\) raised ValueError ==", first)
    assert text.count("ValueError: no such thing: 7") == 1
    assert "in step 3, with a batch of kind pair" in text
    assert "errors/__init__.py" not in text
    assert "return f(*args" not in text
    assert "step()" in text
    assert rest[-1] == "Ended because of it: rank 0 (RuntimeError), rank 2 (SIGTERM)."
    assert "Connection closed" not in text


def test_who_was_killed_is_the_cause_though_it_is_noticed_last() -> None:
    text, _ = report("train.py", [Failure(0, 10, 1, MISSED, 5.0), Failure(3, 13, -signal.SIGKILL, "", 6.0)])
    assert "rank 3 (process 13) was killed by SIGKILL: by hand, or by the system where memory ran out" in text
    assert "Traceback" not in text


def test_who_crashed_is_the_cause_of_what_others_missed() -> None:
    crashed, missed = Failure(3, 13, -signal.SIGABRT, "", 6.0), Failure(0, 10, 1, MISSED, 5.0)
    assert "rank 3 (process 13) was killed by SIGABRT" in report("train.py", [missed, crashed])[0]
    raised = Failure(1, 11, 1, RAISED, 5.5)
    assert "rank 1 (process 11) raised ValueError" in report("train.py", [missed, crashed, raised])[0]


def test_a_node_that_only_missed_another_says_where_to_look() -> None:
    said = "A rank of another node went away first: the report of that node says why."
    assert said in report("train.py", [Failure(0, 10, 1, MISSED, 5.0)], several_nodes=True)[0]
    assert said not in report("train.py", [Failure(0, 10, 1, MISSED, 5.0)])[0]
    own = RAISED.replace("no such thing: 7", "ProcessGroupNCCL is only supported with GPUs")
    for error in (
        RAISED,
        own,
        RAISED.replace("step()", 'step("Connection closed by peer")\n  File "a.py", line 1, in step'),
    ):
        assert said not in report("train.py", [Failure(0, 10, 1, error, 5.0)], several_nodes=True)[0]


def test_of_two_errors_the_earlier_is_the_cause() -> None:
    other = RAISED.replace("ValueError: no such thing: 7", "KeyError: 'later'")
    for failures in ([Failure(0, 1, 1, other, 2.2), Failure(1, 2, 1, RAISED, 2.1)],):
        assert "rank 1 (process 2) raised ValueError" in report("train.py", failures)[0]
        assert "rank 1 (process 2) raised ValueError" in report("train.py", failures[::-1])[0]


def test_workers_that_were_asked_to_stop_are_no_failure() -> None:
    text, code = report("train.py", [Failure(0, 1, REQUEUE, "", 1.0), Failure(1, 2, -signal.SIGTERM, "", 1.0)])
    assert code == REQUEUE == 75
    assert "asked to stop" in text
    assert "failed" not in text
    assert training.REQUEUE == REQUEUE


def test_a_worker_that_could_not_save_when_asked_to_stop_has_failed(tmp_path: Path) -> None:
    text, code = stopped("train.py", signal.SIGTERM, tmp_path)
    assert (code, "has ended" in text) == (75, True)
    left = {"message": {"message": "OSError", "extraInfo": {"py_callstack": RAISED.replace("ValueError", "OSError")}}}
    (tmp_path / "attempt_0" / "1").mkdir(parents=True)
    (tmp_path / "attempt_0" / "1" / "error.json").write_text(json.dumps(left))
    text, code = stopped("train.py", signal.SIGTERM, tmp_path)
    assert code == 1
    assert "was asked to stop by SIGTERM and failed" in text
    assert "OSError: no such thing: 7" in text
    for attempt in ("attempt_9", "attempt_10"):  # it was started again, and then asked to stop
        (tmp_path / attempt / "1").mkdir(parents=True)
    (tmp_path / "attempt_9" / "1" / "error.json").write_text(json.dumps(left))
    assert stopped("train.py", signal.SIGUSR1, tmp_path)[1] == 75


def torchrun(script: Path, *words: str, restarts: int = 0) -> list[str]:
    head = [
        sys.executable,
        "-m",
        "torchflava.launch.torchrun",
        "--nproc-per-node",
        "2",
        "--max-restarts",
        str(restarts),
    ]
    where = [
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
        "--local-addr",
        "127.0.0.1",
        "--monitor-interval",
        "0.1",
        "--signals-to-handle",  # as the command of a job that may lose nodes says
        "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
    ]
    return [*head, *where, str(script), *words]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "ranks.py"
    path.write_text(RANKS)
    return path


@pytest.mark.parametrize(
    ("word", "code", "due", "never"),
    [
        (
            "fail",
            1,
            [r"rank 1 \(process \d+\) raised ValueError", r"^ValueError: rank one's own reason$"],
            "errors/__init__",
        ),
        pytest.param(
            "kill",
            1,
            [r"rank 1 \(process \d+\) was killed by SIGKILL"],
            "ChildFailedError",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "crash",
            1,
            [r"rank 1 \(process \d+\) was killed by SIGABRT", r"^Fatal Python error: Aborted$", r", line \d+ in main$"],
            "ChildFailedError",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "leave", 75, [r"ranks.py was asked to stop, has saved and ended"], "Traceback", marks=pytest.mark.slow
        ),
        pytest.param(
            "say",
            1,
            [r"^the vocabulary is not there$", r"left with code 1, as it said above"],
            "Traceback",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_real_ranks_end_in_one_report(word: str, code: int, due: list[str], never: str, script: Path) -> None:
    done = subprocess.run(torchrun(script, word), capture_output=True, text=True, timeout=250)
    assert done.returncode == code, done.stderr
    for pattern in due:
        assert len(re.findall(pattern, done.stderr, re.MULTILINE)) == 1, done.stderr
    assert never not in done.stderr
    assert done.stderr.count("Traceback") <= 1


@pytest.mark.slow
def test_what_one_rank_alone_says_is_told(script: Path) -> None:
    done = subprocess.run(torchrun(script, "say", "alone"), capture_output=True, text=True, timeout=250)
    assert done.returncode == 1
    assert done.stderr.count("the vocabulary is not there") == 1
    assert "rank 1" in done.stderr.partition("ranks.py failed on")[2].splitlines()[0]


@pytest.mark.slow
def test_where_workers_are_started_again_each_traceback_is_told(script: Path) -> None:
    done = subprocess.run(torchrun(script, "fail", restarts=1), capture_output=True, text=True, timeout=250)
    assert done.returncode == 1
    assert (
        len(re.findall(r"^ValueError: rank one's own reason$", done.stderr, re.MULTILINE)) == 2
    )  # the first try's, the report's


@pytest.mark.slow
def test_a_node_whose_meeting_point_went_away_says_so_in_a_line(script: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    head = [sys.executable, "-m", "torchflava.launch.torchrun", "--nnodes", "2", "--monitor-interval", "0.1"]
    head += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--local-addr", "127.0.0.1"]
    nodes = []
    for host in "10":
        conf = ["--rdzv-conf", f"is_host={host}"]
        words = [*head, *conf, str(script), "wait"]
        nodes.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    first, other = nodes
    for node in nodes:
        assert node.stdout is not None
        assert node.stdout.readline().startswith("up ")
    first.kill()
    first.communicate(timeout=100)
    _, said = other.communicate(timeout=200)
    assert other.returncode == 1
    assert f"the nodes did not meet at localhost:{port}, or lost each other" in said
    assert "frame #" not in said
    assert len(said.strip().splitlines()) == 1, said


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 75),
        pytest.param(signal.SIGUSR1, 75, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_torchrun_ends_in_a_line(number: signal.Signals, code: int, script: Path) -> None:
    env = os.environ | {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "5"}
    job = subprocess.Popen(torchrun(script, "wait"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    assert job.stdout is not None
    pids = [int(job.stdout.readline().split()[1]) for _ in range(2)]
    job.send_signal(number)
    _, said = job.communicate(timeout=200)
    assert job.returncode == code, said
    assert f"ranks.py was asked to stop by {number.name} and has ended" in said
    assert "SignalException" not in said
    assert ended(pids)


ENDLESS = """
import sys, threading, time
from torchflava.launch.worker import run_main

def main(words):
    threading.Thread(target=threading.Event().wait).start()
    try:
        print("up", flush=True)
        time.sleep(120)
    except KeyboardInterrupt as interrupt:
        interrupt.add_note("In step 3.")
        raise
run_main(main, sys.argv[1:])
"""


def endless(tmp_path: Path, before: str = "") -> subprocess.Popen[str]:
    """The script, behind some lines more, once it is up."""
    (tmp_path / "endless.py").write_text(before + ENDLESS)
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a script it is ignored
    try:
        words = [sys.executable, str(tmp_path / "endless.py")]
        job = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, ours)
    assert job.stdout is not None
    assert job.stdout.readline() == "up\n"
    return job


def test_ctrl_c_ends_a_script_in_a_line_whatever_its_threads_do(tmp_path: Path) -> None:
    job = endless(tmp_path)
    job.send_signal(signal.SIGINT)
    _, said = job.communicate(timeout=60)
    assert said == "\nEnded by Ctrl-C. In step 3.\n"
    assert job.returncode == -signal.SIGINT  # as Python itself ends, by which a shell knows to end its loop


def test_ctrl_c_ends_a_script_whose_reader_it_ended_first(tmp_path: Path) -> None:
    """As in `script 2>&1 | tee log`, where the same Ctrl-C ends tee."""
    job = endless(tmp_path)
    assert job.stdout is not None
    assert job.stderr is not None
    job.stdout.close()
    job.stderr.close()
    job.send_signal(signal.SIGINT)
    try:
        assert job.wait(timeout=20) == -signal.SIGINT
    finally:
        job.kill()


def test_ctrl_c_ends_the_first_process_of_a_container(tmp_path: Path) -> None:
    """Which the system does not end by a signal that it does not catch, nor may it seem to have succeeded."""
    job = endless(tmp_path, "import os\nos.kill = lambda *_: None\n")
    job.send_signal(signal.SIGINT)
    try:
        _, said = job.communicate(timeout=20)
    finally:
        job.kill()
    assert (said, job.returncode) == ("\nEnded by Ctrl-C. In step 3.\n", 130)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_a_torchrun_that_is_killed_takes_its_workers_with_it(script: Path) -> None:
    job = subprocess.Popen(torchrun(script, "wait"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert job.stdout is not None
    pids = [int(job.stdout.readline().split()[1]) for _ in range(2)]
    job.kill()
    job.wait(timeout=200)
    assert ended(pids)
    job.stdout.close()


def ended(pids: list[int]) -> bool:
    """Whether these processes end, in time; a zombie has, too."""
    end = time.monotonic() + 100
    while time.monotonic() < end:
        states = [Path(f"/proc/{pid}/stat") for pid in pids if Path(f"/proc/{pid}").exists()]
        if all(state.read_text().rpartition(")")[2].split()[0] == "Z" for state in states):
            return True
        time.sleep(0.1)
    return False
