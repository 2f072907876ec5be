"""The 22 image tasks, read from small copies of their real layouts."""

import pickle
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from made_tasks import KITTI_DRIVES, KITTI_IMAGES, MADE, SYNSETS, python2_pickle
from PIL import Image

from torchflava.evaluation import accuracy, mean_per_class
from torchflava.evaluation.scorecard import COLUMNS
from torchflava.tasks import VISION_TASKS, LabelledImages, MissingData, VisionTask, vision_task
from torchflava.tasks.images import hold_out, hold_out_groups
from torchflava.tasks.kitti import distance_class, image_numbers

SIZES = {
    # name: training, validation, test, classes
    "food101": (12, 3, 6, 3),
    "cifar10": (16, 4, 4, 4),
    "cifar100": (9, 3, 6, 3),
    "cars": (6, 2, 4, 2),
    "aircraft": (9, 3, 6, 3),
    "dtd": (6, 2, 4, 2),
    "pets": (12, 3, 6, 3),
    "caltech101": (72, 18, 7, 3),
    "flowers102": (4, 2, 5, 102),
    "mnist": (17, 3, 7, 10),
    "stl10": (8, 2, 5, 2),
    "eurosat": (12, 4, 8, 2),
    "gtsrb": (8, 4, 4, 43),
    "kitti": (30, 3, 3, 4),
    "pcam": (8, 4, 4, 2),
    "ucf101": (8, 4, 4, 2),
    "clevr": (8, 2, 4, 8),
    "fer2013": (6, 2, 4, 7),
    "sun397": (9, 3, 6, 3),
    "sst": (8, 2, 4, 2),
    "country211": (8, 4, 6, 2),
    "imagenet": (12, 3, 3, 1000),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tasks")
    for make in MADE.values():
        make(made)
    return made


def test_there_are_the_papers_22() -> None:
    papers = [column.task for column in COLUMNS if column.domain == "vision"]
    assert len(papers) == 22
    assert {*papers} == {*VISION_TASKS[:22]}  # one that is added stands after them
    assert set(VISION_TASKS) == set(MADE) == set(SIZES)
    per_class = {name for name in papers if vision_task(name, ".").metric == "mean_per_class"}
    assert per_class == {"aircraft", "pets", "caltech101", "flowers102"}
    assert {"accuracy": accuracy, "mean_per_class": mean_per_class}.keys() == {vision_task(n, ".").metric for n in MADE}


@pytest.mark.parametrize("name", VISION_TASKS)
def test_a_task_is_read(root: Path, name: str) -> None:
    task = vision_task(name, root)
    (train, valid), test = task.train_and_valid(), task.test()
    assert task.missing() is None
    assert (len(train), len(valid), len(test), len(test.classes)) == SIZES[name]
    assert train.classes == valid.classes == test.classes
    for images in (train, valid, test):
        image, label = images[len(images) - 1]
        assert image.dtype == torch.uint8
        assert image.ndim == 3
        assert image.shape[0] == 3
        assert 0 <= label < len(images.classes)
        assert len(set(images.keys)) == len(images)
    named = lambda images: set(zip(images.keys, images.labels.tolist(), strict=True))  # noqa: E731
    assert not named(train) & named(valid)
    assert not named(test) & (named(train) | named(valid))
    again = vision_task(name, root)
    assert again.test().fingerprint() == test.fingerprint() != valid.fingerprint()


@pytest.mark.parametrize("name", VISION_TASKS)
def test_what_is_missing_is_named_with_its_source_and_its_place(tmp_path: Path, name: str) -> None:
    task = vision_task(name, tmp_path)
    for read, split in ((task.train_and_valid, "train"), (task.test, "test")):
        with pytest.raises(MissingData, match=rf"{name}: there is no {tmp_path}/\S+; it comes from .+belongs there"):
            read()
        assert task.missing(split)


@pytest.mark.parametrize("name", VISION_TASKS)
def test_each_needed_file_is_missed_alone(root: Path, tmp_path: Path, name: str) -> None:
    """All that is read is named beforehand: with any of it gone, the message names it."""
    needed = vision_task(name, root)._spec.needed
    for one in needed:
        there = tmp_path / name / str(needed.index(one))
        for other in needed:
            if other is not one:
                (there / other.path.split("|")[0]).mkdir(parents=True, exist_ok=True)
        if (there / one.path).exists():  # a folder that holds another
            continue
        assert one.path.split("|")[0] in (vision_task(name, there).missing() or "")


@pytest.mark.parametrize(("name", "package"), [("cars", "scipy"), ("flowers102", "scipy"), ("pcam", "h5py")])
def test_a_package_that_is_missing_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    told = rf"{name} is read with {package}: pip install 'torchflava\[eval\]'"
    with pytest.raises(ImportError, match=told):
        vision_task(name, root).test()
    assert re.match(told, vision_task(name, root).missing() or "")


def test_what_is_tested_on_needs_no_training_data(tmp_path: Path) -> None:
    MADE["imagenet"](tmp_path)
    for folder in (tmp_path / "imagenet/train").iterdir():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    (tmp_path / "imagenet/train").rmdir()
    task = vision_task("imagenet", tmp_path)
    assert len(task.test()) == 3
    with pytest.raises(MissingData, match="ILSVRC2012_img_train"):
        task.train_and_valid()


def test_pixels_are_what_pillow_and_numpy_read(root: Path) -> None:
    def of(name: str) -> tuple[VisionTask, LabelledImages]:
        return vision_task(name, root), vision_task(name, root).test()

    _, images = of("food101")
    with Image.open(root / images.keys[3]) as image:
        expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1).astype(int)
    assert np.abs(images[3][0].numpy() - expected).max() <= 2  # decoders of JPEG round differently

    with (root / "cifar-10-batches-py/test_batch").open("rb") as file:
        batch = pickle.load(file, encoding="bytes")
    assert np.array_equal(of("cifar10")[1][2][0], batch[b"data"].reshape(-1, 3, 32, 32)[2])
    assert of("cifar10")[1].labels.tolist() == batch[b"labels"]

    flat = np.fromfile(root / "stl10_binary/test_X.bin", np.uint8).reshape(5, 3, 96, 96)
    assert of("stl10")[1][4][0][1, 10, 20] == flat[4, 1, 20, 10]  # columns first (its README)

    grey = of("fer2013")[1][0][0]
    assert grey.shape == (3, 48, 48)
    assert torch.equal(grey[0], grey[2])
    row = (root / "fer2013/fer2013.csv").read_text().splitlines()[1 + 8].split(",")
    assert grey[0].flatten().tolist() == [int(value) for value in row[1].split()]


