"""TorchX 0.7's scheduler for Kubernetes and Volcano, for jobs that are preempted, and for users without Docker.

Beside the options in `pods`: the image runs as it is unless `image_repo` says where a changed one goes; `--retries N` are N
starts again; `status` of a job that is gone, `list` and `log` do what they say. Registered as TorchX's `kubernetes`.
"""

import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from docker.errors import DockerException
from torchx.runner import config
from torchx.schedulers.api import (
    AppDryRunInfo,
    DescribeAppResponse,
    ListAppResponse,
    Stream,
    filter_regex,
)
from torchx.schedulers.kubernetes_scheduler import (
    JOB_STATE,
    TASK_STATE,
    KubernetesJob,
    KubernetesScheduler,
    sanitize_for_serialization,
)
from torchx.specs import AppDef, AppState, ReplicaStatus, Role, RoleStatus, runopts
from torchx.util.strings import normalize_str
from urllib3.exceptions import HTTPError
from yaml import YAMLError

from torchflava.launch.ddp import LaunchError
from torchflava.launch.pods import OPTIONS, complete, let_pods_go

_JOBS = {"group": "batch.volcano.sh", "version": "v1alpha1", "plural": "jobs"}
_LONGEST = 63
"""Letters of a pod's name: it is a host's, too."""
_NO_IMAGE = (
    "a job on Kubernetes runs an image: build one once (podman build -f Containerfile -t REGISTRY/flava:1 .; podman push "
    "REGISTRY/flava:1) and name it with --image REGISTRY/flava:1; docs/launching/kubernetes.md tells more"
)


def create_scheduler(session_name: str, **kwargs: Any) -> "Kubernetes":
    """What TorchX's registry of schedulers asks for; `client` and `docker_client` are taken from `kwargs`."""
    return Kubernetes(session_name, client=kwargs.get("client"), docker_client=kwargs.get("docker_client"))


class Kubernetes(KubernetesScheduler):  # type: ignore[misc]  # TorchX ships no types
    """Submits Volcano jobs. Mistakes are told as `LaunchError`, before anything is submitted where that can be."""

    def _run_opts(self) -> runopts:
        opts = super()._run_opts()
        opts.add("queue", type_=str, default="default", help="Volcano queue to schedule job in")
        for name, option in OPTIONS.items():
            opts.add(name, type_=option.kind, default=option.default, help=option.told)
        return opts

    def build_workspace_and_update_role(self, role: Role, workspace: str, cfg: Mapping[str, Any]) -> None:
        """Let Docker lay the checkout over the image, if `image_repo` says where the result is pushed to."""
        if not role.image:
            raise LaunchError(_NO_IMAGE)
        if not cfg.get("image_repo"):
            return
        try:
            super().build_workspace_and_update_role(role, workspace, cfg)
        except DockerException as wrong:
            raise LaunchError(
                f"-cfg image_repo has Docker lay this folder over the image, and: {wrong}. Without image_repo the image "
                "runs as it is"
            ) from wrong

    def _submit_dryrun(self, app: AppDef, cfg: Mapping[str, Any]) -> AppDryRunInfo:
        _require_client()
        if not all(role.image for role in app.roles):
            raise LaunchError(_NO_IMAGE)
        if len(app.roles) > 1 and any(role.min_replicas for role in app.roles):
            raise LaunchError("a job of several roles cannot lose pods: give each as many as it needs, no MIN:MAX")
        if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", app.name):
            raise LaunchError(f"{app.name!r} cannot name a job on Kubernetes: small letters, digits and - (--name)")
        with warnings.catch_warnings():
            # that Volcano 1.4 did not retry rightly; what holds of later ones stands in docs/launching/kubernetes.md
            warnings.filterwarnings("ignore", r"\s*Role .* configured with restarts", UserWarning)
            info = super()._submit_dryrun(app, cfg)
        job: dict[str, Any] = sanitize_for_serialization(info.request.resource)
        name = job["metadata"]["name"]
        for task in job["spec"]["tasks"]:
            if len(pod := f"{name}-{task['name']}-0") > _LONGEST:
                raise LaunchError(
                    f"the pod's name {pod} has {len(pod)} letters; at most {_LONGEST}: choose a shorter --name"
                )
            complete(task["template"], cfg, run_name=name)
        if fewest := app.roles[0].min_replicas:
            let_pods_go(job["spec"], fewest, retries=app.roles[0].max_retries)
        if retries := job["spec"]["maxRetry"]:
            # Volcano ends a job when it is to be started for the maxRetry-th time, so N starts again are N + 1
            job["spec"]["maxRetry"] = retries + 1
        return AppDryRunInfo(KubernetesJob(info.request.images_to_push, job), repr)

    def schedule(self, dryrun_info: AppDryRunInfo) -> str:
        """Submit the job; its id is NAMESPACE:NAME."""
        with _told():
            return super().schedule(dryrun_info)

    def describe(self, app_id: str) -> DescribeAppResponse | None:
        """The job's state and its pods'; None where it was deleted, as `torchx cancel` does."""
        namespace, name = _parted(app_id)
        ask = self._custom_objects_api().get_namespaced_custom_object_status
        try:
            with _told():
                job = ask(namespace=namespace, name=name, **_JOBS)
        except _MissingError:
            return None
        status = job.get("status", {})
        roles: dict[str, RoleStatus] = {}
        for task, counts in sorted(status.get("taskStatusCount", {}).items()):
            role, _, index = task.rpartition("-")
            phases = [TASK_STATE[phase] for phase, pods in counts.get("phase", {}).items() if pods]
            state = phases[0] if phases else AppState.PENDING
            replica = ReplicaStatus(id=int(index), role=role, state=state, hostname="")
            roles.setdefault(role, RoleStatus(role, [])).replicas.append(replica)
        return DescribeAppResponse(
            app_id=app_id,
            roles=[Role(name=role, num_replicas=len(told.replicas), image="") for role, told in roles.items()],
            roles_statuses=list(roles.values()),
            state=_state(job),
            num_restarts=status.get("retryCount", 0),
            msg=status.get("state", {}).get("message", ""),
        )

    def list(self) -> list[ListAppResponse]:
        """The jobs of the namespace in `.torchxconfig`, or in the kubeconfig's context, or `default`."""
        ask = self._custom_objects_api().list_namespaced_custom_object
        namespace = self._namespace()
        with _told():
            jobs = ask(namespace=namespace, **_JOBS)["items"]
        return [ListAppResponse(app_id=f"{namespace}:{job['metadata']['name']}", state=_state(job)) for job in jobs]

    def log_iter(
        self,
        app_id: str,
        role_name: str,
        k: int = 0,
        regex: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        should_tail: bool = False,
        streams: Stream | None = None,
    ) -> Iterable[str]:
        """The lines of the k-th pod of a role, each after its time; a container has one stream."""
        if until is not None or streams not in (None, Stream.COMBINED):
            raise LaunchError("a pod's log has no end to cut at and one stream: leave out --streams")
        _require_client()
        from kubernetes import client

        namespace, name = _parted(app_id)
        asked: dict[str, Any] = {"timestamps": True, "follow": should_tail}
        if since is not None:
            asked["since_seconds"] = max(1, round((datetime.now() - since).total_seconds()))
        pod = normalize_str(f"{name}-{role_name}-{k}-0")
        read = client.CoreV1Api(self._api_client()).read_namespaced_pod_log
        try:
            with _told():  # as it comes: client 36 would hand out the repr of the bytes
                response = read(pod, namespace, _preload_content=False, **asked)
        except _MissingError as wrong:
            raise LaunchError(f"{wrong}: logs go with the pods, when a job ends or starts again") from wrong
        lines = _lines(response.stream(decode_content=True))
        return filter_regex(regex, lines) if regex else lines

    def _namespace(self) -> str:
        written: dict[str, Any] = {}
        config.apply("kubernetes", written)
        if written.get("namespace"):
            return str(written["namespace"])
        from kubernetes.config import list_kube_config_contexts

        with _kubeconfig():
            _, active = list_kube_config_contexts()
        return active["context"].get("namespace", "default")

    def _custom_objects_api(self) -> Any:
        _require_client()
        return super()._custom_objects_api()

    def _api_client(self) -> Any:
        with _kubeconfig(), warnings.catch_warnings():
            warnings.filterwarnings("error", "failed to load kube config", UserWarning)
            return super()._api_client()


