"""What evaluations measured, kept where `recipes/scorecard.py` finds it: a `results.json` in the folder of each run.

The file is a list of rows, one for each task and metric: {"task", "metric", "value", "model", "made_by", "date", "settings"}.
Values are as computed, accuracy .75 and not 75. An evaluation that is run again replaces its own rows and leaves the others.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

FILE = "results.json"


class Measured(NamedTuple):
    """What one metric said about one task."""

    task: str
    """As `torchflava.evaluation.COLUMNS` calls it, such as "imagenet"; any other name for a task of one's own."""
    metric: str
    """The same, such as "accuracy" or "tr@1"."""
    value: float
    """As computed: of an accuracy the share, not per cent."""


@dataclass(frozen=True)
class Result:
    """A row of the file."""

    task: str
    metric: str
    value: float
    model: str
    """What the scorecard calls its column."""
    made_by: str
    """The recipe."""
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    """ISO 8601, of the moment it was measured."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What someone needs to measure it again: JSON values."""


def write_results(
    folder: Path | str,
    measured: Sequence[Measured],
    *,
    model: str,
    made_by: str,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Put rows into the folder's file, in place of those of the same model, task and metric; the file is whole at any time.

    Call it on one rank.

    Raises:
        ValueError: for no row, a value that is not finite, or a file that is not one of results.
    """
    if not measured:
        raise ValueError("there is nothing to write; give a row at least")
    for row in measured:
        if not math.isfinite(row.value):
            raise ValueError(f"{row.task}, {row.metric}: the value {row.value} is not a number to be compared")
    rows = [Result(*row, model=model, made_by=made_by, settings=dict(settings or {})) for row in measured]
    file = Path(folder) / FILE
    new = {_key(row) for row in rows}
    kept = [row for row in read_results(file) if _key(row) not in new] if file.exists() else []
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".part")
    beside.write_text(json.dumps([asdict(row) for row in (*kept, *rows)], indent=1) + "\n")
    beside.replace(file)
    return file


def read_results(file: Path) -> list[Result]:
    """The rows of a file.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    try:
        rows = [Result(**row) for row in json.loads(file.read_text())]
        for row in rows:
            if not math.isfinite(row.value):
                raise ValueError(f"the value of {row.task} is {row.value}")
            if datetime.fromisoformat(row.date).tzinfo is None:
                raise ValueError(f"the date {row.date} has no time zone")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is not a file of results: {error}; measure again, or take it away") from error
    return rows


def name_of(model: Path) -> str:
    """What results call a model unless told otherwise: its folder, or its file; a file that is called "model" by its folder."""
    if model.is_dir():
        return model.resolve().name
    return model.resolve().parent.name if model.name.startswith(("model.", "pytorch_model.")) else model.stem


def find_results(folders: Sequence[Path]) -> list[Result]:
    """All rows in and below folders; of those of the same model, task and metric the newest.

    Raises:
        ValueError: for a folder that is not there, or a file that is not one of results.
    """
    newest: dict[tuple[str, str, str], Result] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; give those that evaluations wrote to")
        for file in sorted(folder.rglob(FILE)):
            for row in read_results(file):
                before = newest.get(_key(row))
                if before is None or datetime.fromisoformat(before.date) < datetime.fromisoformat(row.date):
                    newest[_key(row)] = row
    return list(newest.values())


def _key(row: Result) -> tuple[str, str, str]:
    return row.model, row.task, row.metric
