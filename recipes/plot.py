"""Figures from the logs of one or several runs: `python recipes/plot.py RUN [RUN ...] --out figure.png`.

Losses by kind of batch, what was measured on the way, learning rate, gradients, speed; one run beside the other in each panel.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import matplotlib
import tyro

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

_COLUMNS = 3
_MOST = 6  # lines that can be told apart in a panel
_OF_STEP = {
    "step/lr": ("Learning rate", "learning rate"),
    "step/grad_norm": ("Gradients before clipping", "norm"),
    "step/samples_per_s": ("Speed", "samples / s"),
    "step/data_wait": ("Time waited for data", "share of the time"),
    "step/mfu": ("Utilisation of the device", "share of its peak"),
    "step/peak_memory_gb": ("Peak memory", "GB"),
    "step/loss_scale": ("Scale of the loss (fp16)", "factor"),
    "step/left_out": ("Steps left out", "steps so far"),
}
"""What is drawn of each step's own values: the panel's title and its axis."""


@dataclass(frozen=True)
class Plot:
    """Draw the logs of runs side by side."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of runs, or their log.jsonl."""
    out: Path = Path("figure.png")
    """The figure: .png, .pdf or .svg."""
    names: tuple[str, ...] = ()
    """What the runs are called in the figure; their folders' names, unless given."""
    smooth: int = 1
    """Records that each point of a loss is the mean of; where it is above 1, all points stand behind, faintly."""


class Curve(NamedTuple):
    """One value over a run."""

    steps: list[int]
    values: list[float]


Curves = dict[str, Curve]


def main(words: Sequence[str]) -> None:
    """Read the logs and write the figure."""
    asked = tyro.cli(Plot, args=list(words), prog="plot.py")
    complaint = _complaint(asked)
    if complaint:
        sys.exit(f"plot.py: {complaint}")
    names = asked.names or _names(asked.runs)
    try:
        runs = dict(zip(names, (curves(log_of(run)) for run in asked.runs), strict=True))
    except ValueError as error:
        sys.exit(f"plot.py: {error}")
    figure = draw(runs, smooth=asked.smooth)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(asked.out, dpi=110)
    plt.close(figure)
    print(f"{asked.out}: {', '.join(names)}")


def curves(log: Path) -> Curves:
    """All values of a run's log, by name.

    Raises:
        ValueError: if there is no such log, or nothing in it, or a line of it is no record.
    """
    if not log.is_file():
        raise ValueError(f"{log} is not there; name the folder of a run, which holds its log.jsonl")
    found: Curves = {}
    lines = log.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            step = record.pop("step")
        except (ValueError, KeyError, AttributeError) as error:
            if number == len(lines):
                continue  # a run that writes this very moment, or was killed while it did
            raise ValueError(f"{log}, line {number} is no record of a run") from error
        for name, value in record.items():
            curve = found.setdefault(name, Curve([], []))
            curve.steps.append(step)
            curve.values.append(value)
    if not found:
        raise ValueError(f"{log} holds no record yet")
    return found


def draw(runs: Mapping[str, Curves], *, smooth: int = 1) -> Any:
    """A figure of all panels that the runs have values for."""
    panels = panels_of(runs)
    rows = math.ceil(len(panels) / _COLUMNS)
    figure = plt.figure(figsize=(15, 3.1 * rows + 0.7), layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False).flatten()
    for axes, (title, (unit, parts)) in zip(grid, panels.items(), strict=False):
        for at, found in enumerate(runs.values()):
            for line, (label, name) in enumerate(parts.items()):
                if name in found:
                    told = label if len(runs) == 1 else None
                    over = smooth if not name.startswith(("step/", "measured/")) else 1
                    _line(axes, found[name], f"C{line if len(runs) == 1 else at}", label=told, smooth=over)
        _finish(axes, title, unit)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    if len(runs) == 1:
        figure.suptitle(next(iter(runs)))
    else:
        lines = [plt.Line2D([], [], color=f"C{at}", label=run) for at, run in enumerate(runs)]
        figure.legend(handles=lines, loc="outside upper center", ncols=min(4, len(runs)), frameon=False)
    return figure


