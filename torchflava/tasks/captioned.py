"""Images with their captions for retrieval: Karpathy's split files, or any captions file.

Sources: Karpathy and Fei-Fei 2015, whose dataset_flickr30k.json and dataset_coco.json lie in caption_datasets.zip of
cs.stanford.edu/people/karpathy/deepimagesent; the test splits are 1,000 and 5,000 images
of five captions each (the paper's §4.2).

Letters: I images, T texts.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchflava.data.caption_files import open_captions
from torchflava.tasks.places import MissingData


class Captioned(NamedTuple):
    """Images and texts that are to find each other."""

    name: str
    """Of the data set, as its file has it: flickr30k, coco."""
    split: str
    """Of Karpathy's file; a captions file has none."""
    images: list[Path]
    """I files."""
    texts: list[str]
    """T captions."""
    owner: Tensor
    """(T,) int64: the number of each caption's image."""


def read_captioned(file: Path, folder: Path, split: str = "", *, most: int = 5) -> Captioned:
    """The images below `folder` with their captions, in the file's order.

    Args:
        file: Karpathy's JSON, or a captions file: .csv or .tsv with a head, .jsonl, COCO's .json.
        folder: where the images lie.
        split: of Karpathy's, by default "test"; a captions file has none and is taken whole.
        most: captions of an image; what it has beyond them is left out (some of COCO's have six or seven).

    Raises:
        MissingData: if the file, or an image of it, is not there.
        ValueError: if the file is no such file, has no such split or no row, or names an image that is not below the folder.
    """
    if not file.is_file():
        raise MissingData(f"there is no {file}; give Karpathy's JSON or a captions file (docs/tasks.md)")
    if most < 1:
        raise ValueError(f"{most} captions an image; 1 or more are due")
    found = _karpathy(file)
    if found is None:
        if split:
            raise ValueError(f"{file} is a captions file, which has no splits; leave the split {split!r} out")
        name, rows = file.stem, list(_captions(file, folder))
    else:
        name, rows = str(found.get("dataset", file.stem)), list(_of_split(file, found, split or "test", folder))
    texts = [(number, text) for number, (_, captions) in enumerate(rows) for text in captions[:most]]
    if not rows:
        raise ValueError(f"{file} holds no row; give images and captions")
    for path, captions in rows:
        _check_below(path, folder, file)
        if not path.is_file():
            raise MissingData(
                f"{file} names {path}, which is not there; {len(rows)} images of it belong below {folder}"
            )
        if not captions:
            raise ValueError(f"{file}: {path.name} has no caption; leave it out of the file")
        if any("\ud800" <= letter <= "\udfff" for caption in captions for letter in caption):
            raise ValueError(f"{file}: a caption of {path.name} holds half a character (a lone surrogate); mend it")
    return Captioned(
        name,
        "" if found is None else split or "test",
        [path for path, _ in rows],
        [text for _, text in texts],
        torch.tensor([number for number, _ in texts]),
    )


def _check_below(path: Path, folder: Path, file: Path) -> None:
    """A file of somebody's must not have others of this machine's read, and put into a page."""
    if not Path(os.path.abspath(path)).is_relative_to(
        os.path.abspath(folder)
    ):  # by the words; links are the user's own
        raise ValueError(f"{file} names {path}, which is not below {folder}; give the folder that holds them all")


def _karpathy(file: Path) -> dict[str, Any] | None:
    """What a JSON file holds, if it is one of Karpathy's."""
    if file.suffix.lower() != ".json":
        return None
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON ({error}); fetch it again") from error
    images = found.get("images") if isinstance(found, dict) else None
    first = images[0] if isinstance(images, list) and images else None
    return found if isinstance(first, dict) and "sentences" in first else None


def _of_split(file: Path, found: dict[str, Any], split: str, folder: Path) -> Iterator[tuple[Path, list[str]]]:
    try:
        chosen = [image for image in found["images"] if image["split"] == split]
        if not chosen:
            there = ", ".join(sorted({image["split"] for image in found["images"]}))
            raise ValueError(f"{file} has no split {split!r}; it has {there}")
        for image in chosen:
            inside = folder / image.get("filepath", "") / image["filename"]  # COCO's lie in train2014 and val2014
            path = inside if inside.is_file() else folder / image["filename"]
            yield path, [" ".join(sentence["raw"].split()) for sentence in image["sentences"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is not laid out as Karpathy's: images with filename, split and sentences with raw ({error!r})"
        ) from error


def _captions(file: Path, folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Captions of the same image are put together, in the order of its first one."""
    rows = open_captions(file, None, None, refuse=lambda image, caption: None)
    if str(rows.rejected):
        raise ValueError(f"{file} has rows that cannot be used, {rows.rejected}; mend them, so that all are counted")
    found: dict[str, list[str]] = {}
    for at in range(len(rows)):
        image, caption = rows[at]
        found.setdefault(image, []).append(caption)
    yield from ((folder / image, captions) for image, captions in found.items())
