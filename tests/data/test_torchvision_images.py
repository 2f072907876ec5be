"""torchvision's datasets as sources: equal to what the datasets themselves return, from threads too."""

import importlib.util
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms.v2.functional import pil_to_tensor

from torchflava.data.folders import FolderPairs
from torchflava.data.torchvision_images import TorchvisionImages, TorchvisionPairs
from torchflava.transforms.image import CorruptSample, decode_image


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Two classes of images for ImageFolder."""
    for at, name in enumerate(["cat/1.png", "cat/2.png", "dog/1.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(at).integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


def test_fake_data_and_the_global_generator_is_left_alone():
    dataset = datasets.FakeData(11, (3, 5, 7), num_classes=4)
    images = TorchvisionImages(dataset, "fake")
    state = torch.random.get_rng_state()
    for index in range(11):
        image, label = dataset[index]
        sample = images[index]
        assert torch.equal(sample.image, pil_to_tensor(image))
        assert (images.label(index), sample.key) == (int(label), f"fake/{index}")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (len(images), images.name, images.resume) == (11, "fake", "exact")


def test_threads_and_pickling_change_nothing():
    images = TorchvisionImages(datasets.FakeData(11, (3, 5, 7)))
    indices = np.random.default_rng(0).integers(0, 11, 200).tolist()
    alone = [images[i] for i in indices]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(pickle.loads(pickle.dumps(images)).__getitem__, indices))
    assert all(torch.equal(a.image, b.image) and a.key == b.key for a, b in zip(alone, together, strict=True))


def test_a_folder_of_classes_whose_labels_are_had_without_decoding(classes):
    images = TorchvisionImages(datasets.ImageFolder(str(classes)))
    for index, name in enumerate(["cat/1.png", "cat/2.png", "dog/1.png"]):
        assert torch.equal(images[index].image, decode_image((classes / name).read_bytes()))
    (classes / "dog/1.png").write_bytes(b"<html>")
    assert [images.label(i) for i in range(3)] == [0, 0, 1]
    with pytest.raises(CorruptSample, match="images/2 cannot be read"):
        images[2]
    turned = TorchvisionImages(datasets.ImageFolder(str(classes), target_transform=lambda label: 7 - label))
    assert turned.label(1) == 7
    with pytest.raises(CorruptSample, match="images/2 cannot be read"):
        turned.label(2)


class Listed:
    """A dataset of given samples."""

    def __init__(self, *samples: object, **attributes: object) -> None:
        self.samples = samples
        vars(self).update(attributes)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> object:
        return self.samples[index]


def test_greys_transparency_tensors_and_bytes():
    grey = Image.new("L", (2, 3), 9)
    clear = Image.new("RGBA", (2, 3), (1, 2, 3, 0))
    plane = torch.full((1, 3, 2), 5, dtype=torch.uint8)
    images = TorchvisionImages(Listed((grey, 0), (clear, 0), (plane, 0), (b"file", 0)))
    assert [images[i].image.unique().tolist() for i in range(3)] == [[9], [255], [5]]
    assert [tuple(images[i].image.shape) for i in range(3)] == [(3, 3, 2)] * 3
    assert images[3].image == b"file"


def test_what_is_no_image_and_no_label():
    huge = Image.new("1", (10_000, 10_000))
    images = TorchvisionImages(Listed((torch.zeros(3, 2, 2), "cat"), (huge, 1.0), (None, [1])))
    with pytest.raises(ValueError, match=r"images/0 is torch.float32 \(3, 2, 2\); Pillow's images"):
        images[0]
    with pytest.raises(CorruptSample, match="10000 x 10000 pixels are more"):
        images[1]
    with pytest.raises(ValueError, match="images/2 is NoneType"):
        images[2]
    for index in range(3):
        with pytest.raises(ValueError, match="is no number of a class"):
            images.label(index)


@pytest.mark.parametrize("labels", [[3, 1], np.array([3, 1]), torch.tensor([3, 1])])
@pytest.mark.parametrize("field", ["targets", "labels"])
def test_listed_labels(labels, field):
    images = TorchvisionImages(Listed(None, None, **{field: labels}))
    assert [images.label(i) for i in range(2)] == [3, 1]
    assert all(type(images.label(i)) is int for i in range(2))


def test_targets_that_are_files_are_no_labels():
    assert TorchvisionImages(Listed((None, 2), (None, 3), targets=["a.xml", "b.xml"])).label(1) == 3


@pytest.mark.parametrize("given", [{"transform": pil_to_tensor}, {"transforms": lambda image, target: (image, target)}])
def test_a_transform_is_refused(classes, given):
    dataset = datasets.VisionDataset(str(classes), **given)
    dataset.__class__ = type("Two", (datasets.VisionDataset,), {"__len__": lambda self: 2})
    with pytest.raises(ValueError, match="make it without one"):
        TorchvisionImages(dataset)


def test_what_is_no_dataset():
    with pytest.raises(ValueError, match="generator has no length"):
        TorchvisionImages(x for x in "ab")
    with pytest.raises(ValueError, match="is empty"):
        TorchvisionImages(Listed())
    with pytest.raises(IndexError, match=r"index -1 lies outside \[0, 1\)"):
        TorchvisionImages(Listed((None, 0)))[-1]


class Coco:
    """What CocoCaptions asks of pycocotools, for annotations of one file."""

    def __init__(self, path: Path) -> None:
        self.found = json.loads(path.read_text())

    def getAnnIds(self, image: int) -> list[int]:
        return [one["id"] for one in self.found["annotations"] if one["image_id"] == image]

    def loadAnns(self, ids: list[int]) -> list[dict[str, object]]:
        return [one for wanted in ids for one in self.found["annotations"] if one["id"] == wanted]


@pytest.fixture
def coco(classes: Path) -> Path:
    """COCO's captions of the images: two, a blank one and one; none."""
    files = [{"id": 7 + at, "file_name": name} for at, name in enumerate(["cat/1.png", "cat/2.png", "dog/1.png"])]
    told = [(8, "a second cat"), (7, "a cat"), (7, " the cat\n"), (8, " ")]
    notes = [{"id": at, "image_id": image, "caption": caption} for at, (image, caption) in enumerate(told)]
    (classes / "captions.json").write_text(json.dumps({"images": files, "annotations": notes}))
    return classes