def panels_of(runs: Mapping[str, Curves]) -> dict[str, tuple[str, dict[str, str]]]:
    """Title -> unit, and the lines of the panel: label -> name in the log; of several runs, one line a run in each."""
    names = sorted({name for found in runs.values() for name in found})
    panels: dict[str, tuple[str, dict[str, str]]] = {}
    for kind in sorted({name.split("/")[0] for name in names} - {"step", "measured"}):
        for name in (name for name in names if name.startswith(f"{kind}/")):
            short = name.split("/", 1)[1]
            panels[f"{short} ({kind} batches)"] = ("nats, mean over labelled rows", {short: name})
    measured = [name.split("/", 1)[1] for name in names if name.startswith("measured/")]
    for title, unit, wanted in (
        ("Held-out losses", "nats", [name for name in measured if name.endswith(" loss")]),
        ("Held-out readings", "share, or area under curve", [n for n in measured if not n.endswith(" loss")]),
    ):
        if len(runs) > 1:
            panels |= {f"{name}, held out": (unit, {name: f"measured/{name}"}) for name in wanted}
            continue
        for part in range(0, len(wanted), _MOST):
            chosen = {name: f"measured/{name}" for name in wanted[part : part + _MOST]}
            number = f" {part // _MOST + 1}" if len(wanted) > _MOST else ""
            panels[f"{title}{number}"] = (unit, chosen)
    return panels | {title: (unit, {title: name}) for name, (title, unit) in _OF_STEP.items() if name in names}


def log_of(run: Path) -> Path:
    """The log of a run that is named by its folder, or by the log itself."""
    return run if run.suffix == ".jsonl" else run / "log.jsonl"


def _line(axes: Any, curve: Curve, colour: str, *, label: str | None, smooth: int) -> None:
    marker = "o" if len(curve.steps) < 15 else None
    if smooth > 1:
        axes.plot(curve.steps, curve.values, color=colour, linewidth=0.6, alpha=0.3)
        curve = Curve(curve.steps, _running_mean(curve.values, smooth))
    axes.plot(curve.steps, curve.values, color=colour, linewidth=1.4, marker=marker, markersize=3, label=label)


def _running_mean(values: Sequence[float], over: int) -> list[float]:
    """The mean of each value and those before it, `over` in all, fewer at the beginning."""
    return [sum(part) / len(part) for at in range(len(values)) for part in [values[max(0, at + 1 - over) : at + 1]]]


def _finish(axes: Any, title: str, unit: str) -> None:
    axes.set_title(title, loc="left", fontsize=11 if len(title) < 38 else 8.5)
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    _, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.22), ncols=1 + (len(labels) > 3))


def _names(runs: Sequence[Path]) -> tuple[str, ...]:
    """The folders' names, with as much of the path before them as tells them apart."""
    folders = [log_of(run).resolve().parent for run in runs]
    for parts in range(1, 8):
        names = tuple("/".join(folder.parts[-parts:]) for folder in folders)
        if len(set(names)) == len(names):
            break
    return names


def _complaint(asked: Plot) -> str:
    if not asked.runs:
        return "name a run's folder, or several"
    if len({log_of(run).resolve() for run in asked.runs}) < len(asked.runs):
        return "a run is named twice"
    if asked.names and len(set(asked.names)) != len(asked.runs):
        return f"--names are {len(set(asked.names))} different ones for {len(asked.runs)} runs; give one for each"
    if asked.smooth < 1:
        return f"--smooth {asked.smooth} must be 1 or more"
    if asked.out.suffix not in (".png", ".pdf", ".svg"):
        return f"--out {asked.out} must end in .png, .pdf or .svg"
    return ""


if __name__ == "__main__":
    main(sys.argv[1:])
