"""What a Volcano job may hold: every fault of a rendered job in a sentence, a field that is not known among them.

The pod's types are read off the Kubernetes client's models, which are made from Kubernetes' own OpenAPI document
(`openapi_types`, `attribute_map`, and setters that refuse None where a field is required). Volcano's are in the tables here,
facts of its CRD (batch.volcano.sh/v1alpha1), in the same language. test_volcano_crd.py holds the tables against the CRD.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from kubernetes.client import Configuration, models

VOLCANO = {
    "Job": {"apiVersion": "str", "kind": "str", "metadata": "Metadata", "spec": "JobSpec"},
    "Metadata": {"name": "str", "namespace": "str", "labels": "dict(str, str)", "annotations": "dict(str, str)"},
    "JobSpec": {
        "maxRetry": "int",
        "minAvailable": "int",
        "plugins": "dict(str, list[str])",
        "policies": "list[Policy]",
        "priorityClassName": "str",
        "queue": "str",
        "schedulerName": "str",
        "tasks": "list[Task]",
        "ttlSecondsAfterFinished": "int",
    },
    "Task": {
        "maxRetry": "int",
        "minAvailable": "int",
        "name": "str",
        "policies": "list[Policy]",
        "replicas": "int",
        "template": "Template",
    },
    "Policy": {"action": "str", "event": "str", "exitCode": "int"},
    "Template": {"metadata": "Metadata", "spec": "V1PodSpec"},
}
REQUIRED = {
    "Job": ["apiVersion", "kind", "metadata", "spec"],
    "JobSpec": ["tasks"],
    "Task": ["name", "replicas", "template"],
}
"""Of Volcano's: its CRD leaves more to the defaults, which this project does not."""

LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
NAME = rf"{LABEL}(\.{LABEL})*"
VARIABLE = r"[-._a-zA-Z][-._a-zA-Z0-9]*"
KEY = rf"({NAME}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?"
VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"
QUANTITY = r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?"
FORMS = {
    "Job.apiVersion": r"batch\.volcano\.sh/v1alpha1",
    "Job.kind": "Job",
    "Metadata.name": r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?",  # a service has the job's name
    "JobSpec.queue": NAME,
    "JobSpec.priorityClassName": NAME,
    "Task.name": LABEL,
    "Policy.action": "AbortJob|RestartJob|RestartTask|TerminateJob|CompleteJob",
    "Policy.event": "PodFailed|PodEvicted|JobUnknown|TaskCompleted|Unknown|[*]",
    "V1PodSpec.restartPolicy": "Always|OnFailure|Never",
    "V1PodSpec.serviceAccountName": NAME,
    "V1PodSecurityContext.fsGroupChangePolicy": "OnRootMismatch|Always",
    "V1Container.image": r"[a-z0-9./_-]+(:[0-9]+/[a-z0-9./_-]+)?(:[\w.-]+)?(@sha256:[0-9a-f]{64})?",
    "V1Container.name": LABEL,
    "V1ContainerPort.name": "[a-z0-9-]{1,15}",
    "V1EnvVar.name": VARIABLE,
    "V1SecretEnvSource.name": NAME,
    "V1SecretKeySelector.name": NAME,
    "V1SecretKeySelector.key": VARIABLE,
    "V1LocalObjectReference.name": NAME,
    "V1Volume.name": LABEL,
    "V1VolumeMount.mountPath": "/[^:]*",
    "V1EmptyDirVolumeSource.medium": "(Memory)?",
    "V1HostPathVolumeSource.path": "/.*",
    "V1PersistentVolumeClaimVolumeSource.claimName": NAME,
    "V1Toleration.operator": "Exists|Equal",
    "V1Toleration.effect": "NoSchedule|PreferNoSchedule|NoExecute",
}
"""What the server demands of words beyond their type: Kubernetes' own validation, in full matches."""
ENTRIES = {
    "Metadata.labels": (KEY, VALUE),
    "V1PodSpec.nodeSelector": (KEY, VALUE),
    "V1ResourceRequirements.limits": (KEY, QUANTITY),
    "V1ResourceRequirements.requests": (KEY, QUANTITY),
}
"""The same of a dictionary's keys and values."""
KEYS = {
    "JobSpec.tasks": "name",
    "V1PodSpec.containers": "name",
    "V1PodSpec.volumes": "name",
    "V1Container.env": "name",
    "V1Container.ports": "containerPort",
    "V1Container.volumeMounts": "mountPath",
}
"""Lists of which no two entries may have the same value here."""
LEAST = {"JobSpec.maxRetry": 0, "Task.maxRetry": 0, "Task.replicas": 1, "V1PodSpec.terminationGracePeriodSeconds": 0}


