"""One table of the paper's 35 tasks: `python recipes/scorecard.py runs/*/ --out runs/scorecard`.

Collects every `results.json` in and below the folders, sets the models beside the paper's own rows, and writes scorecard.md,
scorecard.csv and scorecard.png. What was not measured stays empty, and so does an average that it belongs to; a number from a
part of a task's data is told by itself.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib
import tyro
from results import Result, find_results

from torchflava.evaluation import AVERAGES, COLUMNS, PUBLISHED, Row, as_csv, as_markdown, effects, shown_averages

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

_OF_COLUMNS = {column.key for column in COLUMNS}
_MARKS = "osD^vP*X<>hpd"


@dataclass(frozen=True)
class Scorecard:
    """Set what was measured beside what was published."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Of evaluations, searched with all that lies in them; none for the paper's rows alone."""
    out: Path = Path("runs/scorecard")
    """The folder of the table and the figure."""
    beside: tuple[str, ...] = tuple(row.name for row in PUBLISHED)
    """Rows of the paper to show."""


def main(words: Sequence[str]) -> None:
    """Print the table, and write it and the figure."""
    asked = tyro.cli(Scorecard, args=list(words), prog="scorecard.py")
    try:
        found = find_results(asked.folders)
        rows = [*rows_of(found), *published(asked.beside)]
    except ValueError as error:
        sys.exit(f"scorecard.py: {error}")
    if asked.folders and not found:
        sys.exit(f"scorecard.py: no results.json in {', '.join(map(str, asked.folders))}; run an evaluation first")
    if not rows:
        sys.exit("scorecard.py: there is nothing to show; give folders, or rows --beside them")
    told = "\n".join(part for part in (as_markdown(rows), effects(rows), others(found)) if part)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "scorecard.md").write_text(told)
    (asked.out / "scorecard.csv").write_text(as_csv(rows))
    drawn = figure(rows)
    drawn.savefig(asked.out / "scorecard.png", dpi=90)
    plt.close(drawn)
    print(f"{told}\nIn {asked.out}: scorecard.md, scorecard.csv, scorecard.png.")


def rows_of(found: Sequence[Result]) -> list[Row]:
    """A row for each model that was measured, with what of it the scorecard has columns for, in per cent."""
    rows = []
    for model in dict.fromkeys(result.model for result in found):
        own = [result for result in found if result.model == model]
        cells = {(one.task, one.metric): 100 * one.value for one in own if _compares(one)}
        made_by, dates = sorted({one.made_by for one in own}), sorted(one.date[:10] for one in own)
        when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
        rows.append(Row(model, cells, {}, f"measured by {', '.join(made_by)}, {when}"))
    return rows


def published(names: Sequence[str]) -> list[Row]:
    """The paper's rows of these names, in the paper's order.

    Raises:
        ValueError: for a name that the paper has no row of.
    """
    known = {row.name for row in PUBLISHED}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"the paper has no row {', '.join(map(repr, unknown))}; it has {', '.join(map(repr, sorted(known)))}"
        )
    return [row for row in PUBLISHED if row.name in names]


def others(found: Sequence[Result]) -> str:
    """A table of what was measured and has no column, or on a part of the data, as it was measured; empty if nothing."""
    rest = [result for result in found if not _compares(result)]
    if not rest:
        return ""
    lines = [f"| {one.task}{_part(one)} | {one.metric} | {one.model} | {one.value:.4f} |" for one in rest]
    return "\n".join(
        ["Beside the 35 tasks:", "", "| task | metric | model | value |", "|---|---|---|---:|", *lines, ""]
    )


def _compares(result: Result) -> bool:
    """Whether it may stand beside the paper's."""
    return (result.task, result.metric) in _OF_COLUMNS and not _part(result)


def _part(result: Result) -> str:
    return "" if result.settings.get("whole", True) else ", a part of its data"


def figure(rows: Sequence[Row]) -> Figure:
    """A panel for each domain and one for the averages, a line for each task, a mark for each model."""
    panels = [[column for column in COLUMNS if column.domain == domain] for domain in AVERAGES[:3]]
    titles = [*([column.title for column in panel] for panel in panels), [f"{name} average" for name in AVERAGES]]
    shown = [shown_averages(row) for row in rows]
    numbers = [
        *([[row.cells.get(column.key) for column in panel] for row in rows] for panel in panels),
        [[own.get(name) for name in AVERAGES] for own in shown],
    ]
    drawn, axes = plt.subplots(2, 2, figsize=(15, 11), layout="constrained")
    for axis, ticks, series in zip(axes.flat, titles, numbers, strict=True):
        for at, (row, values) in enumerate(zip(rows, series, strict=True)):
            there = [(value, place) for place, value in enumerate(values) if value is not None]
            mark, colour = _MARKS[at % len(_MARKS)], plt.get_cmap("tab20")(at % 20)
            axis.plot(*zip(*there, strict=True) if there else ([], []), mark, color=colour, label=row.name, alpha=0.8)
        axis.set_yticks(range(len(ticks)), ticks)
        axis.invert_yaxis()
        axis.set_xlim(0, 100)
        axis.set_xlabel("per cent")
        axis.grid(alpha=0.3)
    lines, names = axes.flat[0].get_legend_handles_labels()
    drawn.legend(lines, names, loc="outside lower center", ncols=6)
    return drawn


if __name__ == "__main__":
    main(sys.argv[1:])
