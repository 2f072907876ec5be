"""The batch script of a job: one `srun` that starts one task a node, and what happens when that ends other than well.

A job of one role is one plain Slurm job of as many nodes as the role has replicas (docs/decisions/0040); each further role is
a further part of a heterogeneous job.
"""

import os
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torchx.specs import AppDef, Role, macros

from torchflava.launch.ddp import LaunchError
from torchflava.launch.slurm_elastic import AFTER_STEP, JOB, STEP, before_step, fewest, is_elastic, noted
from torchflava.launch.slurm_limits import Wish

# What TorchX writes into a role where these are to stand; no command line can hold the sign
_JOB, _REPLICA = "\0job\0", "\0replica\0"
# Of whoever started the step, which srun does from the first node: known to every task, and an address, so that no name service
# needs to know the node's name
_FIRST_NODE = "SLURM_LAUNCH_NODE_IPADDR"
_SLACK = 60  # seconds by which Slurm may send a signal too early (sbatch's manual, --signal)


class Request(NamedTuple):
    """What is handed to `sbatch`."""

    job: Mapping[str, str]
    """Options of the whole job, by sbatch's names."""
    each: Mapping[str, str]
    """Options of each part."""
    roles: Sequence[Role]
    names: Sequence[str]
    """Of the parts."""
    retries: int
    logs: Path
    """The folder of the job's logs."""
    lead: int
    """Seconds before its time limit at which the job is signalled; 0 if it is not."""
    run: str
    """Begins the name of the run."""
    job_dir: Path | None = None
    """Where the job works; None for the directory that it is submitted from."""
    workspace: Path | None = None
    """What is copied there."""

    def __str__(self) -> str:
        return f"sbatch --parsable << 'END'\n{script_of(self)}END"


def wish_of(role: Role) -> Wish:
    """What a role asks for; TorchX writes what is not asked for as a number below 1."""
    wanted = (role.resource.cpu, role.resource.memMB, role.resource.gpu)
    cpus, memory, gpus = (max(0, int(number)) for number in wanted)
    return Wish(fewest(role), cpus, memory, gpus, most_nodes=role.num_replicas)


def parts_of(app: AppDef) -> list[Role]:
    """The roles with TorchX's macros filled in, as far as they are known before the job has a number."""
    values = {"app_id": _JOB, "replica_id": _REPLICA, "rank0_env": _FIRST_NODE}
    roles = [macros.Values(img_root=role.image, **values).apply(role) for role in app.roles]
    for role in roles:
        role.name = re.sub(r"[^\w-]", "_", role.name)  # it names files, and ends the job's name behind a dot
    return roles


def script_of(request: Request) -> str:
    """The text of the script."""
    elastic = any(map(is_elastic, request.roles))
    starts = [0]
    for role in request.roles:
        starts.append(starts[-1] + role.num_replicas)
    tasks = [_task(role, request.logs, first) for role, first in zip(request.roles, starts, strict=False)]
    lines = [
        "#!/bin/bash",
        f"# Run with: {shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])!a}"[:2000],
        *_options(request),
        "",
        "# a run without a --name is called by this, so that it goes on when the job starts again (docs/running.md)",
        f'export TORCHFLAVA_RUN_NAME={shlex.quote(request.run)}"$SLURM_JOB_ID"',
        "# jobs that share a node meet apart",
        "export TORCHFLAVA_PORT=$((20000 + SLURM_JOB_ID % 10000))",
        "export PYTHONUNBUFFERED=1",
        *(['export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"'] if request.job_dir else []),
        f"retries={request.retries}",
        f'failures={shlex.quote(f"{request.logs}{os.sep}slurm-")}"$SLURM_JOB_ID".failures',
        *(before_step(request.logs, request.lead) if elastic else []),
        "",
        "srun " + " :\\\n  ".join(tasks),
        "code=$?",
        *([AFTER_STEP] if elastic else []),
        f"{_AFTERWARDS.format(lead=request.lead + _SLACK if request.lead else 0)}",
    ]
    return "\n".join(lines)


