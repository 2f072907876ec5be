"""A search over learning rates and batch sizes, as RoBERTa's on GLUE (Liu et al. 2019, §5): each is a run, the best counts."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

from folders import find_folder
from tuning_measure import MEASURED, write_rows
from tuning_settings import Tuning
from tuning_start import open_task, settled, told_of
from tuning_steps import tune

from torchflava.evaluation import Reading
from torchflava.tasks.examples import TuningTask
from torchflava.training import Run, StopSignals, together


def search(config: Tuning, run: Run, stop: StopSignals) -> None:
    """Run all settings one after the other, those that are done already not again, and write the best one's results."""
    folder, _ = run.agree(find_folder(config) if run.leads else None)
    task = open_task(config)
    by = task.chosen_by if config.select == "auto" else config.select
    found: dict[Tuning, list[Reading]] = {}
    for point in points(config, folder):
        done = _done_by(point, task, folder / point.name, run=run)
        found[point] = [Reading(*row) for row in done] if done else tune(point, run, stop)
    value = {point: next(r.value for r in readings if r.name == by) for point, readings in found.items()}
    best = max(value, key=lambda point: value[point])
    if run.leads:
        rows = [
            {"run": p.name, "lr": p.lr, "batch_size": p.batch_size, by: v, "best": p is best} for p, v in value.items()
        ]
        (folder / "search.json").write_text(json.dumps(rows, indent=1))
        write_rows(best, task, found[best], folder)
        told = "\n".join(f"| {p.name} | {v:.4f}{' (best)' if p is best else ''} |" for p, v in value.items())
        print(f"| run | {by} |\n|---|---|\n{told}\nthe best is in {folder / best.name}", flush=True)


def points(config: Tuning, folder: Path) -> Iterator[Tuning]:
    """The settings of each run; their folders lie in the search's."""
    for lr, batch_size in product(config.search_lr, config.search_batch):
        of_point = {"lr": lr, "batch_size": batch_size, "name": f"lr{lr:g}-batch{batch_size}"}
        yield replace(config, **of_point, folder=str(folder), search=False, within_search=True)


def _done_by(point: Tuning, task: TuningTask, folder: Path, *, run: Run) -> list[list[object]]:
    """As `_done`, which the first rank asks for all."""
    return together(lambda: _done(point, task, folder) if run.leads else [])[0]


def _done(point: Tuning, task: TuningTask, folder: Path) -> list[list[object]]:
    """What a run measured at its end; nothing if it has not come to it.

    Raises:
        ValueError: if it had other settings, or another model or other examples to begin with.
    """
    file = folder / MEASURED
    if not file.exists():
        return []
    told, had = told_of(settled(point, task), task), json.loads((folder / "data.json").read_text())
    if other := [name for name, value in told.items() if had.get(name) != value]:
        raise ValueError(
            f"{folder} was searched with another {', '.join(other)}; choose another --name, or take it away"
        )
    return [[row["name"], row["value"], row["chance"]] for row in json.loads(file.read_text())]