def faults(job: Any) -> list[str]:
    """All faults of a job, as plain values; none for one that the cluster would take."""
    found = list(_of_type(job, "Job", "$", "$"))
    return found or list(_between_fields(job))


def fields_of(kind: str) -> dict[str, str]:
    """The fields of a type by their names on the wire: their types."""
    if kind in VOLCANO:
        return VOLCANO[kind]
    model = getattr(models, kind)
    return {model.attribute_map[name]: of for name, of in model.openapi_types.items()}


def _of_type(value: Any, kind: str, field: str, path: str) -> Iterator[str]:
    if item := re.fullmatch(r"list\[(.*)\]", kind):
        yield from _of_list(value, item[1], field, path)
    elif item := re.fullmatch(r"dict\(str, (.*)\)", kind):
        if not isinstance(value, dict):
            yield f"{path}: {value!r} is no dictionary"
            return
        for key, entry in value.items():
            keys, values = ENTRIES.get(field, (r".+", None))
            if not isinstance(key, str) or not re.fullmatch(keys, key):
                yield f"{path}: the key {key!r} has not the form {keys}"
            yield from _of_type(entry, item[1], field, f"{path}.{key}")
            if values and isinstance(entry, str) and not re.fullmatch(values, entry):
                yield f"{path}.{key}: {entry!r} has not the form {values}"
    elif kind in ("str", "int", "bool"):
        if type(value).__name__ != kind:
            yield f"{path}: {value!r} is no {kind}"
        elif field in FORMS and not re.fullmatch(FORMS[field], value):
            yield f"{path}: {value!r} has not the form {FORMS[field]}"
        elif value < LEAST.get(field, value):
            yield f"{path}: {value} is less than {LEAST[field]}"
    else:
        yield from _of_object(value, kind, path)


def _of_list(value: Any, kind: str, field: str, path: str) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{path}: {value!r} is no list"
        return
    for index, entry in enumerate(value):
        yield from _of_type(entry, kind, f"{field}[]", f"{path}[{index}]")
    if key := KEYS.get(field):
        there = [entry.get(key) for entry in value if isinstance(entry, dict)]
        for twice in sorted({str(one) for one in there if there.count(one) > 1}):
            yield f"{path}: two entries have the {key} {twice}"


def _of_object(value: Any, kind: str, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: {value!r} is no {kind}"
        return
    known = fields_of(kind)
    for name in _required(kind):
        if value.get(name) is None:
            yield f"{path}: {name} is missing"
    for name, entry in value.items():
        if name not in known:
            yield f"{path}: {kind} has no field {name}"
        else:
            yield from _of_type(entry, known[name], f"{kind}.{name}", f"{path}.{name}")


@cache
def _required(kind: str) -> list[str]:
    if kind in VOLCANO:
        return REQUIRED.get(kind, [])
    model = getattr(models, kind)
    blank = object.__new__(model)
    blank.local_vars_configuration = _configuration()
    required = []
    for attribute, name in model.attribute_map.items():
        try:
            setattr(blank, attribute, None)
        except ValueError:
            required.append(name)
    return required


@cache
def _configuration() -> Configuration:
    return Configuration()


def _between_fields(job: dict[str, Any]) -> Iterator[str]:
    """What a type cannot say: a pod's name fits a host, what is mounted is there, no more is requested than allowed."""
    for task in job["spec"]["tasks"]:
        pod = f"{job['metadata']['name']}-{task['name']}-{task['replicas'] - 1}"
        if len(pod) > 63:
            yield f"{pod}: {len(pod)} letters"
        spec = task["template"]["spec"]
        volumes = {volume["name"] for volume in spec.get("volumes", ())}
        for volume in spec.get("volumes", ()):
            if len(volume) != 2:
                yield f"{pod}: the volume {volume['name']} has {len(volume) - 1} sources"
        for container in spec["containers"]:
            missing = {mount["name"] for mount in container.get("volumeMounts", ())} - volumes
            if missing:
                yield f"{pod}: mounts {sorted(missing)}, which is no volume of it"
            for variable in container.get("env", ()):
                if ("value" in variable) is ("valueFrom" in variable):
                    yield f"{pod}: the variable {variable['name']} has not one value"
            if not container.get("image"):
                yield f"{pod}: no image"
