"""Scripts for sources whose images lie on the user's disk, on small hand-made copies of their real layouts."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/data"))  # as `python recipes/data/coco.py` does

import coco
import imagenet
import localized_narratives as narratives
import visual_genome
from building import Options
from local_layouts import (
    captions,
    card,
    coco_folder,
    files,
    genome_folder,
    imagenet_folder,
    imagenet_tar,
    karpathy,
    narratives_folder,
    samples,
)

from torchflava.data.shards import ShardImages, ShardPairs

ONE = Options(shard_size=3, workers=1)
# COCO


def test_coco_captions(tmp_path: Path) -> None:
    paths = coco_folder(tmp_path)
    coco.main(coco.Config(tmp_path, paths, out=tmp_path / "out", build=ONE))
    found = samples(tmp_path / "out")
    assert captions(tmp_path / "out") == {
        "000000000009-661611": "Closeup of bins of food",
        "000000000009-661977": "A meal is presented",
        "000000000042-5": "a dog",
    }
    first = found["000000000009-661611"]
    assert first["jpg"] == (tmp_path / "train2014/COCO_train2014_000000000009.jpg").read_bytes()
    assert json.loads(first["json"])["image"] == "coco/000000000009"
    told = card(tmp_path / "out")
    assert (told["pairs"], told["unique_images"], told["average_words"]) == (3, 2, 3.7)
    assert told["rejected"] == {
        "bad row": 4,
        "broken image": 1,
        "caption too long": 1,
        "duplicate": 1,
        "empty caption": 1,
        "no image file": 1,
        "not UTF-8": 1,
        "not an image": 1,
    }
    pairs = ShardPairs(sorted((tmp_path / "out").glob("*.tar")))
    assert [pairs[index].caption for index in range(len(pairs))] == list(captions(tmp_path / "out").values())


def test_karpathys_split_of_coco(tmp_path: Path) -> None:
    coco_folder(tmp_path)
    config = coco.Config(tmp_path, karpathy=karpathy(tmp_path), out=tmp_path / "out", build=ONE)
    coco.main(config)
    assert captions(tmp_path / "out") == {
        "000000000009-90": "food",
        "000000000042-420": "a dog",
        "000000000042-421": "the dog",
    }
    assert card(tmp_path / "out")["rejected"] == {"bad row": 1, "duplicate": 1}
    with pytest.raises(ValueError, match="no image of the splits dev; it has restval, test, train"):
        coco.main(coco.Config(tmp_path, karpathy=config.karpathy, splits=("dev",), out=tmp_path / "x", build=ONE))


def test_coco_says_what_is_missing(tmp_path: Path) -> None:
    paths = coco_folder(tmp_path)
    with pytest.raises(ValueError, match="either --annotations"):
        coco.main(coco.Config(tmp_path, build=ONE))
    with pytest.raises(ValueError, match=r"no folder .*none; give --images"):
        coco.main(coco.Config(tmp_path / "none", paths, build=ONE))
    with pytest.raises(ValueError, match=r"no file .*none.json; unpack"):
        coco.main(coco.Config(tmp_path, (tmp_path / "none.json",), build=ONE))
    (tmp_path / "half.json").write_bytes(paths[0].read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"half.json is no JSON .*unpack"):
        coco.main(coco.Config(tmp_path, (tmp_path / "half.json",), build=ONE))
    with pytest.raises(ValueError, match="has no images and annotations"):
        coco.main(coco.Config(tmp_path, (karpathy(tmp_path),), build=ONE))


@pytest.mark.slow
def test_the_limit_counts_images_and_workers_change_nothing(tmp_path: Path) -> None:
    """As a user calls it; with slices of two images each, so that two processes have something to do."""
    paths = coco_folder(tmp_path)
    call = [sys.executable, str(coco.__file__), "--images", str(tmp_path), "--annotations", *map(str, paths)]
    call += ["--shard-size", "1", "--limit", "5", "--workers", "2", "--out", str(tmp_path / "two")]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1].split()[:4] == ["coco", "3", "2", "3.7"]
    coco.main(coco.Config(tmp_path, paths, out=tmp_path / "one", build=Options(shard_size=1, workers=1, limit=5)))
    assert len(list((tmp_path / "one/records").glob("coco-0*.json"))) == 3
    assert files(tmp_path / "two") == files(tmp_path / "one")
    coco.main(coco.Config(tmp_path, paths, out=tmp_path / "less", build=Options(shard_size=1, workers=1, limit=1)))
    assert list(captions(tmp_path / "less").values()) == ["Closeup of bins of food", "A meal is presented"]


# Localized Narratives


def narratives_config(root: Path, *, sentences: bool = True) -> narratives.Config:
    return narratives.Config(
        narratives_folder(root),
        open_images=root / "oi",
        coco=root / "coco",
        flickr30k=root / "flickr30k-images",
        ade20k=root / "ade",
        sentences=sentences,
        out=root / "out",
        build=ONE,
    )


def test_localized_narratives_by_sentence(tmp_path: Path) -> None:
    narratives.main(narratives_config(tmp_path))
    assert captions(tmp_path / "out") == {
        "coco-000000137576-93-0": "In this image there are doughnuts.",
        "coco-000000137576-93-1": "They are round!",
        "coco-000000137576-93-2": "3.5 of them .",
        "coco-000000137576-94-0": "Another annotator.",
        "open_images-b54ec06b6d1d5d3b-1-0": "A bird.",
        "flickr30k-7130336193-7-0": "A man",
        "ade20k-ADE_train_00020087-5-0": "A room.",
        "ade20k-ADE_train_00020087-5-1": "A bed.",
    }
    found = samples(tmp_path / "out")
    assert found["coco-000000137576-93-2"]["jpg"] == (tmp_path / "coco/train2017/000000137576.jpg").read_bytes()
    assert json.loads(found["coco-000000137576-93-2"]["json"])["image"] == "coco/000000137576"
    told = card(tmp_path / "out")
    assert (told["pairs"], told["unique_images"]) == (8, 4)
    assert told["rejected"] == {
        "bad row": 5,
        "duplicate": 1,
        "empty caption": 1,
        "no image file": 2,
        "not UTF-8": 1,
        "not an image": 1,
    }


def test_localized_narratives_whole(tmp_path: Path) -> None:
    narratives.main(narratives_config(tmp_path, sentences=False))
    assert captions(tmp_path / "out")["ade20k-ADE_train_00020087-5-0"] == "A room. A bed."
    assert card(tmp_path / "out")["pairs"] == 5


def test_localized_narratives_say_what_is_missing(tmp_path: Path) -> None:
    paths = narratives_folder(tmp_path)
    with pytest.raises(ValueError, match=r"coco_train_captions.jsonl tells of images of coco; give --coco"):
        narratives.main(narratives.Config(paths[:1], build=ONE))
    with pytest.raises(ValueError, match=r"no folder .*nowhere; give --open-images"):
        narratives.main(narratives.Config(paths[1:2], open_images=tmp_path / "nowhere", build=ONE))
    with pytest.raises(ValueError, match=r"none of .* has a line of Localized Narratives"):
        narratives.main(narratives.Config((tmp_path / "ade/training/ADE_train_00020087.jpg",), build=ONE))
    with pytest.raises(ValueError, match=r"no file .*gone.jsonl"):
        narratives.main(narratives.Config((tmp_path / "gone.jsonl",), build=ONE))


# Visual Genome


def test_visual_genomes_regions_with_the_whole_image(tmp_path: Path) -> None:
    regions = genome_folder(tmp_path)
    visual_genome.main(visual_genome.Config(regions, tmp_path, tmp_path / "out", ONE))
    assert captions(tmp_path / "out") == {
        "1-1382": "the clock is green in colour",
        "1-1383": "shade is along the street",
        "2-1": "café",
    }
    found = samples(tmp_path / "out")
    image = (tmp_path / "VG_100K_2/1.jpg").read_bytes()
    assert found["1-1382"]["jpg"] == found["1-1383"]["jpg"] == image
    copied = Options(shard_size=3, workers=1, copies=True)
    visual_genome.main(visual_genome.Config(regions, tmp_path, tmp_path / "copied", copied))
    assert samples(tmp_path / "copied") == found
    shard, whole = (min((tmp_path / name).glob("*.tar")) for name in ("out", "copied"))
    assert (shard.read_bytes().count(image), whole.read_bytes().count(image)) == (1, 2)
    pairs = ShardPairs([shard])
    assert [(pairs[i].image, pairs[i].caption) for i in range(2)] == [
        (image, "the clock is green in colour"),
        (image, "shade is along the street"),
    ]
    meta = json.loads(found["1-1382"]["json"])
    assert meta == {"image": "visual_genome/1", "image_id": 1, "region_id": 1382, "x": 421, "y": 57, "width": 82,
                    "height": 139}  # fmt: skip
    told = card(tmp_path / "out")
    assert (told["pairs"], told["unique_images"]) == (3, 2)
    assert told["rejected"] == {
        "bad row": 4,
        "duplicate": 2,
        "empty caption": 1,
        "no image file": 2,
        "not UTF-8": 1,
        "not an image": 1,
    }


def test_visual_genome_says_what_is_missing(tmp_path: Path) -> None:
    regions = genome_folder(tmp_path)
    with pytest.raises(ValueError, match=r"no folder .*nowhere; give --images"):
        visual_genome.main(visual_genome.Config(regions, tmp_path / "nowhere", build=ONE))
    with pytest.raises(ValueError, match=r"no file .*gone.json; unpack region_descriptions"):
        visual_genome.main(visual_genome.Config(tmp_path / "gone.json", tmp_path, build=ONE))
    regions.write_bytes(regions.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"region_descriptions.json is damaged at byte \d+ .*unpack"):
        visual_genome.main(visual_genome.Config(regions, tmp_path, build=ONE))


def test_a_limit_needs_no_more_of_the_file(tmp_path: Path) -> None:
    regions = genome_folder(tmp_path)
    limited = Options(shard_size=3, workers=1, limit=1)
    visual_genome.main(visual_genome.Config(regions, tmp_path, tmp_path / "out", limited))
    assert list(captions(tmp_path / "out")) == ["1-1382", "1-1383"]


# ImageNet


def test_imagenet_from_the_folder_and_from_the_tar_of_tars(tmp_path: Path) -> None:
    train = imagenet_folder(tmp_path)
    imagenet.main(imagenet.Config(train, tmp_path / "out", ONE))
    found = samples(tmp_path / "out")
    assert {key: sorted(parts) for key, parts in found.items()} == {
        "n01440764_10026": ["jpg", "json"],
        "n01440764_10027": ["jpg", "json"],
        "n01440764_10029": ["jpg", "json"],
        "n02105855_2933": ["json", "png"],
    }
    assert found["n02105855_2933"]["png"] == (train / "n02105855/n02105855_2933.JPEG").read_bytes()
    assert json.loads(found["n02105855_2933"]["json"]) == {"class": "n02105855", "image": "imagenet/n02105855_2933"}
    told = card(tmp_path / "out")
    assert (told["pairs"], told["unique_images"], told["average_words"]) == (4, 4, 0.0)
    assert told["rejected"] == {"broken image": 1, "not an image": 2}
    assert len(ShardImages(sorted((tmp_path / "out").glob("*.tar")))) == 4

    tar = imagenet_tar(train, tmp_path / "ILSVRC2012_img_train.tar")
    imagenet.main(imagenet.Config(tar, tmp_path / "from_tar", ONE))
    assert samples(tmp_path / "from_tar") == found
    assert card(tmp_path / "from_tar") == told


def test_a_limit_of_images_is_spread_over_the_classes(tmp_path: Path) -> None:
    train = imagenet_folder(tmp_path)
    imagenet.main(imagenet.Config(train, tmp_path / "three", Options(workers=1, limit=3)))
    told = card(tmp_path / "three")
    assert list(samples(tmp_path / "three")) == ["n01440764_10026", "n01440764_10027"]
    assert told["rejected"] == {"broken image": 1}
    imagenet.main(imagenet.Config(train, tmp_path / "one", Options(workers=1, limit=1)))
    assert list(samples(tmp_path / "one")) == ["n01440764_10026"]


def test_imagenets_damaged_tars(tmp_path: Path) -> None:
    train = imagenet_folder(tmp_path)
    tar = imagenet_tar(train, tmp_path / "train.tar")
    data = tar.read_bytes()
    second = data.index(b"n01440764_10027.JPEG")
    tar.write_bytes(data[:second] + b"\xff" * 512 + data[second + 512 :])  # a header of an inner tar
    imagenet.main(imagenet.Config(tar, tmp_path / "out", ONE))
    assert card(tmp_path / "out")["rejected"]["damaged tar"] == 1
    assert list(samples(tmp_path / "out")) == ["n01440764_10026", "n02105855_2933"]
    tar.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"train.tar cannot be read as a tar .*fetch it again"):
        imagenet.main(imagenet.Config(tar, tmp_path / "x", ONE))
    with pytest.raises(ValueError, match="cannot be read as a tar"):
        imagenet.main(imagenet.Config(train / "README", tmp_path / "x", ONE))
    with pytest.raises(ValueError, match=r"there is no .*nowhere; give --train"):
        imagenet.main(imagenet.Config(tmp_path / "nowhere", tmp_path / "x", ONE))
    shutil.rmtree(train / "n01440764")
    shutil.rmtree(train / "n02105855")
    with pytest.raises(ValueError, match="holds no class such as n01440764"):
        imagenet.main(imagenet.Config(train, tmp_path / "x", ONE))