def test_torchvision_reads_the_same_where_it_can(root: Path) -> None:
    """The readers of ours that torchvision has a data set for, which compares no checksum."""
    from torchvision import datasets

    pets = vision_task("pets", root).test()
    theirs = datasets.OxfordIIITPet(root, "test")
    assert pets.labels.tolist() == [theirs[at][1] for at in range(len(theirs))]
    assert [name.title() for name in pets.classes] == theirs.classes

    signs = vision_task("gtsrb", root).test()
    theirs = datasets.GTSRB(root, "test")
    assert signs.labels.tolist() == [theirs[at][1] for at in range(len(theirs))]

    patches = vision_task("pcam", root).test()
    theirs = datasets.PCAM(root, "test")
    for at in range(len(theirs)):
        image, label = theirs[at]
        assert np.array_equal(patches[at][0].permute(1, 2, 0), np.asarray(image))
        assert patches[at][1] == label


def test_stl_is_learnt_from_its_first_fold(root: Path) -> None:
    train, valid = vision_task("stl10", root).train_and_valid()
    assert {*train.keys, *valid.keys} == {f"train/{at}" for at in (13, 0, 1, 4, 5, 6, 7, 8, 9, 10)}


def test_equal_splits_alone_have_equal_fingerprints() -> None:
    def told(labels: list[int], classes: str = "ab", keys: str = "xyz") -> str:
        return LabelledImages([Path("1"), Path("2"), Path("3")], labels, classes, keys=keys).fingerprint()

    assert told([0, 1, 1]) == told([0, 1, 1])
    assert len({told([0, 1, 1]), told([0, 1, 0]), told([0, 1, 1], "ac"), told([0, 1, 1], keys="xyw")}) == 4


