"""What a partition can hold, asked before a job is submitted: Slurm itself lets most of what can never start wait for ever."""

import re
import subprocess
from collections.abc import Sequence
from typing import NamedTuple

from torchflava.launch.ddp import LaunchError

_UNSET = 1000  # MB: clusters whose administrator set no RealMemory have 1 here, and then no memory can be asked for


class Wish(NamedTuple):
    """What a role asks for."""

    nodes: int
    """Without which it cannot run."""
    cpus: int
    memory: int
    """MB a node."""
    gpus: int
    most_nodes: int = 0
    """Of a job that takes more, if there are more; 0 or `nodes` of one that does not."""


class Kind(NamedTuple):
    """Equal nodes of a partition."""

    nodes: int
    cpus: int
    memory: int
    gpus: int

    def holds(self, wish: Wish) -> bool:
        """Whether one of these nodes has what `wish` asks of a node."""
        return self.cpus >= wish.cpus and self.memory >= wish.memory and self.gpus >= wish.gpus


class Partition(NamedTuple):
    """A partition's nodes and limits."""

    name: str
    default: bool
    most_nodes: float
    """Of one job."""
    most_time: float
    """Seconds of one job."""
    kinds: list[Kind]
    usual_time: float = float("inf")
    """Seconds of a job that names no time; infinite where that is `most_time`."""

    @property
    def knows_memory(self) -> bool:
        """Whether its nodes' memory is set; jobs that ask for memory are refused by Slurm otherwise."""
        return max(kind.memory for kind in self.kinds) > _UNSET


def partitions() -> list[Partition]:
    """Those of this cluster; none where Slurm is not installed or does not answer."""
    command = ["sinfo", "-a", "-e", "-h", "-o", "%P|%s|%l|%D|%c|%m|%G|%L"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return []
    found: dict[str, Partition] = {}
    for line in told.splitlines():
        name, size, most_time, nodes, cpus, memory, generic, *usual = line.split("|")
        most_nodes = size.rpartition("-")[2]
        limit = float(most_nodes) if most_nodes.isdecimal() else float("inf")
        of = Partition(name.rstrip("*"), name.endswith("*"), limit, seconds(most_time), [], *map(seconds, usual))
        gpus = sum(map(int, re.findall(r"\bgpu(?::[^:,()]+)?:(\d+)", generic)))
        kind = Kind(int(nodes), int(cpus.rstrip("+")), int(memory.rstrip("+")), gpus)
        found.setdefault(of.name, of).kinds.append(kind)
    return list(found.values())


def chosen(there: Sequence[Partition], names: str | None) -> list[Partition]:
    """Those that `names`, `a` or `a,b`, names, or the default one.

    Raises:
        LaunchError: (a ValueError) for a name that is not there.
    """
    if not names:
        return [partition for partition in there if partition.default]
    by_name = {partition.name: partition for partition in there}
    for name in names.split(",") if there else []:
        if name not in by_name:
            raise LaunchError(f"no partition {name!r} on this cluster; there are {', '.join(by_name)}")
    return [by_name[name] for name in names.split(",") if name in by_name]


def check(wishes: Sequence[Wish], limit: str | None, candidates: Sequence[Partition]) -> None:
    """Refuse what none of the partitions could ever start.

    Args:
        wishes: of the job's roles.
        limit: of its time, as Slurm writes it.
        candidates: the partitions that it may run in; without any nothing is checked.

    Raises:
        LaunchError: (a ValueError) that names what is asked for and what there is.
    """
    complaints = [_complaint(wishes, limit, partition) for partition in candidates]
    if complaints and all(complaints):
        raise LaunchError("; ".join(filter(None, complaints)))


def never_whole(wishes: Sequence[Wish], candidates: Sequence[Partition]) -> str:
    """What to say of a job that could start with fewer nodes only; nothing if it may get all."""
    all_nodes = [wish._replace(nodes=max(wish.nodes, wish.most_nodes)) for wish in wishes]
    complaints = [_complaint(all_nodes, None, partition) for partition in candidates]
    return f"it can only start with fewer: {'; '.join(complaints)}" if complaints and all(complaints) else ""


def length(limit: str | None, candidates: Sequence[Partition]) -> float:
    """Seconds that a job may take, by its own limit or by the most generous partition's; infinite if nobody says."""
    if limit:
        return seconds(limit)
    return max((min(partition.usual_time, partition.most_time) for partition in candidates), default=float("inf"))


def seconds(text: str) -> float:
    """A time as Slurm writes it: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]].

    Raises:
        LaunchError: (a ValueError) if it is none.
    """
    if text.lower() in ("infinite", "unlimited", "n/a"):
        return float("inf")
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdecimal() for part in parts) or len(parts) > 3 or (dash and not days.isdecimal()):
        raise LaunchError(f"time={text}: Slurm takes minutes, HH:MM:SS, D-HH or D-HH:MM:SS")
    numbers = [int(part) for part in parts]
    if dash:
        hours, minutes, secs = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, minutes, secs = numbers
    else:
        hours, minutes, secs = 0, *(*numbers, 0)[:2]
    return int(days or 0) * 86400.0 + hours * 3600 + minutes * 60 + secs or float("inf")  # 0 means none


def _complaint(wishes: Sequence[Wish], limit: str | None, partition: Partition) -> str:
    nodes, there = sum(wish.nodes for wish in wishes), sum(kind.nodes for kind in partition.kinds)
    where = f"partition {partition.name}"
    if nodes > there:
        return f"--nodes {nodes} is more than the {there} nodes of {where}"
    if nodes > partition.most_nodes:
        return f"--nodes {nodes}: {where} takes jobs of at most {partition.most_nodes:.0f} nodes"
    if limit and seconds(limit) > partition.most_time:
        return f"time={limit}: {where} takes jobs of at most {partition.most_time / 3600:g} hours"
    for wish in wishes:
        wish = wish if partition.knows_memory else wish._replace(memory=0)
        most = {name: max(getattr(kind, name) for kind in partition.kinds) for name in ("cpus", "memory", "gpus")}
        if wish.cpus > most["cpus"]:
            return f"--cpus {wish.cpus} is more than a node of {where} has: {most['cpus']}"
        if wish.memory > most["memory"]:
            return f"--mem-gb {wish.memory / 1000:g} is more than a node of {where} has: {most['memory'] / 1000:g} GB"
        if wish.gpus > most["gpus"]:
            return f"--gpus {wish.gpus} is more than a node of {where} has: {most['gpus']}"
        able = sum(kind.nodes for kind in partition.kinds if kind.holds(wish))
        if wish.nodes > able:
            asked = f"{wish.cpus} cores, {wish.memory / 1000:g} GB and {wish.gpus} GPUs"
            return f"--nodes {wish.nodes}: only {able} nodes of {where} have {asked}"
    return ""