def _options(request: Request) -> list[str]:
    """The script's `#SBATCH` lines."""
    lines: list[str] = []
    for name, role in zip(request.names, request.roles, strict=True):
        lines += ["#SBATCH hetjob"] if lines else []
        own = {"job-name": name, **({} if lines else request.job), **request.each, **_size(role)}
        own |= JOB if is_elastic(role) else {}
        for key, value in own.items():
            if "\n" in value:
                raise LaunchError(f"{key} {value!r} holds the end of a line, and the job's script has one for it")
        lines += [
            f"#SBATCH --{key}={shlex.quote(value)}" if value else f"#SBATCH --{key}" for key, value in own.items()
        ]
    return lines


def _size(role: Role) -> dict[str, str]:
    wish = wish_of(role)
    if is_elastic(role):  # with a number of tasks, on each node or in all, Slurm gives no more nodes than the fewest
        options = {"nodes": f"{wish.nodes}-{wish.most_nodes}"}
    else:
        options = {"nodes": str(wish.nodes), "ntasks-per-node": "1"}
    wanted = {"cpus-per-task": wish.cpus, "mem": wish.memory, "gpus-per-node": wish.gpus}
    return options | {name: str(number) for name, number in wanted.items() if number}


def _task(role: Role, logs: Path, first_node: int) -> str:
    """srun's words for one part: its options, its variables, its command."""
    wish = wish_of(role)
    file = f'{shlex.quote(str(logs).replace("%", "%%") + os.sep + "slurm-")}"$SLURM_JOB_ID"-{role.name}-%n'
    options = ["--ntasks-per-node=1", "--open-mode=append", f"--output={file}.out", f"--error={file}.err"]
    # one task's failure ends all of them; one that ends well leaves the others a minute
    options += STEP if is_elastic(role) else ["--kill-on-bad-exit=1", "--wait=60"]
    # newer versions of srun do not take it over from the job
    options += [f"--cpus-per-task={wish.cpus}"] if wish.cpus else []
    # not by --export, which cuts values at their commas
    words = ["env", *(f"{name}={value}" for name, value in role.env.items()), role.entrypoint, *role.args]
    command = " ".join(_spelled(word, first_node) for word in words)
    if any(_REPLICA in word for word in words):  # each task knows its own
        command = f"bash -c {shlex.quote(f'exec {command}')}"
    command = noted(command) if is_elastic(role) else command
    return " ".join([*options, command])


def _spelled(word: str, first_node: int) -> str:
    """`word` for the shell, with the numbers that only the job knows."""
    own = f'"$((SLURM_NODEID - {first_node}))"' if first_node else '"$SLURM_NODEID"'
    by_job = ['"$SLURM_JOB_ID"'.join(_quoted(piece) for piece in part.split(_JOB)) for part in word.split(_REPLICA)]
    return own.join(by_job) or "''"


def _quoted(piece: str) -> str:
    return shlex.quote(piece) if piece else ""


def run_name() -> str:
    """Begins the name of a run: when it was submitted, since a cluster's numbers of jobs may begin anew."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-slurm-"


_AFTERWARDS = r"""
echo "$(date '+%F %T'): job $SLURM_JOB_ID ended with code $code, start $((${{SLURM_RESTART_COUNT:-0}} + 1))"
[ "$code" -eq 0 ] && exit 0

again() {{
    echo "$1: the job is to start again"
    scontrol requeue "$SLURM_JOB_ID"
    exit "$code"
}}

# Was it asked to make room, or is its time nearly up? Then it did as it was told, however often that happens.
about=$(SLURM_TIME_FORMAT=%s scontrol --oneliner show job "$SLURM_JOB_ID" | head -n 1)
when() {{ [[ $about =~ \ $1=([0-9]+) ]] && echo "${{BASH_REMATCH[1]}}" || echo 0; }}
preempted=$(when PreemptTime)
[ "$preempted" -gt 0 ] && [ "$preempted" -ge "$(when StartTime)" ] && again "preempted"
end=$(when EndTime)
[ "$end" -gt 0 ] && [ $((end - $(date +%s))) -lt {lead} ] && again "its time is up"

# It failed.
[ "$retries" -gt 0 ] || exit "$code"
[ "${{SLURM_RESTART_COUNT:-0}}" -gt 0 ] || rm -f "$failures"
echo "$(date '+%F %T') code $code" >> "$failures"
failed=$(wc -l < "$failures")
[ "$failed" -le "$retries" ] && again "failure $failed, of which $retries are forgiven"
exit "$code"
"""