def test_the_background_is_a_class_of_caltech(root: Path) -> None:
    (train, valid), test = vision_task("caltech101", root).train_and_valid(), vision_task("caltech101", root).test()
    assert test.classes[0] == "BACKGROUND_Google"
    assert Counter(train.labels.tolist() + valid.labels.tolist()) == {0: 30, 1: 30, 2: 30}
    assert Counter(test.labels.tolist()) == {0: 3, 1: 1, 2: 3}


def test_kittis_split_is_the_published_draw(root: Path) -> None:
    """TensorFlow Datasets' words, written out with numpy's global generator as there."""
    mapping = root / "Kitti/raw/mapping"
    lines = (mapping / "train_mapping.txt").read_text().splitlines()
    drives: dict[str, list[int]] = {}
    for image, number in enumerate((mapping / "train_rand.txt").read_text().split(",")):
        drives.setdefault(lines[int(number) - 1].split(" ")[1], []).append(image)
    assert len(drives) == KITTI_DRIVES
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(123)  # noqa: NPY002
    test = set(np.random.choice(sorted(drives), 1, replace=False))  # noqa: NPY002
    valid = set(np.random.choice(sorted(set(drives) - test), 1, replace=False))  # noqa: NPY002
    np.random.set_state(before)  # noqa: NPY002
    found = image_numbers(mapping)
    assert found["test"] == sorted(image for drive in test for image in drives[drive])
    assert found["valid"] == sorted(image for drive in valid for image in drives[drive])
    assert sorted(image for numbers in found.values() for image in numbers) == list(range(KITTI_IMAGES))


def test_kittis_classes_are_vtabs() -> None:
    def line(kind: str, z: float) -> str:
        return f"{kind} 0.00 0 -1.5 599.4 156.4 629.7 189.2 2.85 2.63 12.3 0.47 1.49 {z} -1.56"

    for z in (-0.5, 3.0, 8.0, 8.01, 20.0, 20.5, 90.0):
        # The highest threshold of [-100, 8, 20, 999] that lies below the nearest distance.
        assert distance_class(line("Van", z)) == max(n for n, limit in enumerate((-100, 8, 20, 999)) if limit < z)
    assert distance_class(line("Pedestrian", 3.0)) == distance_class("") == 3
    assert distance_class(f"{line('Truck', 30)}\n{line('Car', 9)}\n{line('Tram', 2)}") == 1


def test_what_is_held_out_depends_on_keys_alone() -> None:
    keys = [f"{'ab'[n % 2]}/{n}.jpg" for n in range(40)]
    images = LabelledImages([Path(key) for key in keys], [n % 2 for n in range(40)], "ab", keys=keys)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1)).tolist()
    left, held = hold_out(images, "task")
    other_left, other_held = hold_out(images.take(order), "task")
    assert set(held.keys) == set(other_held.keys)
    assert Counter(held.labels.tolist()) == {0: 4, 1: 4}
    assert set(left.keys) | set(held.keys) == set(keys)
    assert set(hold_out(images, "other")[1].keys) != set(held.keys)
    assert sorted(other_left.keys) == sorted(left.keys)


def test_a_class_of_one_is_learnt_from() -> None:
    left, held = hold_out(
        LabelledImages([Path("a"), Path("b"), Path("c")], [0, 1, 1], "ab", keys=["a", "b", "c"]), "task"
    )
    assert (len(left), len(held)) == (2, 1)
    assert 0 in left.labels


