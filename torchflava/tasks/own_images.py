"""Your own labelled images as a task to probe: folders of classes, or files with a row for each image."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from torchflava.evaluation import COLUMNS
from torchflava.tasks.examples import class_number
from torchflava.tasks.images import LabelledImages, folder_of_classes
from torchflava.tasks.own_labels import classes_of, label_of, labelled_rows
from torchflava.tasks.places import MissingData
from torchflava.tasks.rows import cell
from torchflava.tasks.spec import Sizes, Spec
from torchflava.tasks.vision import VisionTask


def own_image_task(
    name: str, *, train: Path, test: Path, valid: Path | None = None, images: Path | None = None
) -> VisionTask:
    """A task over images of your own. Each split is a folder that holds a folder for each class, or a `.jsonl`, or `.tsv` with a
    head, of rows with `image` and `label`.

    The labels of `train` are the classes, in the order of their letters, of numbers in the order of their size.

    Args:
        name: what results call it; none of the paper's tasks.
        train: to learn from.
        test: to measure on once.
        valid: to choose λ on; without it a fifth of each class of `train`, by a hash of its name.
        images: the folder that rows name their images from; that of each file unless given.

    Raises:
        MissingData: naming an image that is not there.
        ValueError: for a paper's name, and naming the file, the row or the class that is not as it should be.
    """
    if name in (theirs := {column.task for column in COLUMNS}):
        raise ValueError(
            f"{name!r} is one of the paper's tasks ({', '.join(sorted(theirs))}); call yours by another name"
        )
    places = {"train": train, "test": test} | ({"valid": valid} if valid else {})
    found = {split: _split(place, images) for split, place in places.items()}
    classes = classes_of([one.label for one in found["train"]], train)
    splits = {split: _numbered(its, classes) for split, its in found.items()}
    learnt = sum(len(its) for split, its in splits.items() if split != "test")
    sizes = Sizes(len(classes), learnt, len(splits["test"]))
    return VisionTask(name, Spec(_reader(splits), sizes, (), valid="valid" if valid else ""), train.parent)


class _Labelled(NamedTuple):
    path: Path
    key: str
    """Its path from the split's folder, the same wherever that lies."""
    label: str
    row: str
    """Where that is said, for messages."""


def _split(place: Path, images: Path | None) -> list[_Labelled]:
    if place.is_dir():
        there = folder_of_classes(place)
        labels = (there.classes[number] for number in there.labels.tolist())
        found = [_Labelled(place / key, key, label, str(place)) for key, label in zip(there.keys, labels, strict=True)]
    else:
        rows = [(cell(row, "image"), label_of(row), row.key) for row in labelled_rows(place)]
        found = [_Labelled((images or place.parent) / image, image, label, key) for image, label, key in rows]
    if not found:
        raise ValueError(f"{place} holds no image; give a folder with a folder for each class, or a file of rows")
    for one in found:
        if not one.path.is_file():
            raise MissingData(f"{one.row} names {one.path}, which is not there")
    return found


def _numbered(found: list[_Labelled], classes: tuple[str, ...]) -> LabelledImages:
    numbers = [class_number(one.label, classes, one.row) for one in found]
    return LabelledImages([one.path for one in found], numbers, classes, keys=[one.key for one in found])


def _reader(splits: Mapping[str, LabelledImages]) -> Callable[[Path, str], LabelledImages]:
    return lambda root, split: splits[split]
