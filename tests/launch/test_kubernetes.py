"""`torchx -s kubernetes`: what is rendered, on one and on many nodes, and what the cluster is told and tells."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from torchx.schedulers import get_scheduler_factories
from torchx.specs import AppState

from kubernetes_api import KubernetesAPI  # isort: skip
from strict_schema import faults  # isort: skip
from torchflava.launch.ddp import LaunchError
from torchflava.launch.kubernetes import Kubernetes, create_scheduler

# Kubernetes' client asks urllib3 in a way that urllib3 would have otherwise
pytestmark = pytest.mark.filterwarnings("ignore:HTTPResponse.getheader:DeprecationWarning")
Command = Callable[..., int]
Render = Callable[..., dict[str, Any]]
IMAGE = ("--image", "registry.example.com/flava:1")


@pytest.fixture(autouse=True)
def _no_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here may need an engine, nor reach a cluster that the developer has."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    monkeypatch.setenv("KUBECONFIG", "/nowhere/kubeconfig")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesAPI]:
    with KubernetesAPI() as api:
        (tmp_path / "kubeconfig").write_text(api.kubeconfig())
        # the client reads KUBECONFIG when it is imported
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
        yield api


def pods_of(job: dict[str, Any]) -> list[dict[str, Any]]:
    return [task["template"]["spec"] for task in job["spec"]["tasks"]]


def variables(pod: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in pod["containers"][0]["env"]}


@pytest.mark.parametrize("nodes", [1, 8])
def test_a_dry_run_is_strictly_valid(rendered: Render, nodes: int) -> None:
    mounts = "type=bind,src=/data,dst=/data,readonly,type=volume,src=runs,dst=/runs"
    words = ["--gpus", "8", "--cpus", "96", "--mem-gb", "1000", "--retries", "5", "--mounts", mounts]
    job = rendered("--nodes", str(nodes), *words, options="queue=high,service_account=trainer,priority_class=urgent")
    assert faults(job) == []
    spec, name = job["spec"], job["metadata"]["name"]
    assert (spec["queue"], spec["priorityClassName"], spec["schedulerName"]) == ("high", "urgent", "volcano")
    assert [task["name"] for task in spec["tasks"]] == [f"mine-{node}" for node in range(nodes)]
    for node, pod in enumerate(pods_of(job)):
        (container,) = pod["containers"]
        assert pod["serviceAccountName"] == "trainer"
        assert pod["terminationGracePeriodSeconds"] == 300
        where = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        volumes = {where[one.pop("name")]: one for one in pod["volumes"]}
        assert volumes == {
            "/dev/shm": {"emptyDir": {"medium": "Memory"}},
            "/data": {"hostPath": {"path": "/data"}},
            "/runs": {"persistentVolumeClaim": {"claimName": "runs"}},
        }
        assert container["resources"]["limits"] == {"cpu": "96000m", "memory": "1000000M", "nvidia.com/gpu": "8"}
        assert variables(pod)["TORCHFLAVA_RUN_NAME"] == name
        endpoint = re.search("--rdzv-endpoint ([^ ]+)", container["command"][2])
        assert endpoint is not None
        first = "TORCHX_RANK0_HOST" if node == 0 else "VC_MINE_0_HOSTS"  # Volcano's list of the first task's hosts
        assert endpoint[1] == ("localhost:0" if nodes == 1 else f"${{{first}:=localhost}}:${{TORCHFLAVA_PORT:-29500}}")
    assert variables(pods_of(job)[0])["TORCHX_RANK0_HOST"] == "localhost"


@pytest.mark.parametrize(("options", "grace"), [("", 300), ("grace=900", 900)])
def test_torchrun_gives_its_workers_the_pod_s_grace(
    rendered: Render, monkeypatch: pytest.MonkeyPatch, options: str, grace: int
) -> None:
    from torch.distributed.launcher.api import LaunchConfig

    (pod,) = pods_of(rendered(options=options))
    assert pod["terminationGracePeriodSeconds"] == grace
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", variables(pod)["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])
    seconds = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=1).shutdown_timeout  # what torchrun reads
    assert grace - 30 < int(seconds or 0) < grace


def test_options_reach_every_pod(rendered: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "hunter2")
    options = "secrets=wandb;hub:HF_TOKEN,devices=vpc.amazonaws.com/efa:4;hugepages-2Mi:5Gi,fs_group=1000,grace=600"
    job = rendered("--nodes", "2", "--gpus", "8", options=options)
    assert faults(job) == []
    assert "hunter2" not in yaml.dump(job)
    for pod in pods_of(job):
        (container,) = pod["containers"]
        efa = {"vpc.amazonaws.com/efa": "4", "hugepages-2Mi": "5Gi"}
        assert container["resources"]["limits"] == {"nvidia.com/gpu": "8", **efa}
        assert container["envFrom"] == [{"secretRef": {"name": "wandb"}}]
        assert variables(pod)["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}
        assert (pod["securityContext"]["fsGroup"], pod["terminationGracePeriodSeconds"]) == (1000, 600)


def test_retries_are_starts_again(rendered: Render) -> None:
    job = rendered("--nodes", "2", "--retries", "3")
    assert starts_by_volcano(job["spec"]["maxRetry"]) == 1 + 3
    for task in job["spec"]["tasks"]:
        events = {policy["event"] for policy in task["policies"] if policy["action"] == "RestartJob"}
        assert events == {"PodFailed", "PodEvicted"}
    assert all("policies" not in task for task in rendered()["spec"]["tasks"])  # nothing starts it again


@pytest.mark.parametrize(("retries", "lost"), [("0", "TerminateJob"), ("3", "RestartJob")])
def test_a_job_that_may_lose_nodes_is_its_first_pod_s(rendered: Render, retries: str, lost: str) -> None:
    job = rendered("--nodes", "2:4", "--retries", retries)
    assert faults(job) == []
    spec = job["spec"]
    assert (spec["minAvailable"], [task["minAvailable"] for task in spec["tasks"]]) == (2, [1, 0, 0, 0])
    first, *others = spec["tasks"]
    policies = {policy["event"]: policy["action"] for policy in first["policies"]}
    assert policies == {"TaskCompleted": "CompleteJob", "PodFailed": lost, "PodEvicted": lost}
    assert all("policies" not in task for task in others)  # another one's end is none of the job's
    for node, pod in enumerate(pods_of(job)):
        assert f"is_host=$(({node}==0))," in pod["containers"][0]["command"][2]
        assert variables(pod)["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    assert "minAvailable" not in rendered("--nodes", "2")["spec"]


def starts_by_volcano(max_retry: int) -> int:
    """How often a job that always fails is started: pkg/controllers/job/state/{running,restarting}.go."""
    starts, retry_count = 1, 0
    while True:
        retry_count += 1  # the running state, when its policy says RestartJob
        if retry_count >= max_retry:  # the restarting state
            return starts
        starts += 1


WRONG = [
    ("", (), "a job on Kubernetes runs an image: build one once (podman build -f Containerfile"),
    ("image_repo=a/b", (), "a job on Kubernetes runs an image"),
    ("image_repo=a/b", IMAGE, "-cfg image_repo has Docker lay this folder over the image, and: Error while fetching"),
    ("", (*IMAGE, "--env", "A=1,WANDB_API_KEY=hunter2"), "WANDB_API_KEY would stand in the job for all to read"),
    ("", (*IMAGE, "--name", "My run"), "'My run' cannot name a job on Kubernetes"),
    ("", (*IMAGE, "--name", 50 * "a"), "letters; at most 63: choose a shorter --name"),
    ("grace=5", IMAGE, "-cfg grace=5 is out of range: 30 or more"),
]


@pytest.mark.parametrize(("options", "words", "told"), WRONG)
def test_a_mistake_is_told_in_one_line_before_anything_is_sent(
    run: Command,
    cluster: KubernetesAPI,
    capsys: pytest.CaptureFixture[str],
    options: str,
    words: tuple[str, ...],
    told: str,
) -> None:
    cfg = ["-cfg", options] if options else []
    assert run("-s", "kubernetes", *cfg, "mine.py", *words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith("torchx run: error: ")
    assert told in line
    assert "hunter2" not in line
    assert cluster.requests == []


def test_without_the_client_it_says_what_to_install(
    run: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    assert run("-s", "kubernetes", "--dryrun", "mine.py", *IMAGE) == 2
    assert "TorchX needs Kubernetes' client here: pip install 'torchflava[launch]'" in capsys.readouterr().err
    assert run("-s", "slurm", "--dryrun", "mine.py") == 0
    scheduler = create_scheduler("here")
    for ask in (lambda: scheduler.describe("ml:a"), scheduler.list, lambda: scheduler.log_iter("ml:a", "mine")):
        with pytest.raises(LaunchError, match="pip install"):
            ask()


def test_the_whole_life_of_a_job(
    torchx: Command, cluster: KubernetesAPI, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    words = ("--nodes", "2", *IMAGE, "--", "--steps", "9")
    assert torchx("run", "-s", "kubernetes", "-cfg", "namespace=ml", "mine.py", *words) == 0
    handle = capsys.readouterr().out.strip()
    ((space, name),) = cluster.jobs
    assert (space, handle) == ("ml", f"kubernetes://torchx/ml:{name}")
    job = cluster.jobs[space, name]
    assert "mine.py --steps 9" in pods_of(job)[1]["containers"][0]["command"][2]

    def told(*words: str) -> str:
        assert torchx(*words) == 0
        return capsys.readouterr().out

    assert "State: SUBMITTED" in told("status", handle)
    tasks = {f"mine-{node}": {"phase": {"Running": 1, "Pending": 0}} for node in range(2)}
    job["status"] = {"state": {"phase": "Running"}, "taskStatusCount": tasks, "retryCount": 2}
    shown = told("status", handle)
    assert "State: RUNNING" in shown
    assert "Num Restarts: 2" in shown
    assert re.findall(r"mine\[(\d)\]:(\w+)", shown) == [("0", "RUNNING"), ("1", "RUNNING")]
    for node in range(2):
        lines = [f"2026-11-24T10:00:00Z node {node} st".encode(), "ep 0\n2026-11-24T10:00:01Z é".encode()[:-1]]
        cluster.logs["ml", f"{name}-mine-{node}-0"] = [*lines, "é".encode()[-1:] + b" step 1"]
    log = {"2026-11-24T10:00:01Z é step 1", "2026-11-24T10:00:00Z node 0 step 0", "2026-11-24T10:00:00Z node 1 step 0"}
    assert {line.split(" ", 1)[1] for line in told("log", handle).splitlines()} == log
    assert told("log", "--tail", f"{handle}/mine/1").splitlines() == [
        "mine/1 2026-11-24T10:00:00Z node 1 step 0",
        "mine/1 2026-11-24T10:00:01Z é step 1",
    ]
    assert cluster.requests[-1].query == {"follow": "True", "timestamps": "True"}
    assert told("log", "--regex", "step 1", f"{handle}/mine/0").splitlines() == ["mine/0 2026-11-24T10:00:01Z é step 1"]
    assert told("cancel", handle) == ""
    assert cluster.jobs == {}
    assert torchx("status", handle) == 1  # TorchX 0.7's own: a traceback
    assert "does not exist or has been removed" in caplog.text
    assert told("cancel", handle) == ""  # nothing to do
    with pytest.raises(LaunchError, match="'job' is no NAMESPACE:NAME"):
        create_scheduler("here").describe("job")
    methods = [request.method for request in cluster.requests]
    assert (methods.count("POST"), methods.count("DELETE")) == (1, 1)


@pytest.mark.parametrize(
    ("configured", "context", "space"), [("ml", "research", "ml"), ("", "research", "research"), ("", "", "default")]
)
def test_list_asks_in_the_namespace_that_is_meant(
    torchx: Command,
    cluster: KubernetesAPI,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    configured: str,
    context: str,
    space: str,
) -> None:
    (tmp_path / "config").write_text(f"[kubernetes]\nnamespace = {configured}\n" if configured else "")
    (tmp_path / "kubeconfig").write_text(cluster.kubeconfig(**({"namespace": context} if context else {})))
    for namespace in ("ml", "research", "default"):
        states = {"old": {"state": {"phase": "Completed"}}, "ending": {"state": {"phase": "Completing"}}}
        for name, status in (*states.items(), ("new", None)):
            job = {"metadata": {"name": f"{namespace}-{name}"}} | ({"status": status} if status else {})
            cluster.jobs[namespace, f"{namespace}-{name}"] = job
    assert torchx("list", "-s", "kubernetes") == 0
    rows = dict(re.findall(r"kubernetes://torchx/(\S+) +(\w+)", capsys.readouterr().out))
    wanted = {"old": "SUCCEEDED", "ending": "RUNNING", "new": "SUBMITTED"}
    assert rows == {f"{space}:{space}-{name}": state for name, state in wanted.items()}


@pytest.mark.parametrize(
    ("refuses", "told"),
    [
        ((403, "jobs is forbidden: User tester cannot create"), r"refuses \(403\): jobs is forbidden.*ask for a role"),
        ((400, "unable to find job queue: none"), r"refuses \(400\): unable to find job queue: none$"),
        ((401, "Unauthorized"), r"refuses \(401\): Unauthorized; log in again"),
        (None, "this cluster has no Volcano jobs: its administrator installs Volcano"),
    ],
)
def test_a_refusal_of_the_cluster_is_one_line(
    run: Command,
    cluster: KubernetesAPI,
    capsys: pytest.CaptureFixture[str],
    refuses: tuple[int, str] | None,
    told: str,
) -> None:
    cluster.refuses, cluster.has_volcano = refuses, False
    assert run("-s", "kubernetes", "mine.py", *IMAGE) == 2
    assert re.search(told, capsys.readouterr().err.splitlines()[-1])


def test_no_cluster_is_one_line(
    run: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", "/nowhere/kubeconfig")
    assert run("-s", "kubernetes", "mine.py", *IMAGE) == 2
    assert "no cluster is configured" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("text", [b"apiVersion: v1\n\tkind: [", b"\xff\xfe\x00", b"only words", b"- a\n- list", b""])
@pytest.mark.parametrize(
    "words",
    [
        ("run", "-s", "kubernetes", "mine.py", *IMAGE),
        ("list", "-s", "kubernetes"),
        ("status", "kubernetes://torchx/ml:a"),
        ("log", "kubernetes://torchx/ml:a"),
    ],
)
def test_what_is_no_kubeconfig_is_one_line(
    torchx: Command,
    cluster: KubernetesAPI,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: bytes,
    words: tuple[str, ...],
) -> None:
    (tmp_path / "kubeconfig").write_bytes(text)
    assert torchx(*words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not re.search("INFO|WARNING", line)]
    assert re.match(f"torchx {words[0]}: error: .*kubeconfig", line)


def test_a_log_that_is_gone_says_so(cluster: KubernetesAPI) -> None:
    with pytest.raises(ValueError, match='pods "a-mine-0-0" not found: logs go with the pods'):
        create_scheduler("here").log_iter("ml:a", "mine")


def test_states_of_pods_and_jobs(cluster: KubernetesAPI) -> None:
    tasks = {"mine-1": {"phase": {"Failed": 1}}, "mine-0": {"phase": {"Succeeded": 1}}}
    failed = {"state": {"phase": "Failed", "message": "too many"}, "taskStatusCount": tasks}
    cluster.jobs["ml", "a"] = {"metadata": {"name": "a"}, "status": failed}
    told = create_scheduler("here").describe("ml:a")
    assert told is not None
    assert (told.state, told.msg) == (AppState.FAILED, "too many")
    (role,) = told.roles_statuses
    assert [(one.id, one.state) for one in role.replicas] == [(0, AppState.SUCCEEDED), (1, AppState.FAILED)]


def test_it_is_installed_and_torchx_s_others_stay() -> None:
    factories = get_scheduler_factories()
    assert isinstance(factories["kubernetes"]("here"), Kubernetes)
    from torchx.schedulers import DEFAULT_SCHEDULER_MODULES

    assert factories.keys() == DEFAULT_SCHEDULER_MODULES.keys()


@pytest.mark.parametrize(("command", "default"), [("run", "local_cwd"), ("list", "local_docker")])
def test_the_default_schedulers_stay(command: str, default: str) -> None:
    from argparse import ArgumentParser

    from torchflava.launch.cli import AppList, RecipeRun

    parser = ArgumentParser()
    {"run": RecipeRun, "list": AppList}[command]().add_arguments(parser)
    assert parser.get_default("scheduler") == default
