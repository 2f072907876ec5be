"""Slurm's batch script, played by a real bash beside stand-ins for Slurm's commands."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import FakeSlurm, slurm
from torchx.specs import AppDef, Resource, Role, macros

from torchflava.launch.ddp import LaunchError, Nodes, torchrun_job
from torchflava.launch.slurm import Slurm, create_scheduler
from torchflava.launch.slurm_script import script_of

__all__ = ["slurm"]


def scheduler() -> Slurm:
    return create_scheduler("torchx")


def script(app: AppDef, **settings: Any) -> str:
    made = scheduler()
    return script_of(made.submit_dryrun(app, made.run_opts().resolve(settings)).request)


def shell(*words: str, nodes: int = 1, retries: int = 0, name: str = "job", **env: str) -> AppDef:
    role = Role(name="r", image="", entrypoint=words[0], args=list(words[1:]), num_replicas=nodes, env=env)
    role.max_retries = retries
    return AppDef(name=name, roles=[role])


def options(text: str) -> dict[str, str]:
    lines = re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.MULTILINE)
    return {name: value.strip("'") for name, value in lines}


def play(text: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script as job 12."""
    env = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "12", **variables}
    return subprocess.run(["bash", "-c", text], env=env, capture_output=True, text=True, check=False)


def test_one_role_is_one_plain_job_of_many_nodes(slurm: FakeSlurm) -> None:
    Path("mine.py").touch()
    job = torchrun_job("mine.py", ["--x", "1"], Nodes(4, gpus=8, cpus=96, mem_gb=500), name="first")
    settings = {"partition": "high", "account": "ours", "qos": "long", "reservation": "r7", "constraint": "a100&ib"}
    settings |= {"time": "2-00", "comment": "it's mine", "mail-user": "me@here", "mail-type": "END"}
    got = options(script(job, **settings))
    here = Path.cwd()
    assert got.pop("comment").replace("'\"'\"'", "'") == "it's mine"
    assert got == {
        "job-name": "first.mine",
        "requeue": "",
        "open-mode": "append",
        "output": f"{here}/runs/logs/slurm-%j.out",
        "signal": "USR1@90",
        "partition": "high",
        "account": "ours",
        "qos": "long",
        "reservation": "r7",
        "constraint": "a100&ib",
        "time": "2-00",
        "mail-user": "me@here",
        "mail-type": "END",
        "nodes": "4",
        "ntasks-per-node": "1",
        "cpus-per-task": "96",
        "mem": "500000",
        "gpus-per-node": "8",
    }
    assert not {"partition", "time", "mem", "gpus-per-node", "cpus-per-task"} & options(script(shell("true"))).keys()


def test_a_task_gets_its_words_and_variables_letter_for_letter(slurm: FakeSlurm) -> None:
    code = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['A'], os.environ['ID']]))"
    words = [
        "a b",
        "",
        "$HOME",
        "$$${x}",
        "it's",
        '"q"',
        "ü✓",
        "*",
        "a;b",
        "a,b",
        macros.app_id,
        f"<{macros.replica_id}>",
    ]
    app = shell(sys.executable, "-c", code, *words, nodes=2, A="1,2 $x 'y'", ID=f"slurm://s/{macros.app_id}")
    text = script(app)
    slurm.answer("srun")
    assert play(text).returncode == 0
    (call,) = slurm.calls("srun")
    first = call.index("bash")  # srun's own options end there
    env = {"PATH": "/usr/bin:/bin", "SLURM_NODEID": "1", "SLURM_JOB_ID": "12"}
    done = subprocess.run(call[first:-1], env=env, capture_output=True, text=True, check=True)
    got, a, job = json.loads(done.stdout)
    assert got == ["a b", "", "$HOME", "$${x}", "it's", '"q"', "ü✓", "*", "a;b", "a,b", "12", "<1>"]
    assert (a, job) == ("1,2 $x 'y'", "slurm://s/12")
    assert "--kill-on-bad-exit=1" in call[:first]
    assert f"--error={Path.cwd()}/runs/logs/slurm-12-r-%n.err" in call[:first]
    assert "--open-mode=append" in call[:first]


