"""TorchX's `slurm`, as this project has it: for clusters with and without accounting, and for jobs that are preempted.

Registered by this package's entry point in place of TorchX 0.7's, whose command line stays the same: `torchx run`, `status`,
`log`, `list`, `cancel` with `-s slurm` and `slurm://...`. docs/launching/slurm.md tells how to use it, docs/decisions/0040 why.
"""

import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from torchx.schedulers.api import (
    AppDryRunInfo,
    DescribeAppResponse,
    ListAppResponse,
    Stream,
    filter_regex,
)
from torchx.schedulers.slurm_scheduler import SlurmScheduler
from torchx.specs import AppDef, AppState, CfgVal, ReplicaStatus, Role, RoleStatus, is_terminal, runopts
from torchx.version import TORCHX_IMAGE

from torchflava.launch import slurm_limits, slurm_logs
from torchflava.launch.ddp import ClusterError, LaunchError, secrets_in
from torchflava.launch.slurm_elastic import is_elastic
from torchflava.launch.slurm_jobs import Job, all_jobs, cancel, find, names_of
from torchflava.launch.slurm_script import Request, parts_of, run_name, script_of, wish_of
from torchflava.launch.snapshot import copy_workspace

_OF_EACH = ("partition", "time", "account", "qos", "reservation", "constraint")
_OF_JOB = ("comment", "mail-user", "mail-type")
_HELP = {
    "job_dir": "A folder that is made for the job, with a copy of what git knows here; it works there, so that what is edited "
    "while it waits does not change it. Default: it works in the directory it is submitted from.",
    "account": "The account that is charged.",
    "qos": "The quality of service.",
    "reservation": "A reservation to run in.",
    "signal": "SIGNAL@SECONDS: what the job is sent, and how long before its time limit, so that it saves, leaves and starts "
    "again; `none` for nothing. Default: USR1@90, but nothing for jobs of under 10 minutes.",
    "log_dir": "The folder of the job's logs, from where it works.",
}
_SIGNAL = "USR1@90"
_SHORT = 600.0  # seconds: a job of less is a trial, which is not to start again when its time is up
_WORKSPACE = "torchflava.workspace"

log = logging.getLogger(__name__)


class Slurm(SlurmScheduler):  # type: ignore[misc]  # TorchX ships no types
    """Submits one plain Slurm job for a role of many replicas, and knows it by Slurm's own commands."""

    def _run_opts(self) -> runopts:
        opts = super()._run_opts()
        for name, told in _HELP.items():
            opts.add(name, type_=str, default="runs/logs" if name == "log_dir" else None, help=told)
        return opts

    def build_workspace_and_update_role(self, role: Role, workspace: str, cfg: Mapping[str, CfgVal]) -> None:
        """Note what is to be copied into `job_dir`; a dry run copies nothing."""
        if cfg.get("job_dir"):
            role.metadata[_WORKSPACE] = workspace.removeprefix("file://")

    def _submit_dryrun(self, app: AppDef, cfg: Mapping[str, Any]) -> AppDryRunInfo[Request]:
        _refuse_containers(app)
        _refuse_secrets(app)
        if len(app.roles) > 1 and any(map(is_elastic, app.roles)):
            raise LaunchError(
                "on Slurm a job of several roles cannot lose nodes: give each as many as it needs, no MIN:MAX"
            )
        partition = cfg.get("partition") or os.environ.get("SBATCH_PARTITION")
        candidates = slurm_limits.chosen(slurm_limits.partitions(), partition)
        wishes = [wish_of(role) for role in app.roles]
        limit = cfg.get("time") or os.environ.get("SBATCH_TIMELIMIT")
        slurm_limits.check(wishes, limit, candidates)
        if told := slurm_limits.never_whole(wishes, candidates):
            log.warning(told)
        roles = parts_of(app)
        if candidates and not any(partition.knows_memory for partition in candidates):
            for role in roles:
                role.resource.memMB = 0
        job_dir = Path(cfg["job_dir"]).expanduser().absolute() if cfg.get("job_dir") else None
        workspace = app.roles[0].metadata.get(_WORKSPACE)
        logs = (job_dir or Path.cwd()) / Path(cfg["log_dir"]).expanduser()
        signal, lead = _signal(cfg.get("signal"), limit, slurm_limits.length(limit, candidates))
        job = {name: cfg[name] for name in _OF_JOB if cfg.get(name)}
        job |= {"requeue": "", "open-mode": "append", "output": f"{str(logs).replace('%', '%%')}/slurm-%j.out"}
        job |= {"chdir": str(job_dir)} if job_dir else {}
        each = {name: str(cfg[name]) for name in _OF_EACH if cfg.get(name)}
        request = Request(
            job=job | ({"signal": signal} if signal else {}),
            each=each,
            roles=roles,
            names=[app.name if app.name == role.name else f"{app.name}.{role.name}" for role in roles],
            retries=min(role.max_retries for role in roles),
            logs=logs,
            lead=lead,
            run=run_name(),
            job_dir=job_dir,
            workspace=Path(workspace) if workspace else None,
        )
        return AppDryRunInfo(request, str)

    def schedule(self, dryrun_info: AppDryRunInfo[Request]) -> str:
        """Submit the job: its number.

        Raises:
            LaunchError: (a ValueError) with sbatch's words, or if there is no sbatch here, or if `job_dir` is there already.
        """
        request: Request = dryrun_info.request
        with _folders(request):
            number = _submit(request)
        slurm_logs.keep_place(number, request.logs)
        return number

    def describe(self, app_id: str) -> DescribeAppResponse | None:
        """State, nodes and restarts of a job; None if neither the controller nor the accounting knows it."""
        jobs = find(app_id)
        if not jobs:
            return None
        told = f"{jobs[0].state} ({jobs[0].reason})" if jobs[0].reason else jobs[0].state
        return DescribeAppResponse(
            app_id=app_id,
            state=jobs[0].app_state,
            msg=told,
            num_restarts=jobs[0].restarts,
            roles=[Role(name=_role(job), image="", num_replicas=job.nodes) for job in jobs],
            roles_statuses=[RoleStatus(_role(job), _replicas(job)) for job in jobs],
        )

    def list(self, cfg: Mapping[str, CfgVal] | None = None) -> list[ListAppResponse]:
        """This user's jobs."""
        return [ListAppResponse(app_id=job.number, state=job.app_state) for job in all_jobs() if job.part == 0]

    def _cancel_existing(self, app_id: str) -> None:
        cancel(app_id)

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
        """What replica `k` prints, on both streams unless `streams` names one; follows it to the job's end, over restarts.

        Raises:
            ValueError: for `since` and `until`: Slurm's files have no times.
            ClusterError: (a RuntimeError) if the files are not known, or were never written.
        """
        if since or until:
            raise ValueError("the lines of Slurm's logs have no times: leave out since and until")
        folder = slurm_logs.place_of(app_id, find(app_id))
        files = slurm_logs.files_of(folder, app_id, f"{role_name}-{k}", streams=streams)
        lines = slurm_logs.follow(files, lambda: _ended(app_id))
        return filter_regex(regex, lines) if regex else lines


