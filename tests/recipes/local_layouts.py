"""Small hand-made copies of the layouts that image sources have on a user's disk, bad rows included; and readers of shards."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

PAGE = b"<!DOCTYPE html><html><body>404</body></html>"


def picture(path: Path, colour: int = 1, kind: str = "JPEG") -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    Image.new("RGB", (7, 5), (colour, 50, 90)).save(file, kind)
    path.write_bytes(file.getvalue())
    return file.getvalue()


def samples(folder: Path) -> dict[str, dict[str, bytes]]:
    """Key and ending -> bytes, over all shards, as Python's tarfile reads them."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                opened = tar.extractfile(member)
                assert opened is not None
                assert ending not in found.setdefault(key, {})
                found[key][ending] = opened.read()
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def captions(folder: Path) -> dict[str, str]:
    return {key: parts["txt"].decode() for key, parts in samples(folder).items()}


def card(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "card.json").read_bytes())
    return found


def coco_folder(root: Path) -> tuple[Path, ...]:
    picture(root / "train2014/COCO_train2014_000000000009.jpg", 9)
    (root / "train2014/COCO_train2014_000000000025.jpg").write_bytes(PAGE)
    whole = picture(root / "train2014/COCO_train2014_000000000030.jpg", 30)
    (root / "train2014/COCO_train2014_000000000030.jpg").write_bytes(whole[: len(whole) // 2])
    picture(root / "val2014/COCO_val2014_000000000042.jpg", 42)
    names = {9: "train", 25: "train", 30: "train", 36: "train", 42: "val"}
    told: dict[str, list[Any]] = {
        "train": [
            {"image_id": 9, "id": 661611, "caption": "Closeup of bins of food \n"},
            {"image_id": 9, "id": 661977, "caption": "A  meal is presented"},
            {"image_id": 9, "id": 661977, "caption": "the same number"},
            {"image_id": 9, "id": 663627, "caption": "   "},
            {"image_id": 9, "id": 663628, "caption": None},
            {"image_id": 9, "id": 663629, "caption": "x" * 9000},
            {"image_id": 9, "id": 663630, "caption": "half \ud83d"},
            {"image_id": 25, "id": 1, "caption": "a page"},
            {"image_id": 30, "id": 2, "caption": "half an image"},
            {"image_id": 36, "id": 3, "caption": "no image"},
            {"image_id": 1000, "id": 4, "caption": "no such image"},
            {"image_id": 9, "caption": "no number"},
            "not an annotation",
        ],
        "val": [{"image_id": 42, "id": 5, "caption": "a dog"}],
    }
    for split, annotations in told.items():
        images = [
            {"license": 5, "file_name": f"COCO_{part}2014_{number:012}.jpg", "height": 480, "width": 640, "id": number}
            for number, part in names.items()
            if part == split
        ]
        images.append({"id": 77, "file_name": "../../etc/passwd"})
        found = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
        (root / f"captions_{split}2014.json").write_text(json.dumps(found))
    return root / "captions_train2014.json", root / "captions_val2014.json"


def karpathy(root: Path) -> Path:
    def image(number: int, split: str, part: str, *raw: Any) -> dict[str, Any]:
        sentences = [{"tokens": [], "raw": text, "imgid": 0, "sentid": 10 * number + at} for at, text in enumerate(raw)]
        name = f"COCO_{part}_{number:012}.jpg"
        return {"filepath": part, "sentids": [], "filename": name, "imgid": 0, "split": split, "sentences": sentences,
                "cocoid": number}  # fmt: skip

    images = [
        image(42, "restval", "val2014", "a dog", "the dog"),
        image(9, "train", "train2014", "food"),
        image(9, "train", "train2014", "once more"),
        image(36, "test", "val2014", "kept for testing"),
        {"split": "train", "cocoid": 5, "filename": "../5.jpg", "sentences": []},
    ]
    (root / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    return root / "dataset_coco.json"


def narratives_folder(root: Path) -> tuple[Path, ...]:
    picture(root / "coco/train2017/000000137576.jpg", 1)
    picture(root / "oi/train/b54ec06b6d1d5d3b.jpg", 2)
    picture(root / "flickr30k-images/7130336193.jpg", 3)
    picture(root / "ade/training/ADE_train_00020087.jpg", 4)
    (root / "oi/train/dead.jpg").write_bytes(PAGE)

    def line(dataset: str, image: Any, annotator: Any, caption: Any) -> bytes:
        told = {"dataset_id": dataset, "image_id": image, "annotator_id": annotator, "caption": caption}
        told |= {"timed_caption": [{"utterance": "In", "start_time": 0.0, "end_time": 0.4}], "traces": [[{"x": 0.2}]]}
        return json.dumps(told).encode() + b"\n"

    lines = {
        "coco_train_captions": [
            line("mscoco_train2017", "137576", 93, "In this image there are doughnuts. They are round! 3.5 of them ."),
            line("mscoco_train2017", "137576", 93, "The same annotator."),
            line("mscoco_train2017", "137576", 94, "Another annotator."),
            line("mscoco_train2017", "x", 94, "No number."),
            b"\n",
            line("mscoco_train2017", "4", 94, "No image. At all."),
        ],
        "open_images_train_v6_captions": [
            line("open_images_train", "b54ec06b6d1d5d3b", 1, "A bird."),
            line("open_images_train", "dead", 1, "A page."),
            line("open_images_train", "../../secret", 1, "Outside."),
            line("open_images_train", "b54ec06b6d1d5d3b", 2, " "),
            line("open_images_train", "b54ec06b6d1d5d3b", 3, "Latin").replace(b"Latin", b"caf\xe9"),
            b'{"dataset_id": "open_im\n',
            b'["a list"]\n',
            line("elsewhere_train", "1", 1, "Unknown."),
        ],
        "flickr30k_train_captions": [line("Flick30k_train", "7130336193", 7, "A man")],
        "ade20k_train_captions": [line("ADE20k_train", "ADE_train_00020087", 5, "A room. A bed.")],
    }
    for name, told in lines.items():
        (root / f"{name}.jsonl").write_bytes(b"".join(told))
    return tuple(root / f"{name}.jsonl" for name in lines)


def genome_folder(root: Path) -> Path:
    picture(root / "VG_100K_2/1.jpg", 1)
    picture(root / "VG_100K/2.jpg", 2)
    (root / "VG_100K/3.jpg").write_bytes(b"")

    def region(number: Any, image: int, phrase: Any) -> dict[str, Any]:
        return {"region_id": number, "width": 82, "height": 139, "image_id": image, "phrase": phrase, "y": 57, "x": 421}

    told = [
        {"regions": [region(1382, 1, "the clock is green in colour"), region(1383, 1, "shade is along the street ")], "id": 1},
        {"regions": [region(1, 2, "café"), region(1, 2, "twice"), region(2, 2, ""), region("3", 2, "x"), 7], "id": 2},
        {"regions": [region(5, 1, "the image again")], "id": 1},
        {"regions": [region(6, 3, "an empty file")], "id": 3},
        {"regions": [region(7, 4, "no image"), region(8, 4, "no image")], "id": 4},
        {"regions": None, "id": 5},
        {"regions": []},
        {"regions": [region(9, 2, "LATIN")], "id": 6},
        {"regions": [], "id": 7},
    ]  # fmt: skip
    data = json.dumps(told, ensure_ascii=False).encode().replace(b"LATIN", b"caf\xe9")
    (root / "region_descriptions.json").write_bytes(data)
    return root / "region_descriptions.json"


def imagenet_folder(root: Path) -> Path:
    train = root / "train"
    for number in (10026, 10027, 10029):
        picture(train / f"n01440764/n01440764_{number}.JPEG", number % 256)
    picture(train / "n02105855/n02105855_2933.JPEG", 5, "PNG")  # as in the real one: a PNG under JPEG's name
    whole = picture(train / "n02105855/n02105855_1.JPEG", 6)
    (train / "n02105855/n02105855_1.JPEG").write_bytes(whole[: len(whole) // 2])
    (train / "n02105855/n02105855_2.JPEG").write_bytes(PAGE)
    (train / "n02105855/notes.txt").write_text("not an image")
    (train / "README").write_text("no class")
    (train / "other").mkdir()
    return train


def imagenet_tar(train: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as outer:
        for folder in sorted(train.glob("n*")):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for image in sorted(folder.iterdir()):
                    tar.add(image, image.name)
            member = tarfile.TarInfo(f"{folder.name}.tar")
            member.size = len(inner.getvalue())
            outer.addfile(member, io.BytesIO(inner.getvalue()))
    return path