def test_the_first_node_is_known_by_the_address_that_tasks_are_started_from(slurm: FakeSlurm) -> None:
    Path("mine.py").touch()
    slurm.answer("srun")
    play(script(torchrun_job("mine.py", [], Nodes(2, cpus=3))))
    call = slurm.calls("srun")[0][:-1]
    line = call[-1].replace(f"exec {sys.executable}", "echo")
    port = slurm.env("srun")["TORCHFLAVA_PORT"]  # by the job's number: another job may have the same first node
    env = {"PATH": "/usr/bin:/bin", "SLURM_LAUNCH_NODE_IPADDR": "10.1.2.3", "TORCHFLAVA_PORT": port}
    told = subprocess.run(["bash", "-c", line], env=env, capture_output=True, text=True, check=True).stderr
    assert "--rdzv-endpoint 10.1.2.3:20012 " in told
    assert "--rdzv-id 12 " in told
    assert "--nnodes 2 " in told
    assert "--cpus-per-task=3" in call  # srun takes it from no one else since Slurm 22.05


def test_a_job_that_may_lose_nodes(slurm: FakeSlurm) -> None:
    Path("mine.py").touch()
    text = script(torchrun_job("mine.py", [], Nodes("2:4", gpus=8)), signal="USR1@300")
    got = options(text)
    assert (got["nodes"], got["no-kill"]) == ("2-4", "")
    assert "ntasks-per-node" not in got  # with it, Slurm would give two nodes even where four are free
    slurm.answer("srun")
    slurm.program("sleep", "")
    play(text, SLURM_JOB_NUM_NODES="3")
    call = slurm.calls("srun")[0]
    assert {"--nodes=3", "--ntasks=3", "--no-kill", "--kill-on-bad-exit=0", "--wait=0"} < {*call}
    ((n, at),) = ((word, call.index(word)) for word in call if "is_host" in word)
    env = {"PATH": "/usr/bin:/bin", "SLURM_NODEID": "2"}
    line = call[at + 1] if n == "-c" else n.replace(f"exec {sys.executable}", "echo")
    told = subprocess.run(["bash", "-c", line], env=env, capture_output=True, text=True, check=True).stderr
    assert "--nnodes 2:4 " in told
    assert "is_host=0," in told


def of_task(text: str, slurm: FakeSlurm) -> list[str]:
    """The words that srun starts on each node, without its own options."""
    slurm.answer("srun")
    slurm.program("sleep", "")
    play(text, SLURM_JOB_NUM_NODES="3")
    call = slurm.calls("srun")[-1]
    return call[call.index("bash") : -1]


def elastic(*words: str) -> AppDef:
    app = shell(*words, nodes=3)
    app.roles[0].min_replicas = 2
    return app


@pytest.mark.parametrize(
    ("of_srun", "of_first", "code"),
    [(0, 0, 0), (137, 0, 0), (0, 1, 1), (137, 75, 75), (137, None, 137), (0, None, 0)],
)
def test_the_first_node_tells_how_a_job_that_may_lose_nodes_ended(
    slurm: FakeSlurm, of_srun: int, of_first: int | None, code: int
) -> None:
    text = script(elastic("bash", "-c", f"exit {of_first}"))
    slurm.program("sleep", "")
    if of_first is None:  # it is lost
        slurm.answer("srun", code=of_srun)
    else:
        slurm.program("srun", f'until [ "$1" = bash ]; do shift; done; SLURM_NODEID=0 "$@"; exit {of_srun}')
    Path("runs/logs").mkdir(parents=True, exist_ok=True)
    Path("runs/logs/slurm-12.ended-0").write_text("5\n")  # of an earlier start
    slurm.answer("scontrol", "show", out=now(QUIET))
    done = play(text, SLURM_JOB_NUM_NODES="3")
    assert done.returncode == code, done.stderr
    assert f"ended with code {code}," in done.stdout
    assert list(Path("runs/logs").glob("*.ended*")) == []


