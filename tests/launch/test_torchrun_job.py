"""The job's shell line, run by a real bash with a stand-in for Python, after TorchX's own substitution."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torchx.specs import AppDef, BindMount, VolumeMount, macros

from torchflava.launch.ddp import LaunchError, Nodes, torchrun_job

NASTY = [
    "--model",
    "small",
    "",
    "a b",
    "$HOME",
    "${app_id}",
    "$$",
    "$(id)",
    "`id`",
    "it's",
    '"q"',
    "ü✓",
    "*",
    "-1",
    "a;b",
    "--",
]
STAND_IN = """#!{python}
import json, os, signal, sys
names = ("OMP_NUM_THREADS", "A", "B")
deaf = signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
print(json.dumps({{"argv": sys.argv[1:], "deaf": deaf, **{{n: os.environ.get(n) for n in names}}}}))
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    stand_in = tmp_path / "my python"
    stand_in.write_text(STAND_IN.format(python=sys.executable))
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    (tmp_path / "bin").mkdir()
    nproc = tmp_path / "bin" / "nproc"
    nproc.write_text("#!/bin/sh\necho 7\n")
    nproc.chmod(0o755)
    path = tmp_path / "zero shot_2.py"
    path.touch()
    return str(path)


def play(job: AppDef, folder: str, *, replica: str = "0", **variables: str) -> dict[str, object]:
    """What the job's process is given, on the machine whose first node is called `first`."""
    values = macros.Values(img_root="", app_id="job-7", replica_id=replica, rank0_env="FIRST_NODE")
    role = values.apply(job.roles[0])
    env = {"PATH": f"{folder}/bin:/usr/bin:/bin", "FIRST_NODE": "first", **variables}
    done = subprocess.run([role.entrypoint, *role.args], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == ""  # one stream, so that lines keep their order
    return dict(json.loads(done.stderr))


def test_arguments_reach_the_script_letter_for_letter(script: str, tmp_path: Path) -> None:
    told = play(torchrun_job(script, NASTY, Nodes()), str(tmp_path))
    torchrun, own = told["argv"][: -len(NASTY)], told["argv"][-len(NASTY) :]  # type: ignore[index]
    assert own == NASTY
    assert torchrun[:2] == ["-m", "torchflava.launch.torchrun"]
    assert torchrun[-1] == script
    assert told["deaf"]  # to SIGUSR1, which would end torchrun before its workers have saved


def test_a_scheduler_may_set_where_nodes_meet(script: str, tmp_path: Path) -> None:
    for asked, variables, port in (
        (0, {}, 29500),
        (0, {"TORCHFLAVA_PORT": "21234"}, 21234),
        (7, {"TORCHFLAVA_PORT": "1"}, 7),
    ):
        argv = play(torchrun_job(script, [], Nodes(2, port=asked)), str(tmp_path), **variables)["argv"]
        assert f"first:{port}" in argv  # type: ignore[operator]


@pytest.mark.parametrize(("nodes", "endpoint"), [(1, "localhost:0"), (3, "first:29511")])
def test_nodes_meet_on_the_first(script: str, tmp_path: Path, nodes: int, endpoint: str) -> None:
    job = torchrun_job(script, [], Nodes(nodes, procs=4, port=29511))
    argv = play(job, str(tmp_path))["argv"][2:-1]  # type: ignore[index]
    options = dict(zip(argv[::2], argv[1::2], strict=True))
    assert options.pop("--local-addr", None) == ("127.0.0.1" if nodes == 1 else None)
    assert options == {
        "--nnodes": str(nodes),
        "--nproc-per-node": "4",
        "--rdzv-backend": "c10d",
        "--rdzv-id": "job-7",
        "--rdzv-endpoint": endpoint,
    }
    assert job.roles[0].num_replicas == nodes


@pytest.mark.parametrize(("replica", "holds"), [("0", "1"), ("3", "0")])
def test_a_job_that_may_lose_nodes(script: str, tmp_path: Path, replica: str, holds: str) -> None:
    job = torchrun_job(script, [], Nodes("2:4", procs=4))
    (role,) = job.roles
    assert (role.min_replicas, role.num_replicas) == (2, 4)
    argv = play(job, str(tmp_path), replica=replica)["argv"][2:-1]  # type: ignore[index]
    options = dict(zip(argv[::2], argv[1::2], strict=True))
    assert (options["--nnodes"], options["--nproc-per-node"]) == ("2:4", "4")
    assert int(options["--max-restarts"]) >= 4 - 2  # each lost node costs the others one
    conf = dict(pair.split("=") for pair in options["--rdzv-conf"].split(","))
    assert conf.pop("is_host") == holds  # whatever the first node is called
    assert int(conf["last_call_timeout"]) > 30  # the time that torchrun gives workers which do not end
    assert "SIGUSR1" in options["--signals-to-handle"].split(",")
    assert role.env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"


def test_as_many_nodes_as_ever_are_a_plain_job(script: str, tmp_path: Path) -> None:
    of_range, of_number, of_word = (torchrun_job(script, [], Nodes(nodes)) for nodes in ("3:3", 3, "3"))
    assert of_range == of_number == of_word
    assert of_range.roles[0].min_replicas is None
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE" not in of_range.roles[0].env


@pytest.mark.parametrize(
    ("procs", "cpus", "outside", "threads"),
    [
        (1, 0, None, None),  # torch takes what there is
        (1, 6, None, "6"),
        (2, 0, None, "3"),  # seven cores
        (9, 0, None, "1"),
        (4, 10, None, "2"),
        (4, 2, None, "1"),
        (2, 0, "5", "5"),
        (2, 8, "5", "5"),
    ],
)
def test_processes_share_the_cores(
    script: str, tmp_path: Path, procs: int, cpus: int, outside: str | None, threads: str | None
) -> None:
    variables = {} if outside is None else {"OMP_NUM_THREADS": outside}
    job = torchrun_job(script, [], Nodes(procs=procs, cpus=cpus))
    assert play(job, str(tmp_path), **variables)["OMP_NUM_THREADS"] == threads


def test_variables_keep_their_commas_and_win(script: str, tmp_path: Path) -> None:
    job = torchrun_job(script, [], Nodes(cpus=8), env="A=1,2,B=$HOME x,OMP_NUM_THREADS=3")
    told = play(job, str(tmp_path), A="0", OMP_NUM_THREADS="5")
    assert (told["A"], told["B"], told["OMP_NUM_THREADS"]) == ("1,2", "$HOME x", "3")


def test_what_the_scheduler_is_asked_for(script: str) -> None:
    where = Nodes(nodes=2, gpus=8, cpus=96, mem_gb=500)
    mounts = "type=bind,src=/a,dst=/b,readonly,type=volume,src=c,dst=/d"
    job = torchrun_job(script, [], where, retries=3, mounts=mounts, name="mine")
    (role,) = job.roles
    assert (job.name, role.name, role.max_retries) == ("mine", "zeroshot2", 3)
    assert (role.resource.gpu, role.resource.cpu, role.resource.memMB) == (8, 96, 500_000)
    assert role.mounts == [BindMount("/a", "/b", read_only=True), VolumeMount("c", "/d", read_only=False)]
    assert "--nproc-per-node 8 " in role.args[1]
    assert torchrun_job(script, [], Nodes()).name == "zeroshot2"


def test_an_image_has_its_own_python_and_files() -> None:
    (role,) = torchrun_job("only/in/the/image.py", [], Nodes(), image="registry/flava:1").roles
    assert role.image == "registry/flava:1"
    assert role.args[1].startswith("trap '' USR1; exec python -m torchflava.launch.torchrun ")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"where": Nodes(nodes=0)}, "--nodes 0 is out of range: 1 or more"),
        ({"where": Nodes(nodes="4:2")}, "--nodes 4:2 begins with the greater number; write --nodes 2:4"),
        ({"where": Nodes(mem_gb=-1)}, "--mem-gb -1 is out of range"),
        ({"where": Nodes(port=70_000)}, "--port 70000 is out of range: 0 to 65535"),
        ({"where": Nodes(gpus=2, procs=3)}, "--procs 3 is more than --gpus 2"),
        ({"retries": -1}, "--retries -1"),
        ({"env": "A"}, "--env 'A' is not NAME=VALUE"),
        ({"env": "A B=1"}, "'A B' is no name of a variable"),
        ({"mounts": "type=bind,src=/a"}, "--mounts .*dst is missing; write for example type=bind,src=/here"),
        ({"mounts": "type=nfs,src=/a,dst=/b"}, "invalid mount type 'nfs'"),
        ({"mounts": "size=3"}, "unknown mount option size"),
        ({"script": "nowhere.py"}, "no file 'nowhere.py' in /.*torchx run PATH/FILE.py"),
    ],
)
def test_a_wrong_wish_is_named_with_its_remedy(script: str, wrong: dict[str, object], message: str) -> None:
    asked = {"script": script, "args": [], "where": Nodes(), **wrong}
    with pytest.raises(LaunchError, match=message):
        torchrun_job(asked.pop("script"), asked.pop("args"), asked.pop("where"), **asked)  # type: ignore[arg-type]
