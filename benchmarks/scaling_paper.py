"""The half of `scaling.py` that is on paper: sizes and numbers of GPUs, each with its ways of spreading, and the table."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import on_paper
from drawn import LONGEST, Shape
from on_paper import Collective, Machine, Ranks, Step

from torchflava.models import SIZES, FlavaForPreTraining

MACHINE = Machine()
SLOW = MACHINE._replace(network=100e9 / 8 / MACHINE.per_node)
"""One port of 100 Gb/s for the whole node."""
AT_ONCE = 256
"""Rows of base that fit on a GPU of 80 GB (docs/launching/batch.md); more are computed in parts, which is not counted here."""


class Plan(NamedTuple):
    """A step of pairs on so many GPUs."""

    size: str
    spread: str
    """all, node or copies, as `recipes/pretrain.py --spread` has it."""
    ranks: Ranks
    shape: Shape
    recompute: bool
    sent: list[Collective]
    pair: Step
    mixture: float
    """Seconds of a step of the mixture's mean."""
    slow: float
    """The same, where the network is `SLOW`."""
    alone: float
    """The same, of one GPU with as many rows."""
    name: str
    """Of the table that it stands in."""

    @property
    def rate(self) -> float:
        """Samples a second of the mixture, of all GPUs."""
        return self.ranks.world * self.shape.batch_size / self.mixture

    @property
    def efficiency(self) -> float:
        """What a GPU does of what it would alone."""
        return self.alone / self.mixture


def planned(asked: Sequence[str], gpus: Sequence[int]) -> list[Plan]:
    """Each `size:rows`, rows of a GPU, or `size:=batch`, of all, on each number of GPUs, spread in each way that differs.

    A batch that all share is left out where a GPU would have more than `AT_ONCE` rows of it.

    Raises:
        SystemExit: for words of another form, for an unknown size, for GPUs that fill no nodes or do not share the batch.
    """
    plans = []
    for words in asked:
        form = re.fullmatch(r"([^:]+):(=?)([1-9]\d*)(:recompute)?", words)
        if form is None or form[1] not in SIZES:
            raise SystemExit(
                f"--paper {words}: say size:rows or size:=batch, then :recompute or not; a size of {', '.join(SIZES)}"
            )
        size, shared, number, recompute = form[1], form[2] == "=", int(form[3]), form[4] is not None
        told = f"a batch of {number:,}" if shared else f"{number} rows a GPU"
        name = f"{size}, {told}" + (", recomputed" if recompute else "")
        model = on_paper.on_meta(size)
        for spread, ranks in (way for count in gpus for way in ways(count)):
            rows = _share(number, ranks.world) if shared else number
            if not shared or rows <= AT_ONCE:
                shape = Shape(size, batch_size=rows)
                plans.append(_plan(model, shape, ranks, spread=spread, recompute=recompute, name=name))
    return plans


