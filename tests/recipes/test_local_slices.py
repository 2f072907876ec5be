"""Slices of the sources on the user's disk, one by one: what is taken, what is rejected and why, what is never read."""

import io
import json
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/data"))  # as `python recipes/data/coco.py` does

import bookcorpus
import imagenet
import localized_narratives as narratives
import visual_genome
from building import Options, Rejected, Row
from documents import Stretch
from local_layouts import genome_folder, imagenet_folder, imagenet_tar, narratives_folder
from packing import Packing
from places import Entries

ONE = Options(shard_size=3, workers=1)


# ImageNet


def tar_of(members: Mapping[str, bytes | None]) -> bytes:
    """A tar; None makes a folder."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            member.size = len(data or b"")
            tar.addfile(member, io.BytesIO(data or b""))
    return file.getvalue()


def rows_of_tar(path: Path, members: Mapping[str, bytes | None]) -> dict[str, list[Row | Rejected]]:
    path.write_bytes(tar_of(members))
    classes = imagenet.classes_of(path)
    slices = imagenet.Slices(path, classes, None)
    return {each.name: list(slices(part)) for part, each in enumerate(classes)}


def test_members_of_the_tar_of_tars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "_MOST", 100)
    first = {
        "./": None,
        "./n00000001_1.JPEG": b"one",
        "photo.JPEG": b"",
        "n00000001_2.JPEG": b"x" * 101,
        "n00000001_3.jpg": b"3",
    }
    found = rows_of_tar(
        tmp_path / "a.tar",
        {"./n00000002.tar": tar_of({"n00000002_1.JPEG": b"two"}), "LICENSE": b"", "./n00000001.tar": tar_of(first)},
    )
    assert list(found) == ["n00000001", "n00000002"], "in the order of their names"
    assert found["n00000001"] == [
        Row("n00000001_1", b"one", "", {"image": "imagenet/n00000001_1", "class": "n00000001"}),
        Rejected("n00000001/photo.JPEG", "not an image"),
        Rejected("n00000001_2.JPEG", "image too large"),
        Row("n00000001_3", b"3", "", {"image": "imagenet/n00000001_3", "class": "n00000001"}),
    ]
    assert [row.key for row in found["n00000002"]] == ["n00000002_1"]


def test_a_class_that_was_cut_does_not_read_into_the_next(tmp_path: Path) -> None:
    cut = tar_of({"n00000001_1.JPEG": b"x" * 2000})[:1024]
    found = rows_of_tar(tmp_path / "a.tar", {"n00000001.tar": cut, "n00000002.tar": tar_of({"n00000002_1.JPEG": b"y"})})
    assert found["n00000001"] == [Rejected("n00000001.tar", "damaged tar")]
    assert [row.key for row in found["n00000002"]] == ["n00000002_1"]
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(whole[: imagenet.classes_of(tmp_path / "a.tar")[1].end - 1])
    with pytest.raises(ValueError, match=r"b\.tar cannot be read as a tar \(n00000002\.tar is cut off\)"):
        imagenet.classes_of(tmp_path / "b.tar")


def test_classes_are_folders_of_their_names(tmp_path: Path) -> None:
    for name in ("n00000003", "n00000001", "n00000002_old", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "n00000002").write_bytes(b"a file")
    assert [each.name for each in imagenet.classes_of(tmp_path)] == ["n00000001", "n00000003"]
    for image in ("n00000001_2.JPEG", "n00000001_10.JPEG", "n00000001_1.JPEG"):
        (tmp_path / "n00000001" / image).write_bytes(b"")
    slices = imagenet.Slices(tmp_path, imagenet.classes_of(tmp_path), 4)
    assert [row.key for row in slices(0)] == ["n00000001_1", "n00000001_10"]


def test_an_imagenet_of_other_settings_is_refused(tmp_path: Path) -> None:
    train = imagenet_folder(tmp_path)
    with pytest.raises(ValueError, match="--limit is 0"):
        imagenet.main(imagenet.Config(train, tmp_path / "x", Options(limit=0)))
    imagenet.main(imagenet.Config(train, tmp_path / "out", ONE))
    limited = Options(shard_size=3, workers=1, limit=3)
    for train_, options in ((train, limited), (imagenet_tar(train, tmp_path / "train.tar"), ONE)):
        with pytest.raises(ValueError, match="choose another --out"):
            imagenet.main(imagenet.Config(train_, tmp_path / "out", options))


# Localized Narratives


def line(**changed: Any) -> bytes:
    told = {"dataset_id": "mscoco_train2017", "image_id": "42", "annotator_id": 1, "caption": "A dog."}
    return json.dumps(told | changed).encode() + b"\n"


@pytest.mark.parametrize(
    "changed",
    [
        {"annotator_id": None},
        {"annotator_id": "1"},
        {"image_id": None},
        {"image_id": "\u0663"},  # a digit, but of no file's name
        {"image_id": "-3"},
        {"dataset_id": 7},
        {"dataset_id": "mscoco_../up"},
        {"dataset_id": "Open_Images_train", "image_id": "../x"},
        {"dataset_id": "imagenet_train"},
    ],
)
def test_lines_that_are_no_narratives(changed: dict[str, Any]) -> None:
    assert narratives.narrative(line(**changed)) == "bad row"


def test_what_a_line_says() -> None:
    assert narratives.narrative(b"[" * 100_000) == narratives.narrative(b"{") == "bad row"
    assert narratives.narrative(b'"\xff"') == "not UTF-8"
    told = narratives.narrative(line(image_id=42))
    assert told == narratives.narrative(line())
    assert (told.subset, told.split, told.image, told.key) == (
        "coco", "train2017", "000000000042", "coco-000000000042-1",
    )  # fmt: skip
    told = narratives.narrative(line(dataset_id="ADE20k_validation", image_id="ADE_val_1"))
    assert (told.subset, told.split) == ("ade20k", "validation")
    assert narratives.narrative(line(dataset_id="ADE20k_train", image_id="x")).split == "training"


def test_sentences_hold_a_letter_or_digit() -> None:
    assert narratives.sentences(" A room. ... A bed!  Is it? Yes 3.5 of them") == [
        "A room.", "A bed!", "Is it?", "Yes 3.5 of them",
    ]  # fmt: skip
    assert narratives.sentences("...") == []


def test_a_narrative_that_was_there_before_is_told_once_in_whichever_slice(tmp_path: Path) -> None:
    (path := tmp_path / "a.jsonl").write_bytes(
        line(caption="One. Two.")
        + line(caption="Three. Four.")
        + line(dataset_id="mscoco_val2017")  # another image of the same number
        + b"{\n"
        + line(image_id="042")
    )
    places, numbers, subsets = narratives.plan([path], None)
    assert numbers == [0, -2, 2, 3, -5]
    assert subsets == {"coco": path}
    assert len(narratives.plan([path, path], 2)[0]) == 2
    slices = narratives.Slices({"coco": tmp_path}, Entries([path], places), [[n] for n in numbers], sentences=True)
    assert [[row.key for row in slices(part)] for part in range(5)] == [
        ["coco-000000000042-1-0", "coco-000000000042-1-1"],
        ["coco-000000000042-1"],
        ["coco-000000000042-1-0"],
        ["a.jsonl@" + str(places[3].offset)],
        ["coco-000000000042-1"],
    ]
    assert [next(iter(slices(part)))[1] for part in (1, 3, 4)] == ["duplicate", "bad row", "duplicate"]


def test_narratives_of_other_settings_are_refused(tmp_path: Path) -> None:
    paths = narratives_folder(tmp_path)[:1]
    config = narratives.Config(paths, coco=tmp_path / "coco", out=tmp_path / "out", build=ONE)
    narratives.main(config)
    (tmp_path / "other").mkdir()
    for changed in (
        narratives.Config(paths, coco=tmp_path / "coco", sentences=False, out=tmp_path / "out", build=ONE),
        narratives.Config(paths, coco=tmp_path / "other", out=tmp_path / "out", build=ONE),
    ):
        with pytest.raises(ValueError, match="choose another --out"):
            narratives.main(changed)


# Visual Genome


def test_numbers_of_images() -> None:
    told: list[Any] = [{"id": 3}, {"image_id": 4}, {"id": 3, "image_id": 4}, {"id": True}, {"id": "3"}, {}, [], None]
    assert [visual_genome.image_number(each) for each in told] == [3, 4, 3, None, None, None, None, None]


def test_images_of_the_genome_in_one_folder_and_what_has_no_number(tmp_path: Path) -> None:
    (tmp_path / "7.jpg").write_bytes(b"")
    entries = [{"regions": []}, {"id": 7, "regions": [{"region_id": 1, "phrase": "a"}]}, {"regions": []}, {"id": 7}]
    (path := tmp_path / "regions.json").write_text(json.dumps(entries))
    told = visual_genome.main(visual_genome.Config(path, tmp_path, tmp_path / "out", ONE))
    assert dict(told.rejected) == {"bad row": 2, "duplicate": 1, "not an image": 1}  # 7.jpg was found, and is empty
    slices = visual_genome.Slices(tmp_path, Entries([path], [(0, 0, 5), (0, 9, 5), (0, 20, 5)]), [[-3]])
    assert list(slices(0)) == [Rejected("regions.json@20", "duplicate")]


def test_a_limit_reads_no_further_and_other_folders_are_refused(tmp_path: Path) -> None:
    whole = genome_folder(tmp_path).read_bytes()
    (regions := tmp_path / "region_descriptions.json").write_bytes(whole[:400])  # damaged behind the first image
    limited = Options(shard_size=100, workers=1, limit=1)
    visual_genome.main(visual_genome.Config(regions, tmp_path, tmp_path / "out", limited))
    with pytest.raises(ValueError, match="choose another --out"):
        visual_genome.main(visual_genome.Config(regions, tmp_path / "VG_100K", tmp_path / "out", limited))
    regions.write_bytes(whole)
    with pytest.raises(ValueError, match="choose another --out"):
        visual_genome.main(
            visual_genome.Config(regions, tmp_path, tmp_path / "out", Options(shard_size=100, workers=1, limit=2))
        )


# BookCorpus


@pytest.mark.parametrize("size", [1, 7, 20, 33, 100, 999])
def test_pieces_of_a_book_end_with_a_line(tmp_path: Path, size: int) -> None:
    data = b"".join(b"line number %d\n" % number for number in range(12)) + b"the end"
    (path := tmp_path / "a.txt").write_bytes(data)
    pieces = list(bookcorpus.pieces_of(path, size))
    assert b"".join(data[piece.start : piece.start + piece.size] for piece in pieces) == data
    assert all(data[piece.start + piece.size - 1 : piece.start + piece.size] == b"\n" for piece in pieces[:-1])
    assert all(piece.size >= min(size, piece.size) > 0 for piece in pieces)
    assert all(piece.size <= size + 15 for piece in pieces)


def test_books_are_put_together_to_slices(tmp_path: Path) -> None:
    paths = []
    for number, size in enumerate([4, 4, 2, 4, 4, 12, 0, 5]):
        paths.append(tmp_path / f"{number}.txt")
        paths[-1].write_bytes(b"x" * size)
    slices = bookcorpus.in_slices_of(paths, 10)
    assert [[piece.size for piece in part] for part in slices] == [[4, 4, 2], [4, 4], [12], [0, 5]]
    assert [[piece.size for piece in part] for part in bookcorpus.in_slices_of(paths[5:6], 10)] == [[12]]


def test_sentences_of_a_later_slice_go_on(tmp_path: Path) -> None:
    (path := tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in "abc"))
    rows = bookcorpus.Rows([[Stretch(path, 0, 2, 0)], [Stretch(path, 2, 1, 28)]], sentences=True)
    assert [(text.text, text.begins) for part in (0, 1) for text in rows(part)] == [
        ("a", True),
        ("b", False),
        ("c", False),
    ]


def test_the_limit_and_the_slices_of_books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "books").mkdir()
    for name in "abc":
        (tmp_path / "books" / f"{name}.txt").write_text(f"book {name} .")
    told = bookcorpus.main(bookcorpus.Config(tmp_path / "books", out=tmp_path / "o", packing=Packing(9), limit=2))
    assert told.documents == 2
    with pytest.raises(ValueError, match="choose another --out"):
        bookcorpus.main(bookcorpus.Config(tmp_path / "books", out=tmp_path / "o", packing=Packing(9), limit=3))
    monkeypatch.setattr(bookcorpus, "ROWS", {"sentences": 2, "documents": 1})
    (path := tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in "abcd"))
    for rows, num_slices in (("sentences", 2), ("documents", 4)):
        config = bookcorpus.Config(path, rows, tmp_path / rows, Packing(9), workers=1)  # type: ignore[arg-type]
        bookcorpus.main(config)
        assert len(list((tmp_path / rows / "records").glob("bookcorpus-0*.json"))) == num_slices
    with pytest.raises(ValueError, match="choose another --out"):
        bookcorpus.main(bookcorpus.Config(path, "documents", tmp_path / "sentences", Packing(9), workers=1))