def create_scheduler(session_name: str, **kwargs: object) -> Slurm:
    """What TorchX calls; of its keywords none is Slurm's."""
    return Slurm(session_name)


def _refuse_containers(app: AppDef) -> None:
    for role in app.roles:
        if role.image not in ("", TORCHX_IMAGE):  # the latter is what TorchX's own components ask for by themselves
            raise LaunchError(
                f"slurm runs no images such as {role.image}: leave out --image, or choose another scheduler with -s"
            )
        if role.mounts:
            raise LaunchError("slurm mounts nothing: leave out --mounts, or choose another scheduler with -s")


def _refuse_secrets(app: AppDef) -> None:
    for role in app.roles:
        for name in secrets_in(role.env, [role.entrypoint, *role.args]):
            raise LaunchError(
                f"{name} would stand in the job's script and in each node's list of processes: leave it out, and "
                f"`export {name}=...` in the shell that submits; its variables reach the job"
            )


def _submit(request: Request) -> str:
    """The number that sbatch gives the job."""
    try:
        done = subprocess.run(
            ["sbatch", "--parsable"],
            input=script_of(request),
            env=_environment(request),
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise LaunchError("no sbatch here: Slurm jobs are submitted from a machine of its cluster") from error
    if done.returncode != 0:
        raise LaunchError(done.stderr.strip() or f"sbatch ended with code {done.returncode}")
    if done.stderr.strip():
        log.warning(done.stderr.strip())
    return done.stdout.strip().partition(";")[0]


def _role(job: Job) -> str:
    return job.name.rpartition(".")[2]


def _replicas(job: Job) -> list[ReplicaStatus]:
    hosts = names_of(job.places) or [""] * job.nodes
    return [
        ReplicaStatus(id=replica, role=_role(job), state=job.app_state, hostname=host)
        for replica, host in enumerate(hosts)
    ]


def _ended(number: str) -> bool:
    try:
        jobs = find(number)
    except ClusterError as error:  # a controller that is busy or being restarted: the job goes on meanwhile
        log.warning(error)
        return False
    return not jobs or bool(is_terminal(jobs[0].app_state)) or jobs[0].app_state == AppState.UNKNOWN


def _signal(asked: str | None, limit: str | None, length: float) -> tuple[str, int]:
    """sbatch's --signal, and how many seconds before the limit it comes; none for `none`, and for trials."""
    if asked is None:
        asked = _SIGNAL if length >= _SHORT else "none"
    if asked == "none":
        return "", 0
    found = re.fullmatch(r"[A-Z]+[A-Z0-9]*@(\d+)", asked)
    if not found:
        raise LaunchError(f"signal={asked}: write SIGNAL@SECONDS, such as {_SIGNAL}, or none")
    if int(found[1]) + 60 >= length:
        whose = f"time={limit}" if limit else "the partition's"
        raise LaunchError(
            f"signal={asked} may come {int(found[1]) + 60} s before the time limit, and {whose} is no longer than that"
        )
    return asked, int(found[1])


def _environment(request: Request) -> dict[str, str]:
    """Without those of sbatch's variables that speak of what the script says: they would win."""
    said = ("no-requeue", "job-name", *request.job, *request.each, *(["timelimit"] if "time" in request.each else []))
    variables = {f"SBATCH_{name.upper().replace('-', '_')}" for name in said}
    return {name: value for name, value in os.environ.items() if name not in variables}


@contextmanager
def _folders(request: Request) -> Iterator[None]:
    """Make those of the job; if it is then refused, its copy goes again, for it would be in the next one's way."""
    if request.job_dir:
        if request.job_dir.exists():
            raise LaunchError(f"job_dir={request.job_dir} is there already: each job makes a folder of its own")
        with _named("job_dir", request.job_dir):
            if request.workspace is None:
                request.job_dir.mkdir(parents=True)
            else:
                copy_workspace(request.workspace, request.job_dir)
    try:
        with _named("log_dir", request.logs):
            request.logs.mkdir(parents=True, exist_ok=True)
        yield
    except LaunchError:
        if request.job_dir:
            shutil.rmtree(request.job_dir, ignore_errors=True)
        raise


@contextmanager
def _named(setting: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as wrong:
        raise LaunchError(f"{setting}={folder} cannot be made: {wrong.strerror or wrong}") from wrong