@pytest.mark.parametrize(
    ("node", "code", "left", "again"),
    [
        ("1", 1, "n[2-3]", True),
        ("1", 137, "n[2-3]", False),
        ("1", 0, "n[2-3]", False),
        ("0", 1, "n[2-3]", False),
        ("1", 1, "n[1,3]", False),
    ],
)
def test_who_fails_for_the_first_node_is_lost_has_the_job_start_again(
    slurm: FakeSlurm, tmp_path: Path, node: str, code: int, left: str, again: bool
) -> None:
    task = of_task(script(elastic("bash", "-c", f"exit {code}")), slurm)
    slurm.answer("scontrol", "requeue")
    slurm.answer("scontrol", "hostnames", "n[2-3]", out="n2\nn3\n")
    slurm.answer("scontrol", "hostnames", "n[1,3]", out="n1\nn3\n")
    slurm.answer("scontrol", "job", out=f"JobId=12 ReqNodeList=(null) NodeList={left} BatchHost=n1 NumNodes=2\n")
    ended = tmp_path / "ended"
    # the first node's end ends the wait
    slurm.program("sleep", f"echo 1 > {ended}")
    env = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "12", "SLURM_NODEID": node, "TORCHFLAVA_ENDED": str(ended)}
    done = subprocess.run(task, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert (["requeue", "12", ""] in slurm.calls("scontrol")) is again
    assert ("the first node, n1, is lost" in done.stderr) is again


def test_a_task_outlives_the_signals_that_torchrun_answers(slurm: FakeSlurm, tmp_path: Path) -> None:
    code = "import os, signal; [os.kill(os.getppid(), n) for n in (signal.SIGTERM, signal.SIGUSR1)]; os._exit(75)"
    task = of_task(script(elastic(sys.executable, "-c", code)), slurm)
    ended = tmp_path / "ended"
    env = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "12", "SLURM_NODEID": "0", "TORCHFLAVA_ENDED": str(ended)}
    assert subprocess.run(task, env=env, check=False).returncode == 75
    assert ended.read_text() == "75\n"


def test_torchrun_is_given_the_time_that_the_signal_comes_early(slurm: FakeSlurm) -> None:
    line = "export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-300}"
    assert line in script(elastic("true"), signal="USR1@300").splitlines()
    assert "SHUTDOWN_TIMEOUT" not in script(elastic("true"), signal="none")
    assert "SHUTDOWN_TIMEOUT" not in script(shell("true"), signal="USR1@300")


def test_a_job_of_two_roles_cannot_lose_nodes(slurm: FakeSlurm) -> None:
    app = elastic("true")
    app.roles.append(shell("true").roles[0])
    with pytest.raises(LaunchError, match="a job of several roles cannot lose nodes: give each as many as it needs"):
        script(app)


def test_each_further_role_is_a_part_of_its_own(slurm: FakeSlurm) -> None:
    code = f"print({macros.replica_id})"
    roles = [
        Role(name="r", image="", entrypoint="python", args=["-c", code], num_replicas=2, resource=Resource(2, 0, 100)),
        Role(name="s", image="", entrypoint="python", args=["-c", code], num_replicas=3, resource=Resource(5, 1, 200)),
    ]
    text = script(AppDef(name="pair", roles=roles), partition="low", comment="once")
    first, second = text.split("#SBATCH hetjob\n")
    assert options(first)["job-name"] == "pair.r"
    assert options(first)["comment"] == "once"
    second = second.partition("\n\n")[0]
    assert options(second) == {"job-name": "pair.s", "partition": "low", "nodes": "3", "ntasks-per-node": "1",
                               "cpus-per-task": "5", "mem": "200", "gpus-per-node": "1"}  # fmt: skip
    slurm.answer("srun")
    play(text)
    words = slurm.calls("srun")[0]
    assert words.count(":") == 1
    (of_r, of_s) = (word for word in words if word.startswith("exec env"))
    for line, node, replica in ((of_r, 1, 1), (of_s, 2, 0), (of_s, 4, 2)):
        env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "SLURM_NODEID": str(node)}
        done = subprocess.run(["bash", "-c", line], env=env, capture_output=True, text=True, check=True)
        assert done.stdout == f"{replica}\n"


QUIET = "JobId=12 StartTime={-500} EndTime={90000} PreemptTime=None\n"  # seconds from now
PREEMPTED = "JobId=12 StartTime={-500} EndTime={90000} PreemptTime={-3}\n"
BEFORE = "JobId=12 StartTime={-500} EndTime=Unknown PreemptTime={-900}\n"
LATE = "JobId=12 StartTime={-500} EndTime={120} PreemptTime=None\n"


