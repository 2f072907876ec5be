"""What `-cfg` adds to a pod, and what it refuses."""

from typing import Any

import pytest
from strict_schema import faults

from torchflava.launch.ddp import LaunchError
from torchflava.launch.pods import complete


def pod_with(**options: Any) -> dict[str, Any]:
    container = {
        "name": "mine-0",
        "image": "a/b:1",
        "env": [{"name": "A", "value": "1"}],
        "command": ["bash", "-c", "true"],
    }
    pod: dict[str, Any] = {"spec": {"containers": [container]}}
    complete(pod, options, run_name="mine-x7")
    job = {"apiVersion": "batch.volcano.sh/v1alpha1", "kind": "Job", "metadata": {"name": "mine-x7"}}
    assert faults({**job, "spec": {"tasks": [{"name": "mine-0", "replicas": 1, "template": pod}]}}) == []
    return dict(pod["spec"])


def variables(pod: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in pod["containers"][0]["env"]}


def test_without_options_a_pod_gets_time_to_save_and_its_run_s_name() -> None:
    pod = pod_with()
    assert pod.keys() == {"containers", "terminationGracePeriodSeconds"}
    assert pod["terminationGracePeriodSeconds"] == 300
    wanted = {"A": "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "290", "TORCHFLAVA_RUN_NAME": "mine-x7"}
    assert variables(pod) == wanted


def test_variables_of_the_job_s_own_win() -> None:
    given = [{"name": "TORCHFLAVA_RUN_NAME", "value": "mine"}, {"name": "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "value": "5"}]
    pod = {"spec": {"containers": [{"name": "a", "env": [*given]}]}}
    complete(pod, {}, run_name="a")
    assert pod["spec"]["containers"][0]["env"] == given


def test_efa_and_huge_pages_are_resources() -> None:
    (container,) = pod_with(devices=["vpc.amazonaws.com/efa:4", "hugepages-2Mi:5Gi"])["containers"]
    assert container["resources"] == {"limits": {"vpc.amazonaws.com/efa": "4", "hugepages-2Mi": "5Gi"}}
    assert "securityContext" not in container


def test_infiniband_may_pin_memory() -> None:
    (container,) = pod_with(devices=["rdma/hca_a:1"])["containers"]
    assert container["resources"]["limits"] == {"rdma/hca_a": "1"}
    assert container["securityContext"] == {"capabilities": {"add": ["IPC_LOCK"]}}


def test_nodes_are_chosen_by_labels_and_taints() -> None:
    pod = pod_with(node_selector=["pool:gpu", "example.com/zone:a"], tolerations=["nvidia.com/gpu", "pool:x"])
    assert pod["nodeSelector"] == {"pool": "gpu", "example.com/zone": "a"}
    equal = {"key": "pool", "operator": "Equal", "value": "x"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}, equal]


def test_the_registry_and_the_volumes_open() -> None:
    pod = pod_with(image_secret="registry", fs_group=1000)
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["securityContext"] == {"fsGroup": 1000, "fsGroupChangePolicy": "OnRootMismatch"}


def test_secrets_are_named() -> None:
    pod = pod_with(secrets=["wandb", "hub:HF_TOKEN"])
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "wandb"}}]
    assert variables(pod)["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"grace": 29}, "-cfg grace=29 is out of range: 30 or more"),
        ({"grace": 0}, "-cfg grace=0 is out of range"),
        ({"fs_group": 0}, "-cfg fs_group=0 is out of range: 1 or more"),
        ({"devices": ["efa"]}, "-cfg devices=efa: 'efa' is not NAME:COUNT; several are parted by ;"),
        ({"devices": ["efa:many"]}, "is not NAME:COUNT"),
        ({"devices": ["efa:0"]}, "is not NAME:COUNT"),
        ({"node_selector": ["gpu"]}, "is not LABEL:VALUE"),
        ({"secrets": ["Wandb"]}, "'Wandb' is not NAME or NAME:KEY"),
        ({"secrets": ["wandb:a-b"]}, "a KEY that can name a variable"),
        ({"secrets": ["a:A"]}, "-cfg secrets=a:A: the job has a variable A already"),
        ({"tolerations": ["a b"]}, "'a b' is not KEY or KEY:VALUE"),
        ({"tolerations": ["a:b:NoSchedule"]}, "is not KEY or KEY:VALUE"),
        ({"image_secret": "a/b"}, "'a/b' is not a secret's name"),
    ],
)
def test_a_wrong_option_is_named_with_its_remedy(options: dict[str, Any], told: str) -> None:
    with pytest.raises(LaunchError) as wrong:
        pod_with(**options)
    assert told in str(wrong.value)


@pytest.mark.parametrize(
    "name", ["WANDB_API_KEY", "HF_TOKEN", "DB_PASSWORD", "aws_secret", "PGPASSWORD", "MYSQL_PWD", "GEMINI_APIKEY"]
)
@pytest.mark.parametrize("how", ["env", "export"])
def test_a_secret_s_value_is_refused_and_not_repeated(name: str, how: str) -> None:
    variable = [{"name": name, "value": "hunter2"}] if how == "env" else []
    line = f"export A=1; export {name}=hunter2; exec python" if how == "export" else "exec python"
    pod = {"spec": {"containers": [{"name": "a", "env": variable, "command": ["bash", "-c", line]}]}}
    with pytest.raises(LaunchError, match=f"{name} would stand in the job for all to read") as wrong:
        complete(pod, {}, run_name="a")
    assert "hunter2" not in str(wrong.value)


def test_other_variables_are_no_secrets() -> None:
    line = "export TOKENIZERS_PARALLELISM=0; export AWS_ACCESS_KEY_ID=a; export MONKEY=1 PWD=/a; exec python x.py export MY_KEY=1"
    pod = {"spec": {"containers": [{"name": "a", "command": ["bash", "-c", line]}]}}
    complete(pod, {}, run_name="a")
