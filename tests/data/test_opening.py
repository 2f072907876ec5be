"""Sources by where they lie: each kind of place opens the source that its own constructor would make."""

import io
import json
from pathlib import Path

import fsspec
import pytest
from made_tars import make_tar, pairs
from PIL import Image

from torchflava.data.folders import FolderImages, FolderPairs
from torchflava.data.lines import TextLines
from torchflava.data.opening import name_of, open_images, open_pairs, open_texts, shards_at
from torchflava.data.shards import ShardImages, ShardPairs, ShardTexts


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), "red").save(path)
    return path


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A folder of three shards, one of photos with texts and a captions file, and a text file."""
    (tmp_path / "cc").mkdir()
    for n in range(3):
        make_tar(tmp_path / "cc" / f"{n:05}.tar", pairs(f"a{n}", f"b{n}"))
    for name in ("x", "y"):
        picture(tmp_path / "photos" / f"{name}.png").with_suffix(".txt").write_text(f"photo {name}")
    (tmp_path / "photos" / "captions.jsonl").write_text(json.dumps({"image": "x.png", "caption": "told otherwise"}))
    (tmp_path / "news.txt").write_text("one\ntwo\n\nthree\n")
    return tmp_path


def read(source, n: int | None = None):
    return [source[i] for i in range(len(source))][:n]


@pytest.mark.parametrize("place", ["cc", "cc/", "cc/*.tar", "cc/{00000..00002}.tar", "**/*.tar"])
def test_shards_by_folder_pattern_and_numbers(there: Path, place: str) -> None:
    paths = [there / "cc" / f"{n:05}.tar" for n in range(3)]
    opened = open_pairs(str(there / place), "cc")
    assert isinstance(opened, ShardPairs)
    assert opened.name == "cc"
    assert read(opened) == read(ShardPairs(paths, "cc"))
    assert read(open_images(str(there / place), "cc")) == read(ShardImages(paths, "cc"))
    assert read(open_texts(str(there / place), "cc")) == read(ShardTexts(paths, "cc"))
    assert [Path(path) for path in shards_at(str(there / place))] == paths


def test_shards_at_any_depth(there: Path) -> None:
    deep = make_tar(there / "deep.tar", pairs("z"))
    (there / "a" / "b").mkdir(parents=True)
    deep.rename(there / "a" / "b" / "deep.tar")
    assert len(shards_at(f"{there}/**/*.tar")) == 4


def test_one_shard_and_some_by_number(there: Path) -> None:
    assert len(open_pairs(str(there / "cc" / "00001.tar"))) == 2
    assert shards_at(str(there / "cc" / "{00001..00002}.tar")) == [str(there / "cc" / f"0000{n}.tar") for n in (1, 2)]


def test_folders_captions_files_and_texts(there: Path) -> None:
    photos = str(there / "photos")
    assert read(open_pairs(photos)) == read(FolderPairs(photos))
    assert [pair.caption for pair in read(open_pairs(photos))] == ["photo x", "photo y"]
    assert [pair.caption for pair in read(open_pairs(f"{photos}/captions.jsonl"))] == ["told otherwise"]
    assert read(open_images(photos)) == read(FolderImages(photos))
    assert read(open_texts(str(there / "news.txt"))) == read(TextLines(there / "news.txt"))
    assert shards_at(photos) == []


def test_urls_are_read_through_fsspec(there: Path) -> None:
    system = fsspec.filesystem("memory")
    for n in range(3):
        system.pipe_file(f"/opened/cc/{n:05}.tar", (there / "cc" / f"{n:05}.tar").read_bytes())
    try:
        for place in ("memory://opened/cc/{00000..00002}.tar", "memory://opened/cc/*.tar"):
            assert [pair.caption for pair in read(open_pairs(place))] == [
                pair.caption for pair in read(open_pairs(str(there / "cc")))
            ]
        with pytest.raises(ValueError, match=r"memory://opened/none/\*.tar names no file"):
            open_pairs("memory://opened/none/*.tar")
    finally:
        system.rm("/opened", recursive=True)


def test_data_sets_of_the_hub_saved_or_as_files(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'torchflava[hub]'")
    data = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(data, "PNG")
    columns = {"jpg": [{"bytes": data.getvalue(), "path": None}] * 2, "told": ["a", "b"]}
    features = datasets.Features({"jpg": datasets.Image(), "told": datasets.Value("string")})
    made = datasets.Dataset.from_dict(columns, features=features)
    made.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"test": made.select([1])}).save_to_disk(str(tmp_path / "splits"))
    (tmp_path / "files").mkdir()
    made.to_parquet(str(tmp_path / "files" / "train.parquet"))
    asked = "image=jpg&caption=told"
    for place in (f"{tmp_path}/saved?{asked}", f"{tmp_path}/files?split=train&{asked}"):
        opened = open_pairs(f"hub:{place}")
        assert [(pair.image, pair.caption) for pair in read(opened)] == [(data.getvalue(), "a"), (data.getvalue(), "b")]
        assert [text.text for text in read(open_texts(f"hub:{place.partition('?')[0]}?text=told"))] == ["a", "b"]
        assert [one.image for one in read(open_images(f"hub:{place.partition('?')[0]}?image=jpg"))] == [
            data.getvalue()
        ] * 2
    assert [pair.caption for pair in read(open_pairs(f"hub:{tmp_path}/splits?split=test&{asked}"))] == ["b"]
    with pytest.raises(ValueError, match="no column 'caption'"):
        open_pairs(f"hub:{tmp_path}/saved?image=jpg")
    for wrong in (f"hub:{tmp_path}/saved?picture=jpg", f"hub:{tmp_path}/saved?text=told", "hub:?split=train"):
        with pytest.raises(ValueError, match=r"must be hub:NAME\?KEY=VALUE"):
            open_pairs(wrong)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("data/coco", "coco"),
        ("data/coco/", "coco"),
        ("./coco", "coco"),
        ("data/cc/*.tar", "cc"),
        ("data/cc/{00000..00002}.tar", "cc"),
        ("s3://bucket/cc12m/{00000..00002}.tar", "cc12m"),
        ("s3://cc3m/00000.tar", "cc3m"),
        ("photos/captions.csv", "captions"),
        ("data/news.txt", "news"),
        ("00000.tar", "00000"),
        ("memory://00000.tar", "00000"),
        ("hub:user/set?split=test", "set"),
        ("hub:/data/saved/", "saved"),
    ],
)
def test_places_have_short_names(place: str, name: str) -> None:
    assert name_of(place) == name


def test_wrong_places_say_what_would_be_right(there: Path) -> None:
    news, photos = str(there / "news.txt"), str(there / "photos")
    for opened, place, match in (
        (open_pairs, there / "none", "there is no .*none; give a folder, a file, or a pattern"),
        (open_pairs, there / "cc" / "{00000..00003}.tar", "there is no .*00003.tar"),
        (open_pairs, there / "cc" / "{00003..00001}.tar", "must count up"),
        (open_pairs, there / "photos" / "*.png", "a pattern is for .tar files"),
        (open_pairs, news, r"holds no pairs; give shards, a folder of images, or a captions file \(.csv"),
        (open_images, news, "holds no images"),
        (open_pairs, "hub:", r"must be hub:NAME\?KEY=VALUE"),
        (open_texts, photos, "holds no texts; give shards, or a .txt file"),
        (open_images, f"{photos}/captions.jsonl", "holds no images"),
    ):
        with pytest.raises(ValueError, match=match):
            opened(str(place))