def now(about: str) -> str:
    return re.sub(r"\{(-?\d+)\}", lambda seconds: str(int(time.time()) + int(seconds[1])), about)


@pytest.mark.parametrize(
    ("code", "about", "signal", "again"),
    [
        (0, PREEMPTED, "USR1@90", False),
        (1, QUIET, "USR1@90", False),
        (1, PREEMPTED, "USR1@90", True),
        (1, PREEMPTED, "none", True),
        (1, BEFORE, "USR1@90", False),  # that was an earlier start
        (1, LATE, "USR1@90", True),
        (1, LATE, "USR1@30", False),  # nothing was sent yet
        (1, LATE, "none", False),
        (1, "", "USR1@90", False),  # the controller does not answer
    ],
)
def test_who_was_asked_to_stop_starts_again_without_retries(
    slurm: FakeSlurm, code: int, about: str, signal: str, again: bool
) -> None:
    slurm.answer("srun", code=code)
    slurm.answer("scontrol", "requeue")
    slurm.answer("scontrol", "show", out=now(about))
    done = play(script(shell("true"), signal=signal))
    assert done.returncode == code
    assert (["requeue", "12", ""] in slurm.calls("scontrol")) is again


def test_failures_are_counted_and_stops_are_not(slurm: FakeSlurm) -> None:
    Path("runs/logs").mkdir(parents=True)
    text = script(shell("false", retries=2))
    slurm.answer("scontrol", "requeue")
    slurm.answer("srun", code=7)
    requeued = []
    for start, about in enumerate((QUIET, PREEMPTED, PREEMPTED, QUIET, LATE, QUIET)):
        slurm.answer("scontrol", "show", out=now(about))
        assert play(text, SLURM_RESTART_COUNT=str(start)).returncode == 7
        requeued.append(len([call for call in slurm.calls("scontrol") if call[0] == "requeue"]))
    assert requeued == [1, 2, 3, 4, 5, 5]
    assert play(text, SLURM_RESTART_COUNT="0").returncode == 7  # another cluster's job 12 begins with none
    assert len([call for call in slurm.calls("scontrol") if call[0] == "requeue"]) == 6


def test_a_run_is_named_by_its_job(slurm: FakeSlurm) -> None:
    slurm.answer("srun")
    play(script(shell("true")))
    assert re.fullmatch(r"\d{8}-\d{6}-slurm-12", slurm.env("srun")["TORCHFLAVA_RUN_NAME"])


