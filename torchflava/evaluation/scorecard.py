"""The paper's 35 tasks as 41 columns, its averages, and models beside each other (paper §4.2, tables 3 to 5)."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

Domain = Literal["vision", "nlp", "multimodal"]
Key = tuple[str, str]
"""A task and a metric."""
AVERAGES = ("vision", "nlp", "multimodal", "macro")


class Column(NamedTuple):
    """One number of the paper's average."""

    task: str
    metric: str
    title: str
    domain: Domain

    @property
    def key(self) -> Key:
        """By which cells are found."""
        return self.task, self.metric


class Row(NamedTuple):
    """A model's numbers."""

    name: str
    cells: Mapping[Key, float]
    """Per cent; what was not measured is not there."""
    printed: Mapping[str, float]
    """Averages of AVERAGES that a paper prints; they are shown in place of what the cells give."""
    source: str
    """Where the numbers stand, or who measured them."""


_ACCURACY = {
    "imagenet": "ImageNet", "food101": "Food101", "cifar10": "CIFAR10", "cifar100": "CIFAR100", "cars": "Cars",
    "aircraft": "Aircraft", "dtd": "DTD", "pets": "Pets", "caltech101": "Caltech101", "flowers102": "Flowers102",
    "mnist": "MNIST", "stl10": "STL10", "eurosat": "EuroSAT", "gtsrb": "GTSRB", "kitti": "KITTI", "pcam": "PCAM",
    "ucf101": "UCF101", "clevr": "CLEVR", "fer2013": "FER 2013", "sun397": "SUN397", "sst": "SST (image)",
    "country211": "Country211",
}  # fmt: skip
_PER_CLASS = ("aircraft", "pets", "caltech101", "flowers102")
"""Radford et al. 2021, table 9."""
_GLUE = (
    ("mnli", "accuracy", "MNLI"), ("cola", "matthews", "CoLA"), ("mrpc", "accuracy_and_f1", "MRPC"),
    ("qqp", "accuracy_and_f1", "QQP"), ("sst2", "accuracy", "SST-2"), ("qnli", "accuracy", "QNLI"),
    ("rte", "accuracy", "RTE"), ("stsb", "pearson", "STS-B"),
)  # fmt: skip
_REASONING = (
    ("vqav2", "vqa_accuracy", "VQAv2"),
    ("snli_ve", "accuracy", "SNLI-VE"),
    ("hateful_memes", "auroc", "Hateful Memes"),
)
_RETRIEVAL = (("flickr30k", "Flickr30K"), ("coco", "COCO"))
_RECALLS = ("tr@1", "tr@5", "ir@1", "ir@5")

COLUMNS: tuple[Column, ...] = (
    *(Column(t, "mean_per_class" if t in _PER_CLASS else "accuracy", n, "vision") for t, n in _ACCURACY.items()),
    *(Column(*told, "nlp") for told in _GLUE),
    *(Column(*told, "multimodal") for told in _REASONING),
    *(Column(t, metric, f"{n} {metric.upper()}", "multimodal") for t, n in _RETRIEVAL for metric in _RECALLS),
)
"""22 of vision, 8 of language, 11 of the 5 multimodal tasks."""
TASKS: tuple[str, ...] = tuple(dict.fromkeys(column.task for column in COLUMNS))
"""The names of the 35."""


def averages(cells: Mapping[Key, float]) -> dict[str, float]:
    """The means of each domain whose columns are all there, and "macro", the mean of three, where all three are.

    Nothing stands in for what is missing: an average over fewer tasks is another number.
    """
    found: dict[str, float] = {}
    for domain in AVERAGES[:3]:
        keys = [column.key for column in COLUMNS if column.domain == domain]
        if all(key in cells for key in keys):
            found[domain] = sum(cells[key] for key in keys) / len(keys)
    if len(found) == 3:
        found["macro"] = sum(found.values()) / 3
    return found


def as_table(rows: Sequence[Row]) -> list[list[str]]:
    """A line for each column and average, a cell for each model; the first line has the names. Empty is what is not known."""
    lines = [["", *(row.name for row in rows)]]
    for domain in AVERAGES[:3]:
        for column in COLUMNS:
            if column.domain == domain:
                lines.append([column.title, *(_told(row.cells.get(column.key)) for row in rows)])
        lines.append([f"{domain} average", *(_told(shown_averages(row).get(domain)) for row in rows)])
    return [*lines, ["macro average", *(_told(shown_averages(row).get("macro")) for row in rows)]]


def shown_averages(row: Row) -> dict[str, float]:
    """What the cells give, and over it what the paper prints."""
    return averages(row.cells) | dict(row.printed)


def as_markdown(rows: Sequence[Row]) -> str:
    """The table for a page, its averages bold, and below it where each row comes from."""
    head, *body = as_table(rows)
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * len(rows)}"]
    for title, *cells in body:
        bold = "**" if title.endswith("average") else ""
        lines.append(f"| {' | '.join([f'{bold}{cell}{bold}' if cell else '' for cell in (title, *cells)])} |")
    return "\n".join([*lines, "", *(f"- {row.name}: {row.source}" for row in rows)]) + "\n"


def as_csv(rows: Sequence[Row]) -> str:
    """The same for a program: a line for each model, with a head; keys are task and metric with a colon between them."""
    told = io.StringIO()
    writer = csv.writer(told, lineterminator="\n")
    writer.writerow(["model", *(":".join(column.key) for column in COLUMNS), *AVERAGES, "source"])
    for row in rows:
        shown = shown_averages(row)
        cells = [*(row.cells.get(column.key) for column in COLUMNS), *(shown.get(name) for name in AVERAGES)]
        writer.writerow([row.name, *("" if cell is None else f"{cell:.4f}" for cell in cells), row.source])
    return told.getvalue()


def _told(cell: float | None) -> str:
    return "" if cell is None else f"{cell:.2f}"
