"""What every recipe's job shares: torchrun on each node, the first node as their meeting point (TorchX 0.7's `AppDef`).

Imports neither torch nor another room of this package: a login node submits jobs with it.
"""

import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from torchx.specs import AppDef, Resource, Role, macros, parse_mounts
from torchx.util.types import to_dict, to_list

_PORT = 29500
_SECRET = re.compile(r"((^|_)KEY|_PWD|APIKEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS)$", re.IGNORECASE)
_MOST_NODES = 10_000
"""Of one job: about what the largest machines have, and few enough that a command can hold each number of ranks."""
_LAST_CALL = 45
"""Seconds that an elastic job waits for more nodes than it needs."""


class LaunchError(ValueError):
    """What was asked for cannot be launched; the message says why and what to write instead."""


class ClusterError(RuntimeError):
    """The cluster does not answer, or does not know what it is asked for; the message is its own, or says what to ask."""


class Nodes(NamedTuple):
    """The machines of a job, and what it asks of each."""

    nodes: int | str = 1
    """A number, or `MIN:MAX` for a job that goes on with fewer when it loses some."""
    procs: int = 0
    """Processes a node; 0 means one for each GPU asked for, and one where none is."""
    gpus: int = 0
    """0 asks for none; a process then takes the GPU that it finds, or the CPU."""
    cpus: int = 0
    """Cores, shared by a node's processes; 0 asks for none."""
    mem_gb: int = 0
    """Main memory in GB of 10^9 bytes; 0 asks for none."""
    port: int = 0
    """Where the nodes meet on the first of them; 0 means 29500, or what the scheduler sets so that jobs can share a node."""

    @property
    def fewest_and_most(self) -> tuple[int, int]:
        """The least and the greatest number of nodes.

        Raises:
            LaunchError: (a ValueError) if `nodes` says neither a number nor two in order, of 1 or more.
        """
        parts = str(self.nodes).split(":")
        if len(parts) > 2 or not all(part.removeprefix("-").isdecimal() for part in parts):
            raise LaunchError(f"--nodes {self.nodes}: write a whole number, such as 2, or MIN:MAX, such as 2:4")
        fewest, most = int(parts[0]), int(parts[-1])
        if min(fewest, most) < 1:
            raise LaunchError(f"--nodes {self.nodes} is out of range: 1 or more")
        if max(fewest, most) > _MOST_NODES:
            raise LaunchError(f"--nodes {self.nodes} is out of range: {_MOST_NODES} or fewer")
        if fewest > most:
            raise LaunchError(f"--nodes {self.nodes} begins with the greater number; write --nodes {most}:{fewest}")
        return fewest, most

    @property
    def elastic(self) -> bool:
        """Whether the number of nodes may change while the job runs."""
        fewest, most = self.fewest_and_most
        return fewest < most

    @property
    def processes(self) -> int:
        """On each node."""
        return self.procs or self.gpus or 1

    @property
    def ranks(self) -> list[int]:
        """How many processes the job may have in all, one number for each number of nodes."""
        fewest, most = self.fewest_and_most
        return [count * self.processes for count in range(fewest, most + 1)]


def torchrun_job(
    script: str,
    args: Sequence[str],
    nodes: Nodes,
    *,
    retries: int = 0,
    image: str = "",
    env: str = "",
    mounts: str = "",
    name: str = "",
) -> AppDef:
    """The job that runs `script` with `args` in every process of `nodes`.

    Args:
        script: path of the Python file, as the job's working directory sees it.
        args: the script's own arguments, handed on untouched.
        nodes: the machines.
        retries: times that the scheduler starts the job again after a failure.
        image: container image with torchflava in it; without one the job runs under this Python.
        env: variables of the job, `NAME=VALUE,NAME=VALUE`.
        mounts: `type=bind,src=/data,dst=/data,readonly`, as TorchX writes them.
        name: of the job; the script's by default.

    Raises:
        LaunchError: (a ValueError) for a count out of range, more processes than GPUs, a malformed `env` or `mounts`, or
            a script that is not there.
    """
    if not image and not Path(script).is_file():
        raise LaunchError(
            f"no file {script!r} in {Path.cwd()}: start there where it is, or use `torchx run PATH/FILE.py`"
        )
    if retries < 0:
        raise LaunchError(f"--retries {retries} is out of range: 0 or more")
    _check_counts(nodes)
    fewest, most = nodes.fewest_and_most
    python = "python" if image else shlex.quote(sys.executable)
    command = [python, "-m", "torchflava.launch.torchrun", *_torchrun(nodes), *map(_literal, (script, *args))]
    threads = _threads(nodes.processes, nodes.cpus)
    # `exec`, so that the scheduler's signals reach torchrun itself; one stream, so that lines keep their order
    # SIGUSR1 would end torchrun; ignored there, it is left to the workers, who save and leave (docs/running.md)
    line = "; ".join([*_exports(env), *threads, "trap '' USR1", f"exec {' '.join(command)} 1>&2"])
    role = Role(
        name=_letters(script),
        image=image,
        entrypoint="bash",
        args=["-c", line],
        # torchrun would share a store between its rounds, which a node that comes in a later round waits for in vain (2.14)
        env={"PYTHONUNBUFFERED": "1"} | ({"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"} if nodes.elastic else {}),
        num_replicas=most,
        min_replicas=fewest if nodes.elastic else None,
        max_retries=retries,
        resource=Resource(cpu=nodes.cpus, gpu=nodes.gpus, memMB=nodes.mem_gb * 1000),
        port_map={"c10d": nodes.port or _PORT},
        mounts=_mounts(mounts),
    )
    return AppDef(name=name or role.name, roles=[role])


