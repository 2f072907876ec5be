"""The half of `scaling.py` that is on paper: sizes and numbers of GPUs, each with its ways of spreading, and the table."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import on_paper
from drawn import LONGEST, Shape
from on_paper import Collective, Machine, Ranks, Step

from torchflava.models import SIZES

MACHINE = Machine()
SLOW = MACHINE._replace(network=100e9 / 8 / MACHINE.per_node)
"""One port of 100 Gb/s for the whole node."""


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

    @property
    def rate(self) -> float:
        """Samples a second of the mixture, of all GPUs."""
        return self.ranks.world * self.shape.batch_size / self.mixture

    @property
    def efficiency(self) -> float:
        """What a GPU does of what it would alone."""
        return self.alone / self.mixture

    @property
    def name(self) -> str:
        """Of the model and its rows."""
        return f"{self.size}, {self.shape.batch_size} rows a GPU" + (", recomputed" if self.recompute else "")


def planned(asked: Sequence[str], gpus: Sequence[int]) -> list[Plan]:
    """Each `size:rows` or `size:rows:recompute` on each number of GPUs, spread in each way that differs.

    Raises:
        SystemExit: for words of another form, for an unknown size, and for GPUs that fill no nodes.
    """
    plans = []
    for words in asked:
        form = re.fullmatch(r"([^:]+):([1-9]\d*)(:recompute)?", words)
        if form is None or form[1] not in SIZES:
            raise SystemExit(f"--paper {words}: say size:rows or size:rows:recompute, a size of {', '.join(SIZES)}")
        size, rows, recompute = form[1], int(form[2]), form[3] is not None
        model, shape = on_paper.on_meta(size), Shape(size, batch_size=rows)
        of = {"machine": MACHINE, "recompute": recompute}
        alone = on_paper.mixture_of(model, shape, ranks=Ranks(1), **of)
        for spread, ranks in (way for number in gpus for way in ways(number)):
            sent = on_paper.collectives(model, "pair", shape.batch_size, ranks=ranks)
            pair = on_paper.step_of(model, shape, "pair", ranks=ranks, **of)
            mixture = on_paper.mixture_of(model, shape, ranks=ranks, **of)
            slow = on_paper.mixture_of(model, shape, ranks=ranks, **of | {"machine": SLOW})
            plans.append(Plan(size, spread, ranks, shape, recompute, sent, pair, mixture, slow, alone))
    return plans


def ways(gpus: int) -> list[tuple[str, Ranks]]:
    """Over all; on more than one node over a node's, with a copy on each; over none, as in DDP."""
    of_node = MACHINE.per_node
    if gpus > of_node and gpus % of_node:
        raise SystemExit(f"--gpus {gpus} fill no nodes of {of_node}; choose a multiple")
    found = [("all", Ranks(gpus))]
    found += [("node", Ranks(of_node, gpus // of_node))] if gpus > of_node else []
    return found + ([("copies", Ranks(1, gpus))] if gpus > 1 else [])


def told_of(plans: Sequence[Plan]) -> Iterator[str]:
    """The report's second half."""
    yield from ("## On paper: many GPUs", "", *NOTES, "")
    for name in dict.fromkeys(plan.name for plan in plans):
        yield from (f"### {name}", "", f"| {' | '.join(COLUMNS)} |", f"|--:|---|{'--:|' * (len(COLUMNS) - 3)}---|")
        yield from (*(row(plan) for plan in plans if plan.name == name), "")
    yield from (*ASSUMED, "")
    defaults = Machine()._asdict()
    yield from ("| assumed | value |", "|---|--:|", *(f"| {name} | {value:g} |" for name, value in defaults.items()))


COLUMNS = (
    "GPUs", "spread", "weights gathered, MB", "gradients reduced, MB", "over nodes' copies, MB", "embeddings, MB", "messages",
    "computing, ms", "sending, ms", "of it hops, ms", "step, ms", "samples/s", "efficiency", "with 100 Gb/s a node", "bound by",
)  # fmt: skip
NOTES = (
    "A step of pairs and, for samples/s and efficiency, the mixture of .70 pairs, .15 images and .15 texts, at 224 px with",
    f"captions of {LONGEST} tokens, texts of {Shape().text_length}, codes given, bf16. The batch grows with the GPUs.",
    "Bytes are those of one step of pairs, of the whole that is gathered or reduced; of W ranks each sends (W - 1) / W of it,",
    "or twice that where a sum goes to all. That they are what is sent is tested to the byte with two and four ranks",
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
