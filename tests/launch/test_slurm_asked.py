"""What is made of Slurm's answers, by stand-ins for its commands: submission, status, list, logs, limits, copies."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import FakeSlurm, slurm
from torchx.schedulers import DEFAULT_SCHEDULER_MODULES, get_scheduler_factories
from torchx.schedulers.api import Stream
from torchx.specs import AppDef, AppState, Resource, Role

from torchflava.launch.ddp import LaunchError
from torchflava.launch.slurm import Slurm, create_scheduler
from torchflava.launch.slurm_jobs import Job
from torchflava.launch.slurm_limits import seconds
from torchflava.launch.slurm_logs import follow
from torchflava.launch.snapshot import copy_workspace, files_of

__all__ = ["slurm"]

CONTROLLER = (
    "JobId=12 JobName=first.mine UserId=me(7) JobState={} Reason={} Dependency=(null) Requeue=1 Restarts=3 "
    "EndTime=Unknown NodeList={} BatchHost=n1 NumNodes=2-2 NumCPUs=2 CPUs/Task=1 TRES=cpu=2,mem=4G,node=2 "
    "Command=(null) WorkDir=/a b StdErr=/a b/logs/slurm-12.out StdIn=/dev/null StdOut=/a b/logs/slurm-12.out Power= \n"
)
UNKNOWN = {"err": "slurm_load_jobs error: Invalid job id specified\n", "code": 1}


def job(nodes: int = 1, cpu: int = 0, mem: int = 0, gpu: int = 0) -> AppDef:
    role = Role(name="r", image="", entrypoint="true", num_replicas=nodes, resource=Resource(cpu, gpu, mem))
    return AppDef(name="r", roles=[role])


def submit(app: AppDef, **settings: Any) -> str:
    made = create_scheduler("torchx")
    return made.schedule(made.submit_dryrun(app, made.run_opts().resolve(settings)))


@pytest.fixture
def scheduler(slurm: FakeSlurm) -> Slurm:
    return create_scheduler("torchx")


def test_all_schedulers_are_there_and_slurm_is_ours() -> None:
    factories = get_scheduler_factories()
    assert factories.keys() == DEFAULT_SCHEDULER_MODULES.keys()
    assert isinstance(factories["slurm"]("torchx"), Slurm)
    assert type(factories["local_cwd"]("torchx")).__module__ == DEFAULT_SCHEDULER_MODULES["local_cwd"]


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("PENDING", AppState.PENDING),
        ("REQUEUED", AppState.PENDING),
        ("REQUEUE_HOLD", AppState.PENDING),
        ("SUSPENDED", AppState.PENDING),
        ("RUNNING", AppState.RUNNING),
        ("COMPLETING", AppState.RUNNING),
        ("COMPLETED", AppState.SUCCEEDED),
        ("CANCELLED", AppState.CANCELLED),
        ("CANCELLED by 1000", AppState.CANCELLED),
        ("CANCELLED+", AppState.CANCELLED),
        ("FAILED", AppState.FAILED),
        ("TIMEOUT", AppState.FAILED),
        ("NODE_FAIL", AppState.FAILED),
        ("OUT_OF_MEMORY", AppState.FAILED),
        ("PREEMPTED", AppState.FAILED),
        ("NEW_WORD", AppState.UNKNOWN),
    ],
)
def test_states(slurm: FakeSlurm, scheduler: Slurm, word: str, state: AppState) -> None:
    slurm.answer("scontrol", "job", **UNKNOWN)
    slurm.answer("scontrol", "hostnames", out="n1\nn2\n")
    slurm.answer("sacct", "-j", out=f"12|{word}|2|n[1-2]|mine\n")
    told = scheduler.describe("12")
    assert told is not None
    assert told.state == state
    assert told.msg == word


def test_the_controller_is_asked_first(slurm: FakeSlurm, scheduler: Slurm) -> None:
    slurm.answer("scontrol", "hostnames", out="n1\nn2\n")
    slurm.answer("scontrol", "job", out=CONTROLLER.format("RUNNING", "None", "n[1-2]"))
    told = scheduler.describe("12")
    assert told is not None
    assert (told.state, told.msg, told.num_restarts) == (AppState.RUNNING, "RUNNING", 3)
    assert [(role.name, role.num_replicas) for role in told.roles] == [("mine", 2)]
    (status,) = told.roles_statuses
    assert [(r.id, r.role, r.hostname) for r in status.replicas] == [(0, "mine", "n1"), (1, "mine", "n2")]
    assert slurm.calls("sacct") == []
    slurm.answer("scontrol", "job", out=CONTROLLER.format("PENDING", "BeginTime", "(null)"))
    told = scheduler.describe("12")
    assert told is not None
    assert told.msg == "PENDING (BeginTime)"
    assert len(told.roles_statuses[0].replicas) == 2


def test_parts_of_a_heterogeneous_job_are_one_job(slurm: FakeSlurm, scheduler: Slurm) -> None:
    line = "JobId={} HetJobId=12 HetJobOffset={} JobName=pair.{} JobState=PENDING Reason=None NodeList= NumNodes={}\n"
    slurm.answer("scontrol", "job", out=line.format(12, 0, "a", 1) + line.format(13, 1, "b", 2))
    told = scheduler.describe("12")
    assert told is not None
    assert [(role.name, role.num_replicas) for role in told.roles] == [("a", 1), ("b", 2)]
    slurm.answer("squeue", out="9|RUNNING|1|n3|other|name\n12+0|PENDING|1||pair.a\n12+1|PENDING|2||pair.b\n")
    assert [(app.app_id, app.state.name) for app in scheduler.list()] == [("9", "RUNNING"), ("12", "PENDING")]


def test_a_job_that_nobody_knows(slurm: FakeSlurm, scheduler: Slurm) -> None:
    slurm.answer("scontrol", "job", **UNKNOWN)
    assert scheduler.describe("12") is None
    slurm.without("sacct")
    assert scheduler.describe("12") is None
    slurm.answer("scontrol", "job", err="Unable to contact slurm controller (connect failure)\n", code=1)
    with pytest.raises(RuntimeError, match=r"scontrol .* show job 12: Unable to contact slurm controller"):
        scheduler.describe("12")
    slurm.without("scontrol", "squeue")
    for ask in (lambda: scheduler.describe("12"), scheduler.list):
        with pytest.raises(LaunchError, match=r"no s\w+ here: Slurm is asked from a machine of its cluster"):
            ask()


def test_the_list_joins_both_and_the_controller_knows_better(slurm: FakeSlurm, scheduler: Slurm) -> None:
    slurm.answer("squeue", out="12|COMPLETING|2|n[1-2]|mine\n")
    slurm.answer("sacct", "-S", out="7|CANCELLED by 0|1|n1|old\n12|RUNNING|2|n[1-2]|mine\n101|FAILED|1|n1|new\n")
    got = [(app.app_id, app.state.name) for app in scheduler.list()]
    assert got == [("7", "CANCELLED"), ("12", "RUNNING"), ("101", "FAILED")]


def test_submission_gives_the_number_and_what_sbatch_says_against_it(slurm: FakeSlurm) -> None:
    slurm.answer("sinfo", code=1)
    slurm.answer("sbatch", out="12;here\n")
    assert submit(job()) == "12"
    assert Path("runs/logs").is_dir()
    assert slurm.calls("sbatch")[0][-1].startswith("#!/bin/bash\n")
    slurm.answer("sbatch", err="sbatch: error: Invalid feature specification\n", code=1)
    with pytest.raises(LaunchError, match=r"^sbatch: error: Invalid feature specification$"):
        submit(job(), constraint="moon")
    slurm.without("sbatch", "sinfo")
    with pytest.raises(LaunchError, match="no sbatch here: Slurm jobs are submitted from a machine of its cluster"):
        submit(job())


def test_what_is_said_wins_over_sbatch_s_variables(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PARTITION", "TIMELIMIT", "SIGNAL", "OPEN_MODE", "NO_REQUEUE", "EXCLUSIVE", "ACCOUNT"):
        monkeypatch.setenv(f"SBATCH_{name}", "x")
    slurm.answer("sinfo", code=1)
    slurm.answer("sbatch", out="12\n")
    submit(job(), partition="high", time="60")
    assert slurm.env("sbatch").keys() >= {"SBATCH_EXCLUSIVE", "SBATCH_ACCOUNT"}
    assert sum(name.startswith("SBATCH_") for name in slurm.env("sbatch")) == 2


PARTITIONS = """low*|1-infinite|7-00:00:00|3|8|16000|gpu:4
big|1-2|12:00:00|2|64+|500000+|gpu:a100:8(S:0-1)
big|1-2|12:00:00|6|96|200000|(null)
plain|1-infinite|infinite|4|1|1|(null)
"""


@pytest.mark.parametrize(
    ("app", "settings", "message"),
    [
        (job(4), {}, "--nodes 4 is more than the 3 nodes of partition low"),
        (job(1, gpu=5), {}, "--gpus 5 is more than a node of partition low has: 4"),
        (job(1, cpu=9), {}, "--cpus 9 is more than a node of partition low has: 8"),
        (job(1, mem=17_000), {}, "--mem-gb 17 is more than a node of partition low has: 16 GB"),
        (job(1), {"time": "8-00"}, "time=8-00: partition low takes jobs of at most 168 hours"),
        (job(3), {"partition": "big"}, "--nodes 3: partition big takes jobs of at most 2 nodes"),
        (job(1, cpu=90, gpu=8), {"partition": "big"}, "only 0 nodes of partition big have 90 cores, 0 GB and 8 GPUs"),
        (job(1), {"partition": "bog"}, "no partition 'bog' on this cluster; there are low, big, plain"),
        (job(9), {"partition": "low,plain"}, "3 nodes of partition low; --nodes 9 is more than the 4 nodes of"),
    ],
)
def test_what_could_never_start_is_refused(slurm: FakeSlurm, app: AppDef, settings: Any, message: str) -> None:
    slurm.answer("sinfo", out=PARTITIONS)
    with pytest.raises(LaunchError, match=message):
        submit(app, **settings)
    assert slurm.calls("sbatch") == []


def test_what_fits_is_submitted(slurm: FakeSlurm) -> None:
    slurm.answer("sinfo", out=PARTITIONS)
    slurm.answer("sbatch", out="1\n")
    submit(job(3, cpu=8, mem=16_000, gpu=4), time="7-00:00:00")
    submit(job(2, cpu=64, mem=500_000, gpu=8), partition="big")
    submit(job(4), partition="low,plain")
    submit(job(1, mem=4000), partition="plain")  # whose administrator set no memory: Slurm would refuse
    assert ["--mem=" in call[-1] for call in slurm.calls("sbatch")] == [True, True, False, False]


def test_a_job_that_may_lose_nodes_needs_room_for_the_fewest(
    slurm: FakeSlurm, caplog: pytest.LogCaptureFixture
) -> None:
    slurm.answer("sinfo", out=PARTITIONS)
    slurm.answer("sbatch", out="1\n")
    for fewest, most, told in (
        (2, 3, ""),
        (3, 4, "start with fewer: --nodes 4 is more than the 3 nodes of partition low"),
    ):
        caplog.clear()
        app = job(most)
        app.roles[0].min_replicas = fewest
        submit(app)
        assert told in caplog.text
        assert bool(told) is bool(caplog.records)
    app.roles[0].min_replicas = app.roles[0].num_replicas = 5
    app.roles[0].min_replicas = 4
    with pytest.raises(LaunchError, match="--nodes 4 is more than the 3 nodes of partition low"):
        submit(app)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("90", 5400),
        ("0", float("inf")),
        ("1:30", 90),
        ("2:00:05", 7205),
        ("1-2", 93_600),
        ("1-2:30", 95_400),
        ("1-0:0:1", 86_401),
    ],
)
def test_times(text: str, length: float) -> None:
    assert seconds(text) == length
    assert seconds("infinite") == float("inf")


def test_logs_are_found_from_anywhere_and_after_slurm_has_forgotten(
    slurm: FakeSlurm, scheduler: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.answer("sinfo", code=1)
    slurm.answer("sbatch", out="12\n")
    submit(job(2), log_dir="kept")
    Path("kept/slurm-12-r-1.err").write_text("to err\nhalf a line")
    Path("kept/slurm-12-r-1.out").write_text("to out\n")
    monkeypatch.chdir("/")
    slurm.answer("scontrol", "job", **UNKNOWN)
    assert [*scheduler.log_iter("12", "r", 1)] == ["to err\n", "to out\n", "half a line\n"]
    assert [*scheduler.log_iter("12", "r", 1, streams=Stream.STDOUT)] == ["to out\n"]
    assert [*scheduler.log_iter("12", "r", 1, streams=Stream.STDERR, regex="half")] == ["half a line\n"]
    with pytest.raises(RuntimeError, match=r"ended without writing \S+/kept/slurm-12-r-0.err or "):
        [*scheduler.log_iter("12", "r", 0)]
    with pytest.raises(RuntimeError, match="where job 13 wrote its logs is not known"):
        scheduler.log_iter("13", "r", 0)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "slurm-12-r-1.err").write_text("newer\n")
    where = CONTROLLER.format("COMPLETED", "None", "n1").replace("/a b/logs", str(tmp_path / "elsewhere"))
    slurm.answer("scontrol", "job", out=where)  # a cluster that counts anew: Slurm's word is newer than the note
    assert [*scheduler.log_iter("12", "r", 1)] == ["newer\n"]


def test_a_log_is_followed_over_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchflava.launch.slurm_logs._PAUSE", 0.0)
    monkeypatch.setattr("torchflava.launch.slurm_logs._ASK_EVERY", 0.0)
    file = tmp_path / "log"

    def happenings() -> Iterator[bool]:
        yield False  # it waits, and there is no file
        file.write_text("one\ntw")
        yield False
        with file.open("a") as log:
            log.write("o\n\r10%\r20%\n")
        yield False  # it starts again
        with file.open("a") as log:
            log.write("three")
        yield True

    now = happenings()
    assert [*follow([file], lambda: next(now))] == ["one\n", "two\n", "\r10%\r20%\n", "three\n"]


def test_a_job_s_own_copy_has_what_git_knows(slurm: FakeSlurm, tmp_path: Path) -> None:
    work = Path.cwd()
    for name in ("recipes/a.py", "runs/big.bin", "new.py", "notes/n.txt", "venv/pyvenv.cfg", "run.sh", "gone.py"):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text(name)
    (work / "run.sh").chmod(0o755)
    (tmp_path / "disk").mkdir()
    (work / "data").symlink_to(tmp_path / "disk")
    (work / ".gitignore").write_text("runs/\nvenv/\n")
    (work / ".torchxignore").write_text("notes  # not code\nnew*\n!new.py\n")
    for command in ("init -q", "add recipes gone.py run.sh"):
        subprocess.run(["git", *command.split()], check=True)
    (work / "gone.py").unlink()
    slurm.answer("sinfo", code=1)
    slurm.answer("sbatch", out="12\n")
    made = create_scheduler("torchx")
    app, copy = job(), tmp_path / "parent" / "copy"
    settings = made.run_opts().resolve({"job_dir": str(copy)})
    made.build_workspace_and_update_role(app.roles[0], f"file://{work}", settings)
    request = made.submit_dryrun(app, settings)
    assert not copy.exists()  # a dry run copies nothing
    made.schedule(request)
    files = {str(path.relative_to(copy)) for path in copy.rglob("*") if not path.is_dir() or path.is_symlink()}
    assert files == {".gitignore", ".torchxignore", "recipes/a.py", "new.py", "run.sh", "data"}
    assert (copy / "run.sh").stat().st_mode & 0o111
    assert (copy / "data").readlink() == tmp_path / "disk"
    with pytest.raises(LaunchError, match="copy is there already: each job makes a folder of its own"):
        made.schedule(request)


def test_a_job_that_is_refused_leaves_no_copy(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.answer("sinfo", code=1)
    slurm.answer("sbatch", err="sbatch: error: Invalid account\n", code=1)
    for _ in range(2):  # the second time the folder must not be there already
        with pytest.raises(LaunchError, match="Invalid account"):
            submit(job(), job_dir=str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()


def test_a_folder_that_cannot_be_made_is_named(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.answer("sinfo", code=1)
    (tmp_path / "file").touch()
    for settings in ({"log_dir": str(tmp_path / "file" / "logs")}, {"job_dir": str(tmp_path / "file" / "copy")}):
        with pytest.raises(
            LaunchError, match=rf"{next(iter(settings))}=.*/file/(logs|copy) cannot be made: .*Not a direc"
        ):
            submit(job(), **settings)
    assert slurm.calls("sbatch") == []


def test_outside_a_checkout_what_no_job_needs_stays_behind(slurm: FakeSlurm, tmp_path: Path) -> None:
    work = Path.cwd()
    for name in (
        "a.py",
        "pkg/b.py",
        "runs/x",
        "data/y",
        ".git/z",
        "env/pyvenv.cfg",
        "pkg/__pycache__/c",
        ".torchxconfig",
    ):
        (work / name).parent.mkdir(exist_ok=True, parents=True)
        (work / name).touch()
    (tmp_path / "tools" / "git").unlink()
    assert files_of(work) == [".torchxconfig", "a.py", "pkg/b.py"]
    copy_workspace(work, work / "inside")
    assert sorted(path.name for path in (work / "inside").rglob("*.py")) == ["a.py", "b.py"]


def test_a_job_s_words_are_torchx_s() -> None:
    assert Job("1", 0, "n", "OUT_OF_ME+", 1, "").app_state == AppState.UNKNOWN  # cut words are not guessed at
