"""Images with captions: what is read of split files and captions files, and what is refused."""

import json
from pathlib import Path

import pytest
from made_tasks import picture

from torchflava.tasks import MissingData, read_captioned


def told(folder: Path, images: object, dataset: str = "coco") -> Path:
    file = folder / "dataset.json"
    file.write_text(json.dumps({"images": images, "dataset": dataset}))
    return file


def image(name: str, *raws: str, split: str = "test", **more: str) -> dict[str, object]:
    return {"filename": name, "split": split, "sentences": [{"raw": raw} for raw in raws], **more}


def test_images_lie_in_their_filepath_or_beside_each_other(tmp_path: Path) -> None:
    picture(tmp_path / "val2014/a.png", 0)
    picture(tmp_path / "b.png", 1)
    file = told(
        tmp_path,
        [
            image("a.png", "One\n  cat ", "two", "three", filepath="val2014"),
            image("c.png", "left out", split="train"),
            image("b.png", "four", filepath="val2014"),
        ],
    )
    found = read_captioned(file, tmp_path, most=2)
    assert (found.name, found.split) == ("coco", "test")
    assert found.images == [tmp_path / "val2014/a.png", tmp_path / "b.png"]
    assert found.texts == ["One cat", "two", "four"]
    assert found.owner.tolist() == [0, 0, 1]


def test_rows_of_an_image_are_put_together(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name, 0)
    (tmp_path / "rows.tsv").write_text("filepath\tcaption\nb.png\tone\na.png\ttwo\nb.png\tthree\n")
    found = read_captioned(tmp_path / "rows.tsv", tmp_path)
    assert ([path.name for path in found.images], found.texts) == (["b.png", "a.png"], ["one", "three", "two"])
    assert (found.name, found.split, found.owner.tolist()) == ("rows", "", [0, 0, 1])


def test_coco_s_own_captions_are_no_split_file(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 0)
    file = tmp_path / "captions_val2014.json"
    file.write_text(
        json.dumps(
            {
                "images": [{"id": 7, "file_name": "a.png"}],
                "annotations": [{"id": 1, "image_id": 7, "caption": "one"}, {"id": 2, "image_id": 7, "caption": "two"}],
            }
        )
    )
    found = read_captioned(file, tmp_path)
    assert (found.name, found.texts, found.owner.tolist()) == ("captions_val2014", ["one", "two"], [0, 0])


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="give Karpathy's JSON or a captions file"):
        read_captioned(tmp_path / "none.json", tmp_path)
    file = told(tmp_path, [image("a.png", "one")])
    with pytest.raises(MissingData, match=r"a\.png, which is not there; 1 images of it belong below"):
        read_captioned(file, tmp_path)
    picture(tmp_path / "a.png", 0)
    with pytest.raises(ValueError, match=r"no split 'val'; it has test"):
        read_captioned(file, tmp_path, "val")
    with pytest.raises(ValueError, match="0 captions an image"):
        read_captioned(file, tmp_path, most=0)
    with pytest.raises(ValueError, match=r"a\.png has no caption"):
        read_captioned(told(tmp_path, [image("a.png")]), tmp_path)
    with pytest.raises(ValueError, match=r"not laid out as Karpathy's.*'raw'"):
        read_captioned(
            told(tmp_path, [{"filename": "a.png", "split": "test", "sentences": [{"tokens": []}]}]), tmp_path
        )
    file.write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        read_captioned(file, tmp_path)
    (tmp_path / "rows.tsv").write_text("filepath\tcaption\n")
    with pytest.raises(ValueError, match=r"rows\.tsv holds no row"):
        read_captioned(tmp_path / "rows.tsv", tmp_path)
    with pytest.raises(ValueError, match=r"a caption of a\.png holds half a character"):
        read_captioned(told(tmp_path, [image("a.png", "half \ud800")]), tmp_path)


@pytest.mark.parametrize("name", ["../a.png", "inner/../../a.png", "ABSOLUTE"])
def test_an_image_that_is_not_below_the_folder_is_not_opened(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "images"
    picture(tmp_path / "a.png", 0)
    picture(folder / "inner/b.png", 0)
    outside = str(tmp_path / "a.png") if name == "ABSOLUTE" else name
    (tmp_path / "rows.tsv").write_text(f"filepath\tcaption\ninner/../inner/b.png\tone\n{outside}\ttwo\n")
    for file in (tmp_path / "rows.tsv", told(tmp_path, [image(outside, "two")])):
        with pytest.raises(ValueError, match=r"a\.png, which is not below .*images; give the folder"):
            read_captioned(file, folder)
    (tmp_path / "rows.tsv").write_text(f"filepath\tcaption\ninner/../inner/b.png\tone\n{folder}/inner/b.png\ttwo\n")
    assert read_captioned(tmp_path / "rows.tsv", folder).texts == ["one", "two"]