def test_every_caption_makes_a_pair(coco):
    images = [Image.open(coco / name).copy() for name in ("cat/1.png", "cat/2.png", "dog/1.png")]
    dataset = Listed(*((image, None) for image in images), ids=[7, 8, 9], coco=Coco(coco / "captions.json"))
    pairs = TorchvisionPairs(dataset, "coco")
    assert [pairs.caption(i) for i in range(len(pairs))] == ["a cat", "the cat", "a second cat"]
    assert [pairs[i].caption for i in range(3)] == ["a cat", "the cat", "a second cat"]
    assert [pairs[i].key for i in range(3)] == ["coco/0#0", "coco/0#1", "coco/1#2"]
    assert torch.equal(pairs[2].image, pil_to_tensor(images[1]))
    assert pairs.num_rejected == 1
    beside = FolderPairs(coco, coco / "captions.json")
    assert sorted(beside.caption(i) for i in range(3)) == sorted(pairs.caption(i) for i in range(3))
    assert pickle.loads(pickle.dumps(pairs)).caption(1) == "the cat"


@pytest.mark.skipif(importlib.util.find_spec("pycocotools") is not None, reason="pycocotools is installed")
def test_coco_captions_says_that_it_needs_pycocotools(coco):
    with pytest.raises(ModuleNotFoundError, match="pycocotools"):
        datasets.CocoCaptions(str(coco), str(coco / "captions.json"))


def test_flickr_sbu_and_given_captions():
    grey = Image.new("L", (2, 3), 9)
    flickr = Listed((grey, 0), (grey, 0), ids=["a", "b"], annotations={"b": ["three"], "a": ["one", "two"]})
    assert [TorchvisionPairs(flickr).caption(i) for i in range(3)] == ["one", "two", "three"]
    assert TorchvisionPairs(Listed((grey, 0), (grey, 0), captions=["one", "two"])).caption(1) == "two"
    given = TorchvisionPairs(Listed((grey, 0), (grey, 0)), captions=["one", ["two", "three"]])
    assert [given.caption(i) for i in range(3)] == ["one", "two", "three"]
    with pytest.raises(ValueError, match="a Listed does not tell its captions; give"):
        TorchvisionPairs(Listed((grey, 0)))
    with pytest.raises(ValueError, match="captions of 2 images for 1"):
        TorchvisionPairs(Listed((grey, 0)), captions=["a", "b"])
    with pytest.raises(ValueError, match="none of the dataset's 1 images has a caption"):
        TorchvisionPairs(Listed((grey, 0)), captions=[[" "]])