def test_groups_are_held_out_whole() -> None:
    keys = [f"c/{group}_{n}.ppm" for group in range(10) for n in range(3)]
    left, held = hold_out_groups(LabelledImages([Path(key) for key in keys], [0] * 30, ["c"], keys=keys), "task")
    groups = [{key.partition("_")[0] for key in part.keys} for part in (left, held)]
    assert not groups[0] & groups[1]
    assert (len(left), len(held)) == (24, 6)


def test_a_pickle_that_would_run_something_is_refused(root: Path, tmp_path: Path) -> None:
    MADE["cifar100"](tmp_path)
    (tmp_path / "cifar-100-python/test").write_bytes(b"\x80\x02cposix\nsystem\nU\x02idR.")
    with pytest.raises(ValueError, match=r"posix.system.*unpack the archive's Python version again"):
        vision_task("cifar100", tmp_path).test()
    (tmp_path / "cifar-100-python/test").write_bytes(python2_pickle({"data": [1, 2], "fine_labels": [0, 1]}))
    with pytest.raises(ValueError, match="rows of 3,072 bytes"):
        vision_task("cifar100", tmp_path).test()


def test_damaged_and_missing_images_are_named(tmp_path: Path) -> None:
    MADE["pets"](tmp_path)
    (tmp_path / "oxford-iiit-pet/images/Bengal_6.jpg").unlink()
    (tmp_path / "oxford-iiit-pet/images/Bengal_7.jpg").write_bytes(b"<html>")
    images = vision_task("pets", tmp_path).test()
    for at, what in ((4, r"Bengal_6\.jpg cannot be read"), (5, r"Bengal_7\.jpg is damaged")):
        with pytest.raises(ValueError, match=what):
            images[at]


def test_bad_scenes_bad_clips_and_unknown_names_are_refused(tmp_path: Path) -> None:
    MADE["ucf101"](tmp_path)
    (tmp_path / "ucf101/frames/YoYo/v_YoYo_g01_c02.jpg").unlink()
    with pytest.raises(ValueError, match=r"no YoYo/v_YoYo_g01_c02\.jpg, the middle frame"):
        vision_task("ucf101", tmp_path).test()
    (tmp_path / "ucf101/ucfTrainTestlist/testlist01.txt").write_text("Yodel/v_YoYo_g01_c01.avi")
    with pytest.raises(ValueError, match=r"the test split below .* cannot be read \(KeyError: 'Yodel'\); unpack"):
        vision_task("ucf101", tmp_path).test()
    (tmp_path / "ucf101/ucfTrainTestlist/testlist01.txt").write_text("")
    with pytest.raises(ValueError, match=r"the test split below .* is empty"):
        vision_task("ucf101", tmp_path).test()
    with pytest.raises(ValueError, match=r"no task is called 'cifar'; there are food101, cifar10"):
        vision_task("cifar", tmp_path)
    with pytest.raises(ValueError, match="2 images, 1 labels"):
        LabelledImages([Path("a"), Path("b")], [0], ["a"], keys="ab")
    with pytest.raises(ValueError, match="labels reach from 0 to 2 and there are 2"):
        LabelledImages([Path("a"), Path("b")], [0, 2], "ab", keys="ab")


def test_names_of_classes_are_words(root: Path) -> None:
    def words(name: str) -> tuple[str, ...]:
        task = vision_task(name, root)
        return task.class_names(task.test())

    assert words("food101") == ("apple pie", "baklava", "sushi")
    assert words("eurosat") == ("annual crop", "sea lake")
    assert words("ucf101") == ("apply eye makeup", "yo yo")
    assert words("sun397")[1] == "apartment building outdoor"
    assert words("clevr") == ("3", "4", "5", "6", "7", "8", "9", "10")
    assert words("pets") == ("Abyssinian", "american bulldog", "Bengal")
    assert words("flowers102")[76] == "passion flower"
    for name in ("gtsrb", "country211", "imagenet"):
        with pytest.raises(ValueError, match="give their names by --names FILE"):
            words(name)
    assert vision_task("imagenet", root).test().classes == tuple(SYNSETS)