def test_a_copied_checkout_comes_first_among_the_packages(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.answer("srun")
    text = script(shell("true"), job_dir=str(tmp_path / "copy"))
    assert options(text)["chdir"] == str(tmp_path / "copy")
    assert options(text)["output"].startswith(f"{tmp_path}/copy/runs/logs/")
    play(text, PYTHONPATH="/mine")
    assert slurm.env("srun")["PYTHONPATH"] == f"{Path.cwd()}:/mine"


@pytest.mark.parametrize(
    ("settings", "signal"),
    [
        ({}, "USR1@90"),
        ({"time": "10"}, "USR1@90"),
        ({"time": "00:09:59"}, None),  # a trial does not start again
        ({"time": "5", "signal": "TERM@200"}, "TERM@200"),
        ({"signal": "none"}, None),
    ],
)
def test_when_it_is_signalled(slurm: FakeSlurm, settings: dict[str, str], signal: str | None) -> None:
    assert options(script(shell("true"), **settings)).get("signal") == signal


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"signal": "USR1"}, "signal=USR1: write SIGNAL@SECONDS, such as USR1@90, or none"),
        ({"signal": "B:USR1@90"}, "signal=B:USR1@90: write"),
        ({"signal": "USR1@120", "time": "3"}, "180 s before the time limit, and time=3 is no longer"),
        ({"time": "soon"}, "time=soon: Slurm takes minutes, HH:MM:SS"),
    ],
)
def test_a_wrong_setting_is_named(slurm: FakeSlurm, settings: dict[str, str], message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        script(shell("true"), **settings)


def test_a_limit_from_sbatch_s_variable_counts(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial is not signalled, or it would start again for ever."""
    monkeypatch.setenv("SBATCH_TIMELIMIT", "2")
    assert "signal" not in options(script(shell("true")))
    assert options(script(shell("true"), time="60"))["signal"] == "USR1@90"
    with pytest.raises(LaunchError, match="150 s before the time limit, and time=2 is no longer"):
        script(shell("true"), signal="USR1@90")


@pytest.mark.parametrize(
    ("most", "usual", "settings", "signalled"),
    [
        ("5:00", "n/a", {}, False),
        ("infinite", "5:00", {}, False),
        ("infinite", "5:00", {"time": "60"}, True),
        ("1-00:00:00", "1:00:00", {}, True),
        ("infinite", "n/a", {}, True),
    ],
)
def test_a_limit_from_the_partition_counts(
    slurm: FakeSlurm, most: str, usual: str, settings: dict[str, str], signalled: bool
) -> None:
    """Else a job that fails late would be taken for one whose time is up, again and again."""
    slurm.answer("sinfo", out=f"low*|1-infinite|{most}|3|8|16000|gpu:4|{usual}\n")
    assert ("signal" in options(script(shell("true"), **settings))) is signalled
    if not signalled:
        with pytest.raises(LaunchError, match="360 s before the time limit, and the partition's is no longer"):
            script(shell("true"), signal="USR1@300")


def test_a_line_s_end_would_begin_a_command(slurm: FakeSlurm) -> None:
    for app, settings in ((shell("true", name="a\ntouch b"), {}), (shell("true"), {"comment": "a\ntouch b"})):
        with pytest.raises(LaunchError, match=r"'a\\ntouch b.* holds the end of a line"):
            script(app, **settings)


def test_a_role_s_name_may_hold_anything(slurm: FakeSlurm) -> None:
    """TorchX's dist.ddp takes the script's."""
    app = shell("true", name="my script.v2")
    app.roles[0].name = "my script.v2"
    text = script(app)
    slurm.answer("srun")
    play(text)
    call = slurm.calls("srun")[0]
    assert call[call.index("env") :][-2] == "true"
    assert f"--output={Path.cwd()}/runs/logs/slurm-12-my_script_v2-%n.out" in call
    assert options(text)["job-name"].rpartition(".")[2] == "my_script_v2"


def test_folders_may_begin_at_home(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert options(script(shell("true"), log_dir="~/logs"))["output"] == "/home/me/logs/slurm-%j.out"
    assert options(script(shell("true"), job_dir="~/job"))["chdir"] == "/home/me/job"


@pytest.mark.parametrize("env", ["HF_TOKEN=hunter2", "A=1,WANDB_API_KEY=hunter2"])
def test_a_secret_s_value_is_refused(slurm: FakeSlurm, env: str) -> None:
    """srun's words stand in each node's list of processes."""
    Path("mine.py").touch()
    name = env.rpartition(",")[2].partition("=")[0]
    with pytest.raises(LaunchError, match=f"{name} would stand .*: leave it out, and `export {name}=") as wrong:
        script(torchrun_job("mine.py", [], Nodes(), env=env))
    assert "hunter2" not in str(wrong.value)
    with pytest.raises(LaunchError, match="HF_TOKEN would stand"):
        script(shell("true", HF_TOKEN="hunter2"))


def test_what_only_containers_have_is_refused(slurm: FakeSlurm) -> None:
    Path("mine.py").touch()
    for words, message in (
        ({"image": "registry/flava:1"}, "slurm runs no images such as registry/flava:1: leave out --image"),
        ({"mounts": "type=bind,src=/a,dst=/b"}, "slurm mounts nothing: leave out --mounts"),
    ):
        with pytest.raises(LaunchError, match=message):
            script(torchrun_job("mine.py", [], Nodes(), **words))  # type: ignore[arg-type]


def test_the_command_is_noted_in_one_line(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["torchx", "run", "a\nrm -rf x"])
    lines = script(shell("true")).splitlines()
    assert sum("rm -rf x" in line for line in lines) == 1
    assert next(line for line in lines if "rm -rf x" in line).startswith("# Run with: ")
