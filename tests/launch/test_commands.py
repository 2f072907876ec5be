"""`torchx status`, `log`, `cancel` and `list`: what they say where there is nothing to show."""

import re
import threading
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from torchx.cli.cmd_status import CmdStatus

from fake_slurm import FakeSlurm, slurm  # noqa: F401  # isort: skip  # the latter is a fixture
from torchflava.launch import cli
from torchflava.launch.slurm_logs import keep_place

Command = Callable[..., int]
UNKNOWN = "slurm_load_jobs error: Invalid job id specified\n"
RUNNING = (
    "JobId=12 JobName=mine UserId=me(7) JobState={} Reason=None Restarts=0 NodeList=n1 NumNodes=1 "
    "StdOut=/nowhere/slurm-12.out\n"
)
HANDLES = ("status", "log", "cancel")


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """All that is on the standard error but TorchX's notes, which must be one line."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if " INFO " not in line]
    return line


def test_they_are_registered() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()  # what is installed may be older
    section = text.partition('[project.entry-points."torchx.cli.cmds"]\n')[2].partition("\n\n")[0]
    named = dict(line.split(" = ") for line in section.splitlines())
    classes = {"run": "RecipeRun", "list": "AppList", **{name: f"App{name.title()}" for name in HANDLES}}
    assert named == {name: f'"torchflava.launch.cli:{its}"' for name, its in classes.items()}
    assert sorted(cli.__all__) == sorted(classes.values())
    for entry in entry_points(group="torchx.cli.cmds"):
        assert entry.load() is getattr(cli, classes[entry.name])


@pytest.mark.parametrize("word", ["", "/mine"])
def test_the_log_of_an_unknown_job_ends(
    torchx: Command,
    slurm: FakeSlurm,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    word: str,
) -> None:
    slurm.answer("scontrol", err=UNKNOWN, code=1)
    assert torchx("log", f"slurm://torchx/99{word}") == 1
    line = one_line(capsys)
    assert line.startswith(
        "torchx log: error: slurm://torchx/99: slurm knows no such job; `torchx list -s slurm` shows"
    )
    assert line.endswith("and slurm://torchx/99/ROLE/0 reads the log of one that it has forgotten")


def test_the_log_of_an_unknown_local_job_ends(torchx: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert torchx("log", "local_cwd://torchx/nope-x") == 1
    line = one_line(capsys)
    assert line.startswith("torchx log: error: local_cwd://torchx/nope-x: only the `torchx run` that runs a local job")
    assert "`torchx list -s " in line


def test_the_log_of_a_job_that_goes_while_it_is_waited_for_ends(
    torchx: Command,
    slurm: FakeSlurm,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slurm.answer("scontrol", out=RUNNING.format("PENDING"))
    waits: list[float] = []

    def wait(length: float) -> None:
        waits.append(length)
        if len(waits) == 2:
            slurm.answer("scontrol", err=UNKNOWN, code=1)

    monkeypatch.setattr("torchx.cli.cmd_log.time.sleep", wait)
    assert torchx("log", "slurm://torchx/12") == 1
    assert len(waits) == 2
    assert "slurm knows no such job" in one_line(capsys)


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_log_whose_files_are_not_there_is_one_line(
    torchx: Command,
    slurm: FakeSlurm,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = threading.excepthook
    slurm.answer("scontrol", err=UNKNOWN, code=1)
    assert torchx("log", "slurm://torchx/99/mine/0") == 1
    assert one_line(capsys).startswith("torchx log: error: where job 99 wrote its logs is not known any more")
    slurm.answer("scontrol", out=RUNNING.format("COMPLETED"))
    assert torchx("log", "slurm://torchx/12") == 1
    assert one_line(capsys).startswith("torchx log: error: the job has ended without writing /nowhere/slurm-12-mine-0")
    assert threading.excepthook is before


def test_the_log_of_a_job_that_slurm_has_forgotten(
    torchx: Command,
    slurm: FakeSlurm,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    slurm.answer("scontrol", err=UNKNOWN, code=1)
    keep_place("12", tmp_path)
    (tmp_path / "slurm-12-mine-0.err").write_text("one\n")
    assert torchx("log", "slurm://torchx/12/mine/0") == 0
    assert capsys.readouterr().out.endswith(" one\n")


def test_a_log_is_shown(torchx: Command, slurm: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    slurm.answer("scontrol", out=RUNNING.format("COMPLETED").replace("/nowhere", str(tmp_path)))
    (tmp_path / "slurm-12-mine-0.err").write_text("one\ntwo\n")
    assert torchx("log", "--regex", "tw", "slurm://torchx/12") == 0
    told = capsys.readouterr()
    assert re.fullmatch(r"\S*mine/0\S* two\n", told.out)
    assert "rror" not in told.err


@pytest.mark.parametrize("command", HANDLES)
def test_slurm_that_is_not_there_or_is_broken_is_one_line(
    torchx: Command,
    slurm: FakeSlurm,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    slurm.answer("scontrol", err="scontrol: error: Parse error in file /etc/slurm.conf line 1\n", code=1)
    assert torchx(command, "slurm://torchx/12") == 1
    line = one_line(capsys)
    assert line.startswith(f"torchx {command}: error: scontrol --oneliner show job 12: scontrol: error: Parse error in")
    slurm.without("scontrol")
    assert torchx(command, "slurm://torchx/12") == 2
    assert (
        one_line(capsys) == f"torchx {command}: error: no scontrol here: Slurm is asked from a machine of its cluster"
    )


def test_the_list_of_a_slurm_that_is_broken_or_not_there_is_one_line(
    torchx: Command,
    slurm: FakeSlurm,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    slurm.answer("squeue", err="squeue: fatal: Could not establish a configuration source\n", code=1)
    assert torchx("list", "-s", "slurm") == 1
    assert one_line(capsys).endswith("squeue: fatal: Could not establish a configuration source")
    slurm.without("squeue")
    assert torchx("list", "-s", "slurm") == 2
    assert one_line(capsys) == "torchx list: error: no squeue here: Slurm is asked from a machine of its cluster"


def test_a_cancel_that_slurm_refuses_is_one_line(
    torchx: Command,
    slurm: FakeSlurm,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    slurm.answer("scontrol", out=RUNNING.format("RUNNING"))
    slurm.answer("scancel", err="scancel: error: Kill job error on job id 12: Access/permission denied\n", code=1)
    assert torchx("cancel", "slurm://torchx/12") == 1
    assert one_line(capsys).endswith("Kill job error on job id 12: Access/permission denied")
    slurm.answer("scancel", "12")
    assert torchx("cancel", "slurm://torchx/12") == 0
    assert slurm.calls("scancel") == [["12", ""], ["12", ""]]


@pytest.mark.parametrize("command", HANDLES)
@pytest.mark.parametrize("handle", ["4711", "slurm:4711", "slurm://4711", "slurm://torchx/"])
def test_what_is_no_handle_is_named(
    torchx: Command, capsys: pytest.CaptureFixture[str], command: str, handle: str
) -> None:
    assert torchx(command, handle) == 2
    line = one_line(capsys)
    assert line.startswith(f"torchx {command}: error: '{handle}' is no handle of a job; write SCHEDULER://torchx/JOB")


@pytest.mark.parametrize("command", HANDLES)
def test_an_unknown_scheduler_is_named(torchx: Command, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert torchx(command, "slrum://torchx/12") == 2
    line = one_line(capsys)
    assert line == f"torchx {command}: error: slrum://torchx/12: there is no scheduler slrum; did you mean slurm://?"
    assert torchx(command, "zzz://torchx/12") == 2
    assert "there are aws_batch, aws_sagemaker, " in one_line(capsys)


def test_local_jobs_have_no_list(torchx: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert torchx("list", "-s", "local_cwd") == 2
    assert one_line(capsys).startswith("torchx list: error: local_cwd keeps no list")


@pytest.mark.parametrize("kind", [RuntimeError, ValueError])
def test_a_bug_keeps_its_traceback(torchx: Command, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    def broken(self: object, args: object) -> None:
        raise kind("a bug")

    monkeypatch.setattr(CmdStatus, "run", broken)
    with pytest.raises(kind, match="a bug"):
        torchx("status", "slurm://torchx/12")