def ways(gpus: int) -> list[tuple[str, Ranks]]:
    """Over all; on more than one node over a node's, with a copy on each; over none, as in DDP."""
    of_node = MACHINE.per_node
    if gpus > of_node and gpus % of_node:
        raise SystemExit(f"--gpus {gpus} fill no nodes of {of_node}; choose a multiple")
    found = [("all", Ranks(gpus))]
    found += [("node", Ranks(of_node, gpus // of_node))] if gpus > of_node else []
    return found + ([("copies", Ranks(1, gpus))] if gpus > 1 else [])


def _share(batch: int, gpus: int) -> int:
    if batch % gpus:
        raise SystemExit(f"--paper ={batch}: {gpus} GPUs do not share it evenly")
    return batch // gpus


def _plan(model: FlavaForPreTraining, shape: Shape, ranks: Ranks, *, spread: str, recompute: bool, name: str) -> Plan:
    of = {"recompute": recompute, "machine": MACHINE}
    sent = on_paper.collectives(model, "pair", shape.batch_size, ranks=ranks)
    pair = on_paper.step_of(model, shape, "pair", ranks=ranks, **of)
    mixture = on_paper.mixture_of(model, shape, ranks=ranks, **of)
    slow = on_paper.mixture_of(model, shape, ranks=ranks, **of | {"machine": SLOW})
    alone = on_paper.mixture_of(model, shape, ranks=Ranks(1), **of)
    return Plan(shape.size, spread, ranks, shape, recompute, sent, pair, mixture, slow, alone, name)


def told_of(plans: Sequence[Plan]) -> Iterator[str]:
    """The report's second half."""
    yield from ("## On paper: many GPUs", "", *NOTES, "")
    for name in dict.fromkeys(plan.name for plan in plans):
        yield from (f"### {name}", "", f"| {' | '.join(COLUMNS)} |", f"|--:|---|{'--:|' * (len(COLUMNS) - 3)}---|")
        yield from (*(row(plan) for plan in plans if plan.name == name), "")
    yield from (*ASSUMED, "")
    yield from ("| assumed | value | |", "|---|--:|---|")
    yield from (f"| {name} | {value:g} | {SOURCES[name]} |" for name, value in MACHINE._asdict().items())


COLUMNS = (
    "GPUs", "spread", "weights gathered, MB", "gradients reduced, MB", "over nodes' copies, MB", "embeddings, MB", "messages",
    "computing, ms", "sending, ms", "of it hops, ms", "step, ms", "samples/s", "efficiency", "with 100 Gb/s a node", "bound by",
)  # fmt: skip
NOTES = (
    "A step of pairs and, for samples/s and efficiency, the mixture of .70 pairs, .15 images and .15 texts, at 224 px with",
    f"captions of {LONGEST} tokens, texts of {Shape().text_length}, codes given, bf16. Efficiency is beside one GPU with as many",
    "rows. Bytes are those of one step of pairs, of the whole that is gathered or reduced; of W ranks each sends (W - 1) / W of",
    "it, or twice that where a sum goes to all. That they are what is sent is tested to the byte with two and four ranks",
    "(tests/benchmarks/test_on_paper.py). Times are an estimate, not measured: no run on more than one GPU was to be had.",
)
ASSUMED = (
    "Weights are gathered in bf16, for each use of a block once forward and once backward; the last blocks of image and text are",
    "used twice, for the clean and the masked view. The root (embeddings of words, heads) is gathered once and stays. Gradients",
    "are reduced in float32. Embeddings of all ranks are gathered in float32, and their gradients scattered back.",
    "Sending hides behind computing in forward, and likewise in backward. Waited for are the root's weights at the start, its",
    "gradients at the end, the embeddings both ways, the counts of labelled rows and the norm for clipping. Messages follow",
    "each other. Left out are codes, data and kernels too small to fill a GPU; memory is recipes/plan.py's.",
)


SOURCES = {
    "flops": "a second, dense bf16: NVIDIA's data sheet of the H100 SXM",
    "utilisation": "share of it that forward and backward reach: a guess, the same for any number of rows",
    "memory": "bytes a second, for AdamW's update: the same data sheet",
    "link": "bytes a second and direction, NVLink 4: half of the data sheet's 900 GB/s",
    "network": "bytes a second and direction of a GPU: a ConnectX-7 of 400 Gb/s for each (DGX H100)",
    "reached": "share of link and network that large messages reach: a guess",
    "per_node": "GPUs",
    "start": "seconds of any message: NCCL's own estimate (src/graph/tuning.cc, ring, protocol Simple), as the next two",
    "link_hop": "seconds from GPU to GPU by NVLink",
    "network_hop": "seconds from node to node",
}
"""Of the assumptions, by name."""


def row(plan: Plan) -> str:
    """Of the table."""
    sent, step = plan.sent, plan.pair
    found = [on_paper.total(sent, "all-gather", "weights"), on_paper.total(sent, "reduce-scatter", "gradients")]
    found += [on_paper.total(sent, "all-reduce", "gradients")]
    found += [on_paper.total(sent, verb, "embeddings") for verb in ("all-gather", "reduce-scatter")]
    *of_weights, there, back = (nbytes / 1e6 for nbytes in found)
    sizes = " | ".join(f"{size:,.0f}" for size in (*of_weights, there + back))
    times = " | ".join(f"{1e3 * s:,.0f}" for s in (step.compute, step.sent, step.hops, step.seconds))
    told = f"{plan.rate:,.0f} | {plan.efficiency:.0%} | {plan.alone / plan.slow:.0%} | {step.bound}"
    return f"| {plan.ranks.world} | {plan.spread} | {sizes} | {len(sent)} | {times} | {told} |"
