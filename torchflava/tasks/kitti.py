"""KITTI as a question of distance: how far is the nearest vehicle? VTAB's classes on TensorFlow Datasets' split by drives.

Sources: Zhai et al. 2019 (VTAB), google-research/task_adaptation@main, data/kitti.py, closest_vehicle_distance;
tensorflow/datasets@556b453, object_detection/kitti.py: 6,347, 423 and 711 of the 7,481 labelled images, which are CLIP's 6,770
and 711 (Radford et al. 2021, table 9).
"""

from pathlib import Path

import numpy as np

from torchflava.tasks.images import LabelledImages, of_files

NAMES = ("near", "some way off", "far away", "nowhere")
_AHEAD = (8.0, 20.0, 999.0)  # metres, the thresholds of VTAB's classes after -100
_VEHICLES = ("Car", "Van", "Truck")
_SEED, _SHARE = 123, 10  # TensorFlow Datasets': seed, and per cent of the drives for each of test and validation


def kitti(root: Path, split: str) -> LabelledImages:
    """train, valid and test: images of the left colour camera; whole drives belong to one split.

    Raises:
        ValueError: if the development kit's mapping does not fit itself.
    """
    raw = root / "Kitti" / "raw"
    numbers = image_numbers(raw / "mapping")[split]
    files = [
        (
            raw / "training" / "image_2" / f"{number:06d}.png",
            distance_class((raw / "training" / "label_2" / f"{number:06d}.txt").read_text()),
        )
        for number in numbers
    ]
    return of_files(root, files, NAMES)


def distance_class(labels: str) -> int:
    """A label file -> 0 up to 8 m, 1 up to 20 m, 2 beyond, 3 without a car, van or truck; the distance is z, straight ahead.

    A line holds the kind, truncation, occlusion, angle, four numbers of the box, three of the size, and x, y and z in metres.
    """
    rows = (line.split() for line in labels.splitlines() if line.strip())
    nearest = min((float(row[13]) for row in rows if row[0] in _VEHICLES), default=1000.0)
    return sum(nearest > limit for limit in _AHEAD)


def image_numbers(mapping: Path) -> dict[str, list[int]]:
    """The numbers of the images of each split, from train_rand.txt and train_mapping.txt of the development kit.

    The first has for each image the line, from 1, on which the second says of which date and drive it is a picture.

    Raises:
        ValueError: if a line is not there.
    """
    lines = (mapping / "train_mapping.txt").read_text().splitlines()
    chosen = [int(number) - 1 for number in (mapping / "train_rand.txt").read_text().split(",")]
    if max(chosen) >= len(lines):
        raise ValueError(f"{mapping} names line {max(chosen) + 1} of {len(lines)}; unpack devkit_object.zip again")
    drive_of = [lines[at].split(" ")[1] for at in chosen]
    drives = sorted(set(drive_of))
    rng = np.random.RandomState(_SEED)  # the draw that made the published split
    num = max(1, _SHARE * len(drives) // 100)
    test = set(rng.choice(drives, num, replace=False).tolist())
    valid = set(rng.choice(sorted(set(drives) - test), num, replace=False).tolist())
    of_split = {"train": set(drives) - test - valid, "valid": valid, "test": test}
    return {split: [at for at, drive in enumerate(drive_of) if drive in own] for split, own in of_split.items()}
