"""Tasks that torchvision's own data sets read right; they are asked for paths, so that nothing is decoded yet.

Source: torchvision 0.29.1, `torchvision.datasets`. Never `download=True`: what is missing is told by name. All take the root
of the tasks' data and the name that the data set gives a split.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchvision import datasets

from torchflava.tasks.images import LabelledImages, numbered, of_files


def food101(root: Path, split: str) -> LabelledImages:
    """train and test, as meta/train.json and meta/test.json list them."""
    return _files(datasets.Food101(root, split, loader=Path), root)


def cars(root: Path, split: str) -> LabelledImages:
    """train and test; the annotations are MATLAB's, which scipy reads."""
    return _files(datasets.StanfordCars(root, split, loader=Path), root)


def aircraft(root: Path, split: str) -> LabelledImages:
    """train, val and test, by the 100 variants."""
    return _files(datasets.FGVCAircraft(root, split, "variant", loader=Path), root)


def dtd(root: Path, split: str) -> LabelledImages:
    """train, val and test of partition 1 of ten."""
    return _files(datasets.DTD(root, split, partition=1, loader=Path), root)


def mnist(root: Path, split: str) -> LabelledImages:
    """train and test, from unpacked idx files."""
    dataset = datasets.MNIST(root, train=split == "train")
    keys = numbered(split, len(dataset))
    return LabelledImages(dataset.data, dataset.targets, [str(digit) for digit in range(10)], keys=keys)


def clevr(root: Path, split: str) -> LabelledImages:
    """train and val; class k is k + 3 things in the picture: 3 to 10 (VTAB's count_all).

    Raises:
        ValueError: for a scene of fewer or more.
    """
    found = _pairs(datasets.CLEVRClassification(root, split, loader=Path))
    for path, count in found:
        if not 3 <= count <= 10:
            raise ValueError(f"{path} shows {count} things; CLEVR's scenes have 3 to 10, unpack CLEVR_v1.0.zip again")
    return of_files(root, [(path, count - 3) for path, count in found], [str(count) for count in range(3, 11)])


def rendered_sst2(root: Path, split: str) -> LabelledImages:
    """train, val and test: sentences as pictures, negative or positive."""
    return _files(datasets.RenderedSST2(root, split, loader=Path), root)


def country211(root: Path, split: str) -> LabelledImages:
    """train, valid and test, by the countries' ISO 3166 codes."""
    return _files(datasets.Country211(root, split, loader=Path), root)


def _files(dataset: Any, root: Path) -> LabelledImages:
    return of_files(root, _pairs(dataset), dataset.classes)


def _pairs(dataset: Any) -> Sequence[tuple[Path, int]]:
    """What a data set with `loader=Path` holds."""
    found = (dataset[at] for at in range(len(dataset)))
    return [(Path(path), int(label)) for path, label in found]
