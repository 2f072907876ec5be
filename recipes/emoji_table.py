"""The table of recipes/emoji_scorecard.py: each number beside what the untrained model, pixels and guessing get."""

import json
from collections import Counter
from collections.abc import Iterator
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

from emoji_layouts import LEVELS
from emoji_pairs import ENTAILMENT, MATCHING
from results import find_results


class Columns(NamedTuple):
    """What results call the models."""

    trained: str
    drawn: str
    """The same model with weights as they are drawn."""
    pixels: str


class Line(NamedTuple):
    """A number that is asked for."""

    kind: str
    asked: str
    task: str
    metric: str
    guess: float
    """What one gets who knows how often each answer is right, and nothing else."""


_ZERO, _RETRIEVAL, _PROBE, _PAIRS, _TUNED = "zero-shot", "retrieval", "linear probe", "without training", "fine-tuned"


def table(out: Path, columns: Columns, head: str) -> str:
    """All that was measured, in Markdown; what was not run is left empty."""
    found = {(row.model, row.task, row.metric): row.value for row in find_results([out])}
    rows = [
        "| | what is asked | metric | model | untrained | pixels | guessing |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for line in lines(out / "data"):
        values = [found.get((model, line.task, line.metric)) for model in columns]
        if values != [None] * len(columns):
            told = [
                f"**{values[0]:.3f}**" if values[0] is not None else "",
                *("" if v is None else f"{v:.3f}" for v in values[1:]),
            ]
            rows.append(f"| {line.kind} | {line.asked} | {line.metric} | {' | '.join(told)} | {line.guess:.3f} |")
    return "\n".join([head, "", *rows, ""])


def lines(data: Path) -> Iterator[Line]:
    """What is asked, in the order of the table, with what guessing gets on these files."""
    num = len(_rows(data / "captions" / "emoji_names.jsonl"))
    for k, metric in ((1, "zero_shot_accuracy"), (5, "zero_shot_accuracy@5")):
        yield Line(_ZERO, f"which of {num:,} names", "emoji_names", metric, k / num)
    for level, task in LEVELS.items():
        counts = Counter(row["label"] for row in _rows(data / "labelled" / task / "test.jsonl"))
        share = counts.most_common(1)[0][1] / counts.total()
        yield Line(_ZERO, f"which of {len(counts)} {level}s", task, "zero_shot_accuracy", share)
    yield from _retrieval(data)
    for part, said in (("", "new style"), ("_new", "new style, new emoji")):
        for level, task in LEVELS.items():
            yield from _probes(data, f"{task}{part}", f"{level}; {said}")
    for task, said in (
        (f"{ENTAILMENT}_new", "entailment"),
        (f"{MATCHING}_any", "matching, any name"),
        (f"{MATCHING}_near", "matching, a name of the subgroup"),
    ):
        for metric in ("auroc", "auroc, by itm"):
            yield Line(_PAIRS, said, task, metric, 0.5)
    for task, metric, said in (
        (ENTAILMENT, "accuracy_dev", "entailment; emoji that were learnt from"),
        (ENTAILMENT, "accuracy", "entailment; new emoji"),
        (MATCHING, "accuracy_dev", "matching, any name; new emoji"),
        (MATCHING, "accuracy", "matching, a name of the subgroup; new emoji"),
    ):
        yield Line(_TUNED, said, task, metric, 0.5)


def _retrieval(data: Path) -> Iterator[Line]:
    said = {"emoji_names": "its name", "emoji_captions": "any of its captions", "emoji_keywords": "any of its keywords"}
    for task, texts in said.items():
        counts = Counter(row["image"] for row in _rows(data / "captions" / f"{task}.jsonl"))
        gallery = f"of {counts.total():,} for {len(counts):,} images"
        hows = ["", *(f", the first {k} by itm" for k in _reranked(data.parent, task))]
        for how in hows:
            for k in (1, 5):
                missed = sum(comb(counts.total() - own, k) for own in counts.values()) / len(counts)
                guess = 1 - missed / comb(counts.total(), k)
                yield Line(_RETRIEVAL, f"image to {texts}, {gallery}", task, f"tr@{k}{how}", guess)
                yield Line(_RETRIEVAL, f"{texts} to the image, {gallery}", task, f"ir@{k}{how}", k / len(counts))


def _reranked(out: Path, task: str) -> list[int]:
    """How many were put in order once more, of the results that are there."""
    found = out / f"retrieval-{task}" / "results.json"
    rows: list[dict[str, Any]] = json.loads(found.read_text()) if found.exists() else []
    return sorted({row["settings"]["rerank"] for row in rows if "rerank" in row["settings"]})


def _probes(data: Path, task: str, said: str) -> Iterator[Line]:
    """Accuracy beside the class that is learnt from most often, and the mean over the classes that are tested."""
    learnt, tested = (
        Counter(row["label"] for row in _rows(data / "labelled" / task / f"{split}.jsonl"))
        for split in ("train", "test")
    )
    commonest = max(sorted(learnt), key=learnt.__getitem__)
    yield Line(_PROBE, said, task, "accuracy", tested[commonest] / tested.total())
    yield Line(_PROBE, said, task, "mean_per_class", 1 / len(tested))


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
