"""Tasks whose splits are lists, tables or a rule: torchvision has no split, another one, or asks for what is not needed.

Sources: the data sets' own pages, named in docs/tasks.md, which also gives the reasons. All take the root of the tasks' data and
the name of a split.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from torchflava.tasks.by_torchvision import clevr
from torchflava.tasks.images import LabelledImages, folder_of_classes, in_key_order, of_each_class, of_files

_CALTECH_TRAIN = 30  # of a class, as CLIP's 3,060
_EUROSAT_TRAIN, _EUROSAT_TEST = 1000, 500  # of each of ten classes, as CLIP's 10,000 and 5,000
_CLEVR_SIZES = {"train": 2000, "val": 500}  # CLIP's
_SIGNS = 43


def imagenet(root: Path, split: str) -> LabelledImages:
    """train and val: a folder for each synset; the sorted synsets are the classes 0 to 999."""
    return folder_of_classes(root / "imagenet" / split)


def pets(root: Path, split: str) -> LabelledImages:
    """trainval and test: name, class from 1, species and breed on each line of the split's list."""
    folder = root / "oxford-iiit-pet"
    rows = [line.split() for line in _lines(folder / "annotations" / f"{split}.txt") if not line.startswith("#")]
    names = {int(row[1]) - 1: row[0].rpartition("_")[0].replace("_", " ") for row in rows}
    files = [(folder / "images" / f"{row[0]}.jpg", int(row[1]) - 1) for row in rows]
    return of_files(root, files, [names.get(number, "") for number in range(max(names) + 1)])


def caltech101(root: Path, split: str) -> LabelledImages:
    """train and test: of all 102 folders, BACKGROUND_Google too, 30 images by key and the rest."""
    images = folder_of_classes(root / "caltech101" / "101_ObjectCategories")
    parts = {"train": slice(0, _CALTECH_TRAIN), "test": slice(_CALTECH_TRAIN, None)}
    return _parted(images, parts[split], "caltech101")


def eurosat(root: Path, split: str) -> LabelledImages:
    """train and test: of each class by key the first two thirds, up to 1,000, and the next third, up to 500."""
    images = folder_of_classes(root / "eurosat" / "2750")
    least = int(images.labels.bincount().min())
    train, test = min(_EUROSAT_TRAIN, 2 * least // 3), min(_EUROSAT_TEST, least // 3)
    parts = {"train": slice(0, train), "test": slice(train, train + test)}
    return _parted(images, parts[split], "eurosat")


def clevr_sample(root: Path, split: str) -> LabelledImages:
    """train and val: the first 2,000 and 500 by key; the labels of CLEVR's test scenes are not public."""
    images = clevr(root, split)
    return images.take(sorted(in_key_order(images, "clevr")[: _CLEVR_SIZES[split]]))


def flowers102(root: Path, split: str) -> LabelledImages:
    """trnid, valid and tstid: setid.mat names the images, imagelabels.mat their classes from 1; scipy reads both."""
    from scipy.io import loadmat
    from torchvision.datasets import Flowers102

    folder = root / "flowers-102"
    labels = loadmat(folder / "imagelabels.mat", squeeze_me=True)["labels"]
    chosen = np.atleast_1d(loadmat(folder / "setid.mat", squeeze_me=True)[split])
    files = [(folder / "jpg" / f"image_{number:05d}.jpg", int(labels[number - 1]) - 1) for number in chosen.tolist()]
    return of_files(root, files, list(Flowers102.classes))


def gtsrb(root: Path, split: str) -> LabelledImages:
    """train: a folder of .ppm files for each sign; test: GT-final_test.csv names files and signs."""
    folder = root / "gtsrb" / "GTSRB"
    signs = [str(number) for number in range(_SIGNS)]
    if split == "train":
        found = folder_of_classes(folder / "Training", (".ppm",))
        files = [
            (folder / "Training" / key, int(found.classes[label]))
            for key, label in zip(found.keys, found.labels.tolist(), strict=True)
        ]
    else:
        with (root / "gtsrb" / "GT-final_test.csv").open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter=";"))
        files = [(folder / "Final_Test" / "Images" / row["Filename"], int(row["ClassId"])) for row in rows]
    return of_files(root, files, signs)


def sun397(root: Path, split: str) -> LabelledImages:
    """Training and Testing of partition 1 of ten, as the lists of Partitions.zip have it."""
    folder = root / "SUN397"
    names = [line.strip().strip("/") for line in _lines(folder / "ClassName.txt")]
    number = {name: at for at, name in enumerate(names)}
    listed = [line.strip().lstrip("/") for line in _lines(folder / "Partitions" / f"{split}_01.txt")]
    files = [(folder / path, number[path.rpartition("/")[0]]) for path in listed]
    return of_files(root, files, [name.partition("/")[2].replace("/", " ") for name in names])


def ucf101(root: Path, split: str) -> LabelledImages:
    """train and test: the middle frame of each clip, named as the clip, by the official list 1.

    Raises:
        ValueError: for a clip of the list without its frame.
    """
    folder = root / "ucf101"
    lists = folder / "ucfTrainTestlist"
    names = [line.split()[1] for line in _lines(lists / "classInd.txt")]
    number = {name: at for at, name in enumerate(names)}
    frames = {path.stem: path for path in (folder / "frames").rglob("*") if path.suffix.lower() in (".jpg", ".png")}
    files = []
    for line in _lines(lists / f"{split}list01.txt"):
        clip = Path(line.split()[0])
        if clip.stem not in frames:
            raise ValueError(
                f"{folder / 'frames'} has no {clip.with_suffix('.jpg')}, the middle frame of {clip.name}; docs/tasks.md says how "
                "frames are taken from the clips"
            )
        files.append((frames[clip.stem], number[clip.parent.name]))
    return of_files(root, files, names)


def _parted(images: LabelledImages, part: slice, name: str) -> LabelledImages:
    """A part of each class, in the order by key."""
    return images.take(sorted(at for order in of_each_class(images, name) for at in order[part]))


def _lines(path: Path) -> Sequence[str]:
    return [line for line in path.read_text().splitlines() if line.strip()]
