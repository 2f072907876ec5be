"""GLUE's eight tasks (Wang et al. 2019; without WNLI, as the paper), from GLUE's own archives or the hub's `nyu-mll/glue`.

Both layouts are read as they are; classes are numbered as the hub has them. Labels of the test splits are not public: numbers are
those of the dev splits (paper, table 4).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torchflava.tasks.examples import Example, TuningTask, class_number
from torchflava.tasks.places import MissingData
from torchflava.tasks.rows import Row, cell, score, table_rows, tsv_rows

_MOST = 5.0  # STS-B's highest score
_TORN = 1e-3  # of QQP's train.tsv a dozen lines of 363,000 lack cells; they have always been left out


class _Spec(NamedTuple):
    """A task, in both layouts."""

    folder: str
    """Of GLUE's archive; the hub's is the task's name."""
    texts: tuple[str, ...]
    """Columns of the one text or the two in GLUE's files."""
    hub_texts: tuple[str, ...]
    """The same in the hub's."""
    label: str
    """GLUE's column."""
    classes: tuple[str, ...]
    """As files have them where they say it in words; none for a score."""
    metrics: tuple[str, ...] = ("accuracy",)
    in_words: bool = False
    """Whether GLUE's files name classes, and not their numbers."""
    columns: tuple[str, ...] = ()
    """Of GLUE's files where they have no head."""
    dev: Mapping[str, str] = {"dev": "validation"}
    """Splits to measure on: GLUE's name, the hub's."""
    torn: float = 0.0


_NLI = ("entailment", "not_entailment")
_PAIR = ("sentence1", "sentence2")
_SAME = ("not equivalent", "equivalent")
_F1 = ("accuracy_and_f1", "accuracy", "f1")

_TABLE = {
    "cola": _Spec(
        "CoLA", ("sentence",), ("sentence",), "label", ("unacceptable", "acceptable"), ("matthews", "accuracy"),
        columns=("source", "label", "mark", "sentence"),
    ),
    "sst2": _Spec("SST-2", ("sentence",), ("sentence",), "label", ("negative", "positive")),
    "mrpc": _Spec("MRPC", ("#1 String", "#2 String"), _PAIR, "Quality", _SAME, _F1),
    "qqp": _Spec(
        "QQP", ("question1", "question2"), ("question1", "question2"), "is_duplicate", ("not duplicate", "duplicate"), _F1,
        torn=_TORN,
    ),
    "stsb": _Spec("STS-B", _PAIR, _PAIR, "score", (), ("pearson", "spearman")),
    "mnli": _Spec(
        "MNLI", _PAIR, ("premise", "hypothesis"), "gold_label", ("entailment", "neutral", "contradiction"), in_words=True,
        dev={"dev_matched": "validation_matched", "dev_mismatched": "validation_mismatched"},
    ),
    "qnli": _Spec("QNLI", ("question", "sentence"), ("question", "sentence"), "label", _NLI, in_words=True),
    "rte": _Spec("RTE", _PAIR, _PAIR, "label", _NLI, in_words=True),
}  # fmt: skip
GLUE = tuple(_TABLE)
"""The names of the eight."""
_SPLITS = {"dev_matched": "matched", "dev_mismatched": "mismatched"}


def glue_task(name: str, folder: Path) -> TuningTask:
    """A task of GLUE.

    Args:
        name: in `GLUE`.
        folder: holds `CoLA/train.tsv` and its like, `cola/train-00000-of-00001.parquet` and its like, or
            `cola/train/data-00000-of-00001.arrow` and its like.

    Raises:
        MissingData: naming the file that is missing, where it comes from and where to put it.
        ImportError: if pyarrow is needed and is not there.
        ValueError: naming the row that is not as it should be.
    """
    spec = _TABLE[name]
    train = _examples(name, folder, "train", "train")
    measured = {_SPLITS.get(own, own): _examples(name, folder, own, hub) for own, hub in spec.dev.items()}
    kind, classes = ("class", spec.classes) if spec.classes else ("score", ("score",))
    return TuningTask(name, "text", kind, classes, spec.metrics, train, measured, next(iter(measured)), {})  # type: ignore[arg-type]


def _examples(name: str, folder: Path, split: str, hub_split: str) -> list[Example]:
    """A split, from whichever layout is there."""
    spec = _TABLE[name]
    own = folder / spec.folder / f"{split}.tsv"
    if own.is_file():
        rows = tsv_rows(own, spec.columns, most_torn=spec.torn)
        return [_of_own(spec, row) for row in rows]
    found = sorted((folder / name).glob(f"{hub_split}-*.parquet")) or sorted(
        (folder / name / hub_split).glob("*.arrow")
    )
    if not found:
        raise MissingData(
            f"{name}: there is no {own}; it comes from {spec.folder}.zip of gluebenchmark.com/tasks. Or put the folder {name} of "
            f"huggingface.co/datasets/nyu-mll/glue into {folder}, with its {hub_split}-*.parquet: see docs/finetuning.md"
        )
    return [_of_hub(spec, row) for row in table_rows(found)]


def _of_own(spec: _Spec, row: Row) -> Example:
    told = str(row.cells.get(spec.label))
    names = spec.classes if spec.in_words else tuple(str(number) for number in range(len(spec.classes)))
    target = class_number(told, names, row.key) if spec.classes else score(told, row.key, _MOST)
    return _example(row, spec.texts, target)


def _of_hub(spec: _Spec, row: Row) -> Example:
    told = row.cells.get("label")
    if not spec.classes:
        return _example(row, spec.hub_texts, score(told, row.key, _MOST))
    if not isinstance(told, int) or not 0 <= told < len(spec.classes):
        raise ValueError(f"{row.key} has the label {told!r}; a number from 0 to {len(spec.classes) - 1} is due")
    return _example(row, spec.hub_texts, told)


def _example(row: Row, columns: Sequence[str], target: int | float) -> Example:
    first, *second = (cell(row, name, blank=True) for name in columns)  # a few of QQP's questions are
    return Example(row.key, first, second[0] if second else None, None, target)
