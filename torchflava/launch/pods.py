"""What this project's jobs need of their pods beside what TorchX 0.7 renders, as fields of Kubernetes' core/v1.

Works on plain manifests, so that it reads as they do, and needs no Kubernetes client.
"""

import re
from collections.abc import Mapping
from typing import Any, List, NamedTuple  # noqa: UP035

from torchflava.launch.ddp import LaunchError, secrets_in

GRACE = 300
"""Seconds between SIGTERM and SIGKILL by default: a step, and a save of the 10b size to slow storage."""
KILLING = 10
"""The last seconds of them are torchrun's, to kill what has not left: SIGKILL by the node would lose their messages."""


class Option(NamedTuple):
    """A key of `-cfg` and of `.torchxconfig`'s [kubernetes]."""

    kind: Any
    told: str
    default: Any = None


_MANY: Any = List[str]  # noqa: UP006  # TorchX compares it with this one

OPTIONS = {
    "grace": Option(int, "Seconds that a pod has between SIGTERM and SIGKILL, to save in", GRACE),
    "secrets": Option(_MANY, "Secrets whose keys become variables: NAME for all of its keys, or NAME:KEY for one"),
    "devices": Option(_MANY, "Further resources of each pod, NAME:COUNT: vpc.amazonaws.com/efa:4;hugepages-2Mi:5Gi"),
    "node_selector": Option(_MANY, "Labels that a node must have, LABEL:VALUE"),
    "tolerations": Option(_MANY, "Taints that a node may have, KEY or KEY:VALUE"),
    "image_secret": Option(str, "The secret that opens the image's registry"),
    "fs_group": Option(int, "Group that owns the mounted volumes; 1000 is that of the Containerfile's user"),
}
"""Those that this project adds to TorchX's own."""

_NAME = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_WORD = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL = rf"({_NAME}/)?{_WORD}"
_QUANTITY = r"[1-9][0-9]*(Ki|Mi|Gi|Ti|k|M|G|T)?"


def complete(pod: dict[str, Any], options: Mapping[str, Any], *, run_name: str) -> None:
    """Give `pod`, a template with one container, what `options` ask for.

    Args:
        pod: core/v1's PodTemplateSpec as plain values; changed in place.
        options: values by the names in `OPTIONS`; None and what is missing ask for nothing.
        run_name: the run's name where the recipe is given none: it stays over restarts of the job.

    Raises:
        LaunchError: (a ValueError) for an option that Kubernetes would refuse, or a variable that would show a secret.
    """
    spec = pod["spec"]
    (container,) = spec["containers"]
    _refuse_values_of_secrets(container)
    grace = _at_least(3 * KILLING, "grace", options, default=GRACE)
    spec["terminationGracePeriodSeconds"] = grace
    _set_unless_set(container, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(grace - KILLING))
    _set_unless_set(container, "TORCHFLAVA_RUN_NAME", run_name)
    for word in options.get("secrets") or ():
        _add_secret(container, word)
    for word in options.get("devices") or ():
        _add_device(container, word)
    for word in options.get("node_selector") or ():
        label, value = _parted("node_selector", word, "LABEL:VALUE", (_LABEL, _WORD))
        spec.setdefault("nodeSelector", {})[label] = value
    for word in options.get("tolerations") or ():
        spec.setdefault("tolerations", []).append(_toleration(word))
    if (secret := options.get("image_secret")) is not None:
        spec["imagePullSecrets"] = [{"name": _parted("image_secret", secret, "a secret's name", (_NAME,))[0]}]
    if options.get("fs_group") is not None:
        # without OnRootMismatch each start would walk over all the files of a volume
        group = _at_least(1, "fs_group", options, default=1)
        spec["securityContext"] = {"fsGroup": group, "fsGroupChangePolicy": "OnRootMismatch"}


def let_pods_go(spec: dict[str, Any], fewest: int, *, retries: int) -> None:
    """Have Volcano start a job once it has room for `fewest` pods, the first among them, and go on when it loses others.

    The first pod holds torchrun's meeting point: when it has ended, the job has, and when it fails or is evicted, the job starts
    again, or is over where it has no retries left. Of the others Volcano makes those anew that are deleted, as evicted ones
    are, and leaves those that failed.

    Args:
        spec: of a Volcano job with one pod a task; changed in place.
        fewest: pods.
        retries: times that the job starts again.
    """
    spec["minAvailable"] = fewest
    lost = "RestartJob" if retries else "TerminateJob"
    actions = {"TaskCompleted": "CompleteJob", "PodFailed": lost, "PodEvicted": lost}
    for index, task in enumerate(spec["tasks"]):
        task.pop("policies", None)  # TorchX's: any pod that fails starts the job again
        task["minAvailable"] = 0 if index else 1
        if not index:
            task["policies"] = [{"event": event, "action": action} for event, action in actions.items()]


def _refuse_values_of_secrets(container: Mapping[str, Any]) -> None:
    """A job's text is for all to read who may read jobs; a value in it is no secret."""
    named = [variable["name"] for variable in container.get("env", ())]
    for name in secrets_in(named, container.get("command", ())):
        raise LaunchError(
            f"{name} would stand in the job for all to read: put it into a secret (kubectl create secret generic NAME "
            f"--from-literal={name}=...), and name that with -cfg secrets=NAME in place of the value"
        )


def _set_unless_set(container: dict[str, Any], name: str, value: str) -> None:
    env = container.setdefault("env", [])
    if name not in {variable["name"] for variable in env}:
        env.append({"name": name, "value": value})


def _add_secret(container: dict[str, Any], word: str) -> None:
    if ":" not in word:
        (name,) = _parted("secrets", word, "NAME or NAME:KEY", (_NAME,))
        container.setdefault("envFrom", []).append({"secretRef": {"name": name}})
        return
    name, key = _parted(
        "secrets", word, "NAME or NAME:KEY with a KEY that can name a variable", (_NAME, r"[A-Za-z_]\w*")
    )
    env = container.setdefault("env", [])
    if key in {variable["name"] for variable in env}:
        raise LaunchError(f"-cfg secrets={word}: the job has a variable {key} already")
    env.append({"name": key, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}})


def _add_device(container: dict[str, Any], word: str) -> None:
    name, count = _parted("devices", word, "NAME:COUNT", (_LABEL, _QUANTITY))
    # what is limited only is requested alike
    container.setdefault("resources", {}).setdefault("limits", {})[name] = count
    if name.startswith("rdma/"):  # InfiniBand's drivers pin memory
        container.setdefault("securityContext", {})["capabilities"] = {"add": ["IPC_LOCK"]}


def _toleration(word: str) -> dict[str, str]:
    """Of every effect."""
    if ":" not in word:
        return {"key": _parted("tolerations", word, "KEY or KEY:VALUE", (_LABEL,))[0], "operator": "Exists"}
    key, value = _parted("tolerations", word, "KEY or KEY:VALUE", (_LABEL, _WORD))
    return {"key": key, "operator": "Equal", "value": value}


def _parted(option: str, word: str, form: str, patterns: tuple[str, ...]) -> list[str]:
    """`word` parted at its colons, one part a pattern."""
    parts = word.split(":")
    if len(parts) != len(patterns) or not all(map(re.fullmatch, patterns, parts)):
        raise LaunchError(f"-cfg {option}={word}: {word!r} is not {form}; several are parted by ;")
    return parts


def _at_least(least: int, option: str, options: Mapping[str, Any], *, default: int) -> int:
    value = options.get(option)
    if value is not None and value < least:
        raise LaunchError(f"-cfg {option}={value} is out of range: {least} or more")
    return default if value is None else int(value)
