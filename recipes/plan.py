"""How to reach a run's batch on the GPUs at hand: `python recipes/plan.py --gpus 8 32 64 -- --preset flava`.

After -- stand the words that recipes/pretrain.py is to be given. Memory is counted by running that run's model, forward and
backward, on tensors without data (torchflava/models/memory.py); time is operations divided by an assumed rate.
"""

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import tyro
from presets import Config, needs_codes, parse

if TYPE_CHECKING:  # it imports torch, which takes seconds
    from planned import Need, Planner

_MOST_PLANS = 20
_COLUMNS = (
    "GPUs", "rows a GPU", "rows at a time", "passes", "weights, moments", "gradients", "gathered", "states kept", "rest", "total",
    "s a step", "days",
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """Plan recipes/pretrain.py on GPUs: rows at a time, memory, time and command. Its own words come after --."""

    gpus: tuple[int, ...] = (8, 32, 64)
    """How many there are in all; one plan for each number."""
    per_node: int = 8
    """GPUs of a node."""
    gpu_gb: float = 80.0
    """Memory of a GPU, in GB of 10^9 bytes."""
    reserve: float = 0.1
    """Share of it that is left free: for the allocator's gaps, kernels' workspaces, CUDA and NCCL, which are not counted."""
    gpu: str = "H100"
    """Whose rate the time is told by, a name that torchflava.training.machine.PEAK_TFLOPS has; pretrain's --peak-tflops wins."""
    mfu: float = 0.4
    """Share of that rate that is assumed to be reached; it is not measured."""
    scheduler: str = "slurm"
    """Of the commands, torchx's -s."""
    preset: str = ""
    """Short for -- --preset."""


def main(words: Sequence[str]) -> None:
    """Print the plans."""
    at = words.index("--") if "--" in words else len(words)
    asked, of_run = tyro.cli(Asked, args=list(words[:at]), prog="plan.py"), list(words[at + 1 :])
    if asked.preset:
        of_run = ["--preset", asked.preset, *of_run]
    if sum(word.split("=")[0] == "--preset" for word in of_run) > 1:
        sys.exit("plan.py: --preset is given twice; name one")
    config = parse(of_run, places=False)
    if complaint := next(_complaints(asked, config), None):
        sys.exit(f"plan.py: {complaint}")
    try:
        for line in report(asked, config, of_run):
            print(line, flush=True)
    except (ValueError, OSError) as error:  # of a vocabulary or codebook that is there and is none
        sys.exit(f"plan.py: {error}")


def report(asked: Asked, config: Config, words: Sequence[str]) -> Iterator[str]:
    """The table and what belongs to it, line by line.

    Args:
        asked: the machines.
        config: of the run.
        words: of the run, for the commands.

    Raises:
        ValueError: if the vocabulary or the codebook that the run names is there and is damaged.
    """
    from planned import Machines, Planner, helps

    machines = Machines(asked.per_node, round(asked.gpu_gb * 1e9 * (1 - asked.reserve)))
    planner = Planner(config, machines)
    plans = {gpus: planner.plan(gpus) for gpus in asked.gpus}
    rate = _tflops(asked, config)
    weights = sum(parameter.numel() for parameter in planner.model.parameters())
    yield f"A batch of {config.batch_size:,} for {weights / 1e6:,.0f} million weights, in GB of each GPU:"
    yield ""
    yield f"| {' | '.join(_COLUMNS)} |"
    yield f"|{'--:|' * len(_COLUMNS)}"
    for gpus, need in plans.items():
        rows = config.batch_size // gpus
        yield (
            f"| {gpus} | {rows:,} | does not fit | | | | | | | | | |"
            if need is None
            else row(planner, need, rate * asked.mfu)
        )
    yield ""
    yield from notes(asked, config, planner, list(plans.values()), rate)
    for gpus, need in plans.items():
        yield ""
        if need is None:
            yield from _does_not_fit(asked, planner, gpus, helps=list(helps(planner, gpus)))
        else:
            yield f"On {gpus} GPU{'s' * (gpus > 1)}:"
            yield from ("```sh", command(asked, need, words, config), "```")


def row(planner: "Planner", need: "Need", flops: float) -> str:
    """A line of the table."""
    budget, seconds = need.budget, planner.seconds(need, flops * 1e12)
    rest = need.at_once - need.states.kept + need.standing
    parts = (budget.weights, budget.gradients, budget.gathered, need.states.kept, rest, need.total)
    told = " | ".join(f"{part / 1e9:.1f}" for part in parts)
    days = f"{seconds * planner.config.steps / 86400:,.1f}"
    return f"| {need.gpus} | {need.rows:,} | {need.micro:,} | {need.passes} | {told} | {seconds:.2f} | {days} |"


def notes(
    asked: Asked, config: Config, planner: "Planner", needs: Sequence["Need | None"], tflops: float
) -> Iterator[str]:
    """What the table's numbers are."""
    kinds = {kind: round(config.steps * share) for kind, share in asdict(config.shares).items() if share}
    of_kinds = ", ".join(f"{steps:,} of {kind}s" for kind, steps in kinds.items())
    yield f"- {config.steps:,} steps: {of_kinds}. A step of {config.batch_size:,} rows is the same on any number of GPUs."
    largest = {need.kind for need in needs if need is not None}
    if largest:
        yield (
            f"- States kept are those of the kind that takes most at once, {' or '.join(sorted(largest))}s. Rest: what comes and "
            "goes beside them, the contrastive loss, the codebook and the embeddings that are kept."
        )
    if any(need.passes > 1 for need in needs if need is not None):
        yield "- With more than one pass, FSDP keeps the whole gradients on each GPU until the last."
    if config.offload and (of_node := max((n.budget.in_main_memory for n in needs if n is not None), default=0)):
        yield f"- Offloaded: {asked.per_node * of_node / 1e9:.0f} GB of a node's main memory at most."
    yield (
        f"- {asked.reserve:.0%} of {asked.gpu_gb:g} GB is left free for what is not counted. Time is assumed, not measured: "
        f"{asked.mfu:.0%} of {tflops:g} TFLOPS, communication within it; what is computed twice is in it."
    )
    if config.codebook and needs_codes(config):
        yield (
            "- Left out of the time: the codebook's encoding of each image, of a dVAE in float32 slower than its operations say; "
            "recipes/data/codes.py does it once for all steps."
        )
    if config.compiled:
        yield "- Compiled code keeps other states than those counted here."


def command(asked: Asked, need: "Need", words: Sequence[str], config: Config) -> str:
    """What starts the run."""
    nodes, gpus = -(-need.gpus // asked.per_node), min(need.gpus, asked.per_node)
    more = ["--micro-batch", str(need.micro)] if need.passes > 1 and not config.micro_batch else []
    run = f"torchx run -s {asked.scheduler} recipes/pretrain.py --nodes {nodes} --gpus {gpus} -- "
    return run + shlex.join([*words, *more])


def _does_not_fit(asked: Asked, planner: "Planner", gpus: int, *, helps: Sequence[str]) -> Iterator[str]:
    need = planner.least(gpus)
    yield (
        f"On {gpus} GPU{'s' * (gpus > 1)} it does not fit: with {need.micro:,} row{'s' * (need.micro > 1)} at a time it takes "
        f"{need.total / 1e9:.1f} GB of the "
        f"{planner.machines.room / 1e9:.1f} that may be filled: weights and moments {need.budget.weights / 1e9:.1f}, gradients "
        f"{need.budget.gradients / 1e9:.1f}, gathered {need.budget.gathered / 1e9:.1f}, forward and backward "
        f"{(need.at_once + need.standing) / 1e9:.1f}."
    )
    yield (
        f"It would with: {'; '.join(helps)}."
        if helps
        else "Neither --recompute full, --offload nor 16 times as many would help."
    )


def _tflops(asked: Asked, config: Config) -> float:
    from torchflava.training.machine import of_name

    found = of_name(asked.gpu)
    return config.peak_tflops or (found[config.precision == "fp32"] if found else 0.0)


def _complaints(asked: Asked, config: Config) -> Iterator[str]:
    if not 0 < len(asked.gpus) <= _MOST_PLANS:
        yield f"--gpus has {len(asked.gpus)} numbers; 1 to {_MOST_PLANS} are due"
    for name, value in (("per_node", asked.per_node), ("gpu_gb", asked.gpu_gb)):
        if not 0 < value < float("inf"):
            yield f"--{name.replace('_', '-')} {value:g} must be above 0"
    if not 0 <= asked.reserve < 1:
        yield f"--reserve {asked.reserve} must be at least 0 and below 1"
    if not 0 < asked.mfu <= 1:
        yield f"--mfu {asked.mfu} must be above 0 and at most 1"
    for gpus in asked.gpus:
        if gpus < 1:
            yield f"--gpus {gpus} must be 1 or more"
        elif config.batch_size % gpus:
            yield _uneven(config.batch_size, gpus)
        elif gpus > asked.per_node and gpus % asked.per_node:
            yield f"--gpus {gpus} fill no nodes of {asked.per_node}; choose a multiple, or say --per-node"
    if not _tflops(asked, config):
        from torchflava.training.machine import PEAK_TFLOPS

        yield f"--gpu {asked.gpu} is not known; choose of {', '.join(PEAK_TFLOPS)}, or give -- --peak-tflops"


def _uneven(batch_size: int, gpus: int) -> str:
    below = batch_size // gpus * gpus
    nearest = " or ".join(f"{size:,}" for size in (below, below + gpus) if size)
    return f"--batch-size {batch_size:,} is no multiple of {gpus} GPUs; the nearest that are: {nearest}"


if __name__ == "__main__":
    main(sys.argv[1:])