def secrets_in(variables: Iterable[str], commands: Iterable[str]) -> list[str]:
    """The variables whose names say that their values are secrets.

    Args:
        variables: names.
        commands: shell lines, which may export more, as those of `torchrun_job` do.
    """
    named = {*variables}
    for line in commands:
        named |= set(re.findall(r"(?:^|[;\n] *)export (\w+)=", line))
    return sorted(filter(_SECRET.search, named))


def _check_counts(nodes: Nodes) -> None:
    for flag, value in nodes._asdict().items():
        if flag != "nodes" and (value < 0 or (flag == "port" and value > 65535)):
            allowed = {"port": "0 to 65535"}.get(flag, "0 or more")
            raise LaunchError(f"--{flag.replace('_', '-')} {value} is out of range: {allowed}")
    if nodes.gpus and nodes.procs > nodes.gpus:
        raise LaunchError(
            f"--procs {nodes.procs} is more than --gpus {nodes.gpus}: each process wants a GPU of its own"
        )


def _torchrun(nodes: Nodes) -> list[str]:
    """torchrun's own words."""
    fewest, most = nodes.fewest_and_most
    counts = ["--nnodes", f"{fewest}:{most}" if nodes.elastic else str(most), "--nproc-per-node", str(nodes.processes)]
    return [*counts, *_meeting_point(nodes), *(_going_on(nodes) if nodes.elastic else [])]


def _meeting_point(nodes: Nodes) -> list[str]:
    where = ["--rdzv-backend", "c10d", "--rdzv-id", f"{macros.app_id}", "--rdzv-endpoint"]
    if nodes.fewest_and_most == (1, 1):
        # the address by hand: torchrun would ask the name service for this machine's name, which hangs on some laptops
        return [*where, "localhost:0", "--local-addr", "127.0.0.1"]
    # the variable that this scheduler keeps the first node's name in; `$$` is TorchX's `$`
    return [*where, f"$${{{macros.rank0_env}:=localhost}}:{nodes.port or f'$${{TORCHFLAVA_PORT:-{_PORT}}}'}"]


def _going_on(nodes: Nodes) -> list[str]:
    """torchrun's words for a job that goes on when it loses nodes (docs/decisions/0041).

    A lost node costs each of the others a start, since their workers miss it; two more are for a node that comes back and for
    a process that dies by itself. What fails every time ends after as many.
    """
    fewest, most = nodes.fewest_and_most
    # The first node holds the meeting point, whatever it is called. Longer than the 30 s that torchrun gives workers that hang:
    # the others wait for their node.
    meeting = f"is_host=$$(({macros.replica_id}==0)),last_call_timeout={_LAST_CALL}"
    meeting += ",keep_alive_interval=5,keep_alive_max_attempt=3"
    # SIGUSR1 is torchrun's here, as SIGTERM is: workers that leave by themselves, it would start again
    signals = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
    return ["--max-restarts", str(most - fewest + 2), "--rdzv-conf", meeting, "--signals-to-handle", signals]


def _threads(procs: int, cpus: int) -> list[str]:
    """Shell words that share a node's cores among its processes; a value from outside stays."""
    if cpus:
        return [f"export OMP_NUM_THREADS=$${{OMP_NUM_THREADS:-{max(1, cpus // procs)}}}"]
    if procs == 1:
        return []  # torch takes all the cores that it may use
    cores = "cores=$$(nproc 2>/dev/null || sysctl -n hw.ncpu)"
    return [cores, f"export OMP_NUM_THREADS=$${{OMP_NUM_THREADS:-$$((cores > {procs} ? cores / {procs} : 1))}}"]


def _exports(env: str) -> list[str]:
    """`A=1,B=2` as shell words: TorchX's own way of passing variables loses what follows a comma on Slurm."""
    try:
        variables = to_dict(env)
    except ValueError as wrong:
        raise LaunchError(f"--env {env!r} is not NAME=VALUE,NAME=VALUE") from wrong
    for name in variables:
        if not name.isidentifier():
            raise LaunchError(f"--env {env!r}: {name!r} is no name of a variable; write NAME=VALUE,NAME=VALUE")
    return [f"export {name}={_literal(value)}" for name, value in variables.items()]


def _mounts(mounts: str) -> list[object]:
    try:
        return list(parse_mounts(to_list(mounts)))
    except (KeyError, ValueError) as wrong:
        reason = f"{wrong.args[0]} is missing" if wrong.args[0] in ("src", "dst") else wrong.args[0]
        example = "type=bind,src=/here,dst=/there,readonly"
        raise LaunchError(f"--mounts {mounts!r}: {reason}; write for example {example}") from wrong


def _literal(word: str) -> str:
    """`word` for the shell, and for TorchX's templates, in which `$` is special."""
    return shlex.quote(word).replace("$", "$$")


def _letters(script: str) -> str:
    """The script's name as every scheduler takes it: Kubernetes allows no `_`, and TorchX no `-` in a role that meets."""
    return "".join(c for c in Path(script).stem.lower() if c.isascii() and c.isalnum()).lstrip("0123456789") or "recipe"
