"""Texts, images and pairs with what is to be said of them: what a model is fine-tuned on (paper §4.2)."""

import os
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Literal, NamedTuple

Reads = Literal["text", "image", "pair"]
Kind = Literal["class", "score", "answers"]
Target = int | float | tuple[tuple[int, float], ...] | None
"""A class by number, a score, or answers by number with what each is worth; None where nobody says."""


class Example(NamedTuple):
    """One thing to classify."""

    key: str
    """The file and row that it stands in, for messages, or the number by which a test server knows it."""
    text: str | None
    second: str | None
    """Of a pair of texts."""
    image: Path | None
    target: Target


class TuningTask(NamedTuple):
    """A task with all its examples read; images are not decoded yet."""

    name: str
    reads: Reads
    kind: Kind
    """Of the targets."""
    classes: tuple[str, ...]
    """What the model's outputs are called, by number; for a score there is one."""
    metrics: tuple[str, ...]
    """Names as `torchflava.evaluation.COLUMNS` has them; the first counts."""
    train: Sequence[Example]
    measured: Mapping[str, Sequence[Example]]
    """Splits with targets; settings are chosen on the first."""
    reported: str
    """The split whose numbers are the task's; those of others carry their split's name."""
    asked: Mapping[str, Sequence[Example]]
    """Splits without targets, for a test server."""

    def reading(self, metric: str, split: str) -> str:
        """What a number is called."""
        return metric if split == self.reported else f"{metric}_{split}"

    @property
    def chosen_by(self) -> str:
        """What the number is called by which settings are chosen."""
        return self.reading(self.metrics[0], next(iter(self.measured)))

    def fingerprint(self) -> str:
        """A number of what is learnt from: equal for the same examples in the same order, wherever they lie."""
        told = blake2b(repr((self.name, self.classes)).encode(), digest_size=8)
        for _, text, second, image, target in self.train:
            told.update(repr((text, second, image and image.name, target)).encode())
        return told.hexdigest()


def class_number(told: str, classes: Sequence[str], key: str) -> int:
    """The number of a class that a row names.

    Raises:
        ValueError: naming the row, for a name that is no class.
    """
    if told in classes:
        return classes.index(told)
    shown = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
    raise ValueError(f"{key} has the label {told!r}; there are {shown}: correct the row or take it out")


def check_images(examples: Sequence[Example], what: str = "") -> None:
    """See that all images are there; each folder is listed once.

    Args:
        examples: with or without images.
        what: their keys are, in messages, such as "question ".

    Raises:
        ValueError: naming the row and the file.
    """
    listed: dict[Path, frozenset[str]] = {}
    for example in examples:
        if example.image is None:
            continue
        folder = example.image.parent
        if folder not in listed:
            listed[folder] = frozenset(os.listdir(folder)) if folder.is_dir() else frozenset()
        if example.image.name not in listed[folder]:
            raise ValueError(
                f"{what}{example.key} asks for {example.image}, which is not there; put it there or drop the row"
            )
