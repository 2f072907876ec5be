"""The check of rendered jobs finds each planted fault, and takes what TorchX renders by itself."""

import re
from copy import deepcopy
from typing import Any

import pytest
from strict_schema import faults
from torchx.schedulers.kubernetes_scheduler import app_to_resource, sanitize_for_serialization

from torchflava.launch.ddp import Nodes, torchrun_job


@pytest.fixture(scope="module")
def plain() -> Any:
    """A job that TorchX renders without this project's scheduler."""
    app = torchrun_job("x.py", [], Nodes(2, gpus=8, cpus=96, mem_gb=1000), image="a/b:1")
    job: Any = sanitize_for_serialization(app_to_resource(app, "default", None))
    job["spec"]["tasks"][0]["policies"] = [{"action": "RestartJob", "event": "PodFailed"}]
    return job


def test_torchx_s_own_job_is_taken(plain: Any) -> None:
    assert faults(plain) == []


@pytest.mark.parametrize(
    ("at", "value", "told"),
    [
        ("replicaz", 1, r"tasks\[0\]: Task has no field replicaz"),
        ("replicas", "1", r"tasks\[0\].replicas: '1' is no int"),
        ("name", "Trainer_0", r"tasks\[0\].name: 'Trainer_0' has not the form"),
        ("policies.0.action", "Restart", r"policies\[0\].action: 'Restart' has not the form"),
        ("template.spec.containers.0.ports.0.containerPort", "29500", "'29500' is no int"),
        ("template.spec.containers.0.ports.0.containerPort", None, "containerPort is missing"),
        ("template.spec.containers.0.resources.limits.memory", "1000 GB", "'1000 GB' has not the form"),
        ("template.spec.containers.0.env.0.name", "TORCHX_RANK0_HOST", "two entries have the name TORCHX_RANK0_HOST"),
        ("template.spec.containers.0.env.0.value", 1, "env.0..value: 1 is no str"),
        ("template.spec.containers.0.gpus", 1, "V1Container has no field gpus"),
        ("template.spec.containers.0.volumeMounts.0.name", "shm", r"mounts \['shm'\], which is no volume of it"),
        ("template.spec.terminationGracePeriodSeconds", True, "True is no int"),
        ("template.spec.restartPolicy", "never", "'never' has not the form"),
        ("template.metadata.labels.a b", "c", "the key 'a b' has not the form"),
        ("name", "trainer-" + 6 * "verylong-" + "0", "letters"),
    ],
)
def test_planted_faults_are_found(plain: Any, at: str, value: object, told: str) -> None:
    job = deepcopy(plain)
    *path, last = at.split(".")
    place: Any = job["spec"]["tasks"][0]
    for word in path:
        place = place[int(word) if word.isdecimal() else word]
    if value is None:
        del place[last]
    else:
        place[last] = value
    (found,) = faults(job)
    assert re.search(told, found), found
