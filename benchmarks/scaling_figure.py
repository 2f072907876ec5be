"""The figure of `scaling.py`: time over memory for each sweep, and many GPUs on paper below."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

if TYPE_CHECKING:
    from scaling import Found
    from scaling_paper import Plan

TITLES = {
    "batch": "Batch",
    "text": "Texts",
    "image": "Images",
    "weak": "Ranks, as many pairs each",
    "strong": "Ranks that share the pairs",
}
_WAYS = {"all": ("C0", "o"), "node": ("C1", "s"), "copies": ("C2", "^")}


def draw(found: Sequence["Found"], plans: Sequence["Plan"]) -> Any:
    """A figure of all that was measured and put on paper."""
    sweeps = list(dict.fromkeys(one.point.sweep for one in found))
    figure = plt.figure(figsize=(max(12, 3.9 * len(sweeps)), 12.5), layout="constrained")
    measured, paper = figure.subfigures(2, 1, height_ratios=(1.9, 1)) if sweeps else (None, figure)
    if measured is not None:
        measured.suptitle("Measured: the processor's time and the memory of a step", fontsize=13)
        grid = measured.subplots(2, len(sweeps), squeeze=False)
        for (above, below), sweep in zip(grid.T, sweeps, strict=True):
            of_sweep = [one for one in found if one.point.sweep == sweep]
            _time(above, of_sweep)
            _memory(below, of_sweep)
            above.set_title(TITLES[sweep], loc="left", fontsize=11)
        grid[0, 0].legend(frameon=False, fontsize=8.5)
    paper.suptitle("On paper, not measured: H100 with 400 Gb/s a GPU, the mixture's samples", fontsize=13)
    _paper(paper, plans)
    return figure


def _time(axes: Any, of_sweep: Sequence["Found"]) -> None:
    """Seconds a sample, beside the operations at the rate of the fastest point: they meet where time follows operations."""
    x, each = [one.point.x for one in of_sweep], [one.each for one in of_sweep]
    spread = [[took / one.point.samples for took in one.seconds] for one in of_sweep]
    below = [one - min(took) for one, took in zip(each, spread, strict=True)]
    above = [max(took) - one for one, took in zip(each, spread, strict=True)]
    rate = max(one.flops / one.each for one in of_sweep)
    axes.errorbar(x, each, yerr=[below, above], color="C0", marker="o", markersize=4, capsize=2, label="seconds")
    axes.plot(
        x, [one.flops / rate for one in of_sweep], "--", color="0.45", label="operations at the best point's rate"
    )
    axes.set_ylabel("seconds a sample")
    _finish(axes, x, of_sweep[0].point.sweep)


def _memory(axes: Any, of_sweep: Sequence["Found"]) -> None:
    x = [one.point.x for one in of_sweep]
    axes.plot(x, [one.memory for one in of_sweep], color="C3", marker="o", markersize=4)
    axes.set_ylabel("MB of a step, a rank")
    _finish(axes, x, of_sweep[0].point.sweep)


def _finish(axes: Any, x: Sequence[int], sweep: str) -> None:
    from scaling import X_OF

    if sweep != "image":
        axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(x, [str(at) for at in x])
    axes.set_xlabel(X_OF[sweep])
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _paper(figure: Any, plans: Sequence["Plan"]) -> None:
    """Efficiency against GPUs, of each model, and what a step of pairs is made of on the most GPUs."""
    names = list(dict.fromkeys(plan.name for plan in plans))
    for panels, name in zip(figure.subplots(1, 2 * len(names), squeeze=False).reshape(-1, 2), names, strict=True):
        of_model = [plan for plan in plans if plan.name == name]
        _efficiency(panels[0], of_model, told=name == names[0])
        panels[0].set_title(name, loc="left", fontsize=10)
        most = max(plan.ranks.world for plan in of_model)
        _parts(panels[1], [plan for plan in of_model if plan.ranks.world == most], told=name == names[0])
        panels[1].set_title(f"A step of pairs on {most} GPUs", loc="left", fontsize=10)


def _efficiency(axes: Any, plans: Sequence["Plan"], *, told: bool) -> None:
    """Numbers of GPUs stand side by side; up to a node, a copy a node is what spreading over all is."""
    gpus = sorted({plan.ranks.world for plan in plans})
    of_node = {plan.ranks.world for plan in plans if plan.spread == "node"}
    for spread, (colour, marker) in _WAYS.items():
        same = {1} if spread == "copies" else set(gpus) - of_node
        of_way = [
            plan for plan in plans if plan.spread == spread or (plan.spread == "all" and plan.ranks.world in same)
        ]
        x = [gpus.index(plan.ranks.world) for plan in of_way]
        axes.plot(x, [plan.efficiency for plan in of_way], color=colour, marker=marker, markersize=5, label=spread)
        axes.plot(x, [plan.alone / plan.slow for plan in of_way], ":", color=colour, marker=marker, markersize=3)
    axes.plot([], [], ":", color="0.3", label="with 100 Gb/s a node")
    axes.set_xticks(range(len(gpus)), [str(number) for number in gpus])
    axes.set_xlabel("GPUs")
    axes.set_ylabel("share of what a GPU does alone")
    axes.set_ylim(0, 1.15)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if told:
        axes.legend(frameon=False, fontsize=8, title="--spread", title_fontsize=8)


def _parts(axes: Any, plans: Sequence["Plan"], *, told: bool) -> None:
    """Bars beside each other: computing, sending by what takes its time, and the step, in which the first two overlap."""
    at = range(len(plans))
    steps = [plan.pair for plan in plans]
    rows = {
        "computing": [step.compute for step in steps],
        "sending, bytes": [step.sent - step.hops for step in steps],
        "sending, hops": [step.hops for step in steps],
        "the step": [step.seconds for step in steps],
    }
    for number, (label, values) in enumerate(rows.items()):
        colour = ("0.6", "C4", "C5", "0.15")[number]
        axes.bar(
            [place + 0.2 * number - 0.3 for place in at], [1e3 * v for v in values], 0.18, color=colour, label=label
        )
    axes.set_xticks(list(at), [plan.spread for plan in plans])
    axes.set_xlabel("--spread")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.set_ylabel("milliseconds")
    axes.spines[["top", "right"]].set_visible(False)
    if told:
        axes.legend(frameon=False, fontsize=8)
