"""What there is to say of an image task, beside its data."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from torchflava.tasks.images import LabelledImages, hold_out
from torchflava.tasks.places import Needed

Metric = Literal["accuracy", "mean_per_class"]
TEMPLATE = "a photo of a {}."


class Sizes(NamedTuple):
    """Of whole data."""

    num_classes: int
    num_train: int
    """Validation images included."""
    num_test: int


def spaced(name: str) -> str:
    """apple_pie -> apple pie."""
    return name.replace("_", " ")


def parted(name: str) -> str:
    """AnnualCrop -> annual crop."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


class Spec(NamedTuple):
    """How a task is read."""

    read: Callable[[Path, str], LabelledImages]
    """(root, split)."""
    sizes: Sizes
    needed: tuple[Needed, ...]
    train: str = "train"
    valid: str = ""
    """The reader's names of the splits; without a validation split a part of the training split is held out."""
    test: str = "test"
    hold_out: Callable[[LabelledImages, str], tuple[LabelledImages, LabelledImages]] = hold_out
    metric: Metric = "accuracy"
    templates: tuple[str, ...] = (TEMPLATE,)
    word: Callable[[str], str] = spaced
    """What a class is called in a prompt."""
    package: str = ""
    """Of the extra `eval`, if one reads it."""
    unnamed: str = ""
    """Why the data do not say what the classes are called."""