def _require_client() -> None:
    try:
        import kubernetes  # noqa: F401
    except ModuleNotFoundError as wrong:
        raise LaunchError("TorchX needs Kubernetes' client here: pip install 'torchflava[launch]'") from wrong


@contextmanager
def _kubeconfig() -> Iterator[None]:
    """What is wrong with the kubeconfig, in one line."""
    from kubernetes.config import ConfigException

    try:
        yield
    except (ConfigException, UserWarning) as wrong:  # the latter is how TorchX tells of the former
        raise LaunchError(f"no cluster is configured ({wrong}): put its kubeconfig at ~/.kube/config") from wrong
    except (OSError, YAMLError, UnicodeDecodeError, AttributeError, TypeError) as wrong:  # the last two of another YAML
        file = os.environ.get("KUBECONFIG", "~/.kube/config")
        raise LaunchError(f"{file} is no kubeconfig: {' '.join(str(wrong).split())}") from wrong


def _parted(app_id: str) -> tuple[str, str]:
    namespace, colon, name = app_id.partition(":")
    if not colon:
        raise LaunchError(f"{app_id!r} is no NAMESPACE:NAME: a handle is kubernetes://torchx/NAMESPACE:NAME")
    return namespace, name


class _MissingError(LaunchError):
    """The server knows no object of that name."""


@contextmanager
def _told() -> Iterator[None]:
    """The server's refusals, each in one line."""
    from kubernetes.client.rest import ApiException

    try:
        yield
    except ApiException as wrong:
        if wrong.status == 404 and _body(wrong).get("details", {}).get("name"):  # else Volcano is missing
            raise _MissingError(_body(wrong)["message"]) from wrong
        raise LaunchError(_reason(wrong)) from wrong
    except HTTPError as wrong:
        raise LaunchError(f"the cluster does not answer: {wrong}") from wrong


def _reason(wrong: Any) -> str:
    if wrong.status == 404:
        return "this cluster has no Volcano jobs: its administrator installs Volcano (https://volcano.sh)"
    hint = {401: "; log in again", 403: "; ask for a role that may create jobs.batch.volcano.sh"}.get(wrong.status, "")
    return f"the cluster refuses ({wrong.status}): {_body(wrong).get('message') or wrong.reason}{hint}"


def _body(wrong: Any) -> dict[str, Any]:
    try:
        return dict(json.loads(wrong.body))
    except (TypeError, ValueError):
        return {}


def _state(job: Mapping[str, Any]) -> AppState:
    phase = job.get("status", {}).get("state", {}).get("phase")
    if phase is None:
        return AppState.SUBMITTED  # Volcano has not looked at it yet
    return AppState.RUNNING if phase == "Completing" else JOB_STATE[phase]  # TorchX 0.7 does not know that one


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Whole lines with their ends, as soon as they are whole."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace") + "\n"
    if rest:
        yield rest.decode(errors="replace") + "\n"
