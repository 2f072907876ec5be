"""Hugging Face datasets by position: equal to what datasets returns, undecoded; from disk, from threads, without network."""

import ast
import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'torchflava[hub]'")
fsspec = pytest.importorskip("fsspec")
pa = pytest.importorskip("pyarrow")

from torchflava.data.hub import HubImages, HubPairs, HubTexts  # noqa: E402
from torchflava.data.samples import ImageSample, PairSample, TextSample  # noqa: E402
from torchflava.transforms.image import CorruptSample, decode_image  # noqa: E402


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


CAPTIONS = ["a red dog", None, " zwei ☃ ", "", "last"]


@pytest.fixture
def rows(tmp_path: Path):
    """Five captioned images, saved and loaded as datasets does."""
    images = [{"bytes": png(n), "path": None} for n in range(5)]
    columns = {"image": images, "caption": CAPTIONS, "label": list(range(5))}
    features = datasets.Features(
        {"image": datasets.Image(), "caption": datasets.Value("string"), "label": datasets.Value("int64")}
    )
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "saved"))
    return datasets.load_from_disk(str(tmp_path / "saved"))


def test_pairs_are_the_files_as_they_came(rows):
    pairs = HubPairs(rows, name="mine")
    assert [pairs[i] for i in range(len(pairs))] == [
        PairSample(png(0), "a red dog", "mine/0"),
        PairSample(png(2), "zwei ☃", "mine/2"),
        PairSample(png(4), "last", "mine/4"),
    ]
    assert [pairs.caption(i) for i in range(3)] == ["a red dog", "zwei ☃", "last"]
    assert (pairs.num_rejected, pairs.name, pairs.resume) == (2, "mine", "exact")
    assert decode_image(pairs[1].image).permute(1, 2, 0).numpy().tolist() == np.asarray(rows[2]["image"]).tolist()


def test_captions_are_read_without_images(rows):
    broken = rows.map(lambda row: {"image": b"no image"}, features=datasets.Features(dict(rows.features)))
    assert HubPairs(broken).caption(1) == "zwei ☃"


def test_images_and_texts(rows):
    images, texts = HubImages(rows), HubTexts(rows, "caption")
    assert [images[i] for i in range(len(images))] == [ImageSample(png(n), f"images/{n}") for n in range(5)]
    assert [texts[i] for i in range(len(texts))] == [
        TextSample("a red dog", "texts/0"),
        TextSample("zwei ☃", "texts/2"),
        TextSample("last", "texts/4"),
    ]
    assert (texts.num_rejected, images.resume, texts.resume) == (2, "exact", "exact")


def test_shuffled_selected_and_formatted_datasets(rows):
    chosen = rows.select([4, 2, 2, 1]).with_format("numpy")
    assert [HubPairs(chosen)[i].image for i in range(3)] == [png(4), png(2), png(2)]
    for form in ("arrow", "pandas", "torch"):
        formatted = rows.with_format(form)
        assert [HubPairs(formatted)[i] for i in range(3)] == [HubPairs(rows)[i] for i in range(3)]
        assert type(HubTexts(formatted, "caption")[0].text) is str
    shuffled = rows.shuffle(seed=3)
    images = HubImages(shuffled)
    assert [images[i].image for i in range(5)] == [png(label) for label in shuffled["label"]]


def test_each_caption_of_a_list_makes_a_pair():
    told = [["one", " ", "two"], [], None, ["three", None]]
    dataset = datasets.Dataset.from_dict({"image": [png(n) for n in range(4)], "captions": told})
    pairs = HubPairs(dataset, caption="captions")
    assert [pairs[i] for i in range(len(pairs))] == [
        PairSample(png(0), "one", "pairs/0/0"),
        PairSample(png(0), "two", "pairs/0/2"),
        PairSample(png(3), "three", "pairs/3/0"),
    ]
    assert pairs.num_rejected == 4
    assert [HubTexts(dataset, "captions")[i].text for i in range(3)] == ["one", "two", "three"]


@pytest.mark.parametrize("n", [9_999, 10_000, 20_001])
def test_places_go_on_from_table_to_table(n):
    dataset = datasets.Dataset.from_dict({"text": ["" if i % 3 else str(i) for i in range(n)]})
    lists = datasets.Dataset.from_dict({"text": [[] if i % 3 else ["", str(i)] for i in range(n)]})
    for source in (HubTexts(dataset), HubTexts(lists)):
        assert len(source) == -(-n // 3)
        assert source[len(source) - 1].text == str((n - 1) // 3 * 3)
    assert HubTexts(dataset).num_rejected == n - len(HubTexts(dataset))
    assert HubTexts(lists).num_rejected == n  # a blank text or an empty list in each row


def test_columns_of_large_strings_lists_and_bytes():
    told = [["one", "two"], ["three"]]
    for of_texts in (datasets.List, datasets.LargeList):
        features = datasets.Features(
            {"image": datasets.Value("large_binary"), "caption": of_texts(datasets.Value("large_string"))}
        )
        columns = {"image": [png(0), png(1)], "caption": told}
        pairs = HubPairs(datasets.Dataset.from_dict(columns, features=features))
        assert [(s.image, s.caption) for s in map(pairs.__getitem__, range(3))] == [
            (png(0), "one"),
            (png(0), "two"),
            (png(1), "three"),
        ]


@pytest.mark.parametrize("listed", [False, True])
def test_threads_and_pickling_change_nothing(rows, listed):
    rows = rows.map(lambda row: {"caption": [row["caption"] or "none"] * 2}) if listed else rows
    pairs = HubPairs(rows)
    indices = np.random.default_rng(0).integers(0, len(pairs), 200).tolist()
    alone = [pairs[i] for i in indices]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(pickle.loads(pickle.dumps(pairs)).__getitem__, indices)) == alone


def test_images_that_lie_elsewhere(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    with fsspec.open("memory://there/b.png", "wb") as file:
        file.write(png(2))
    paths = [str(tmp_path / "a.png"), "memory://there/b.png", str(tmp_path / "gone"), "memory://gone", "odd://x", None]
    column = [path and {"path": path, "bytes": None} for path in paths]
    features = datasets.Features({"image": datasets.Image()})
    images = HubImages(datasets.Dataset.from_dict({"image": column}, features=features))
    assert [images[0].image, images[1].image] == [png(1), png(2)]
    for index, told in enumerate(
        ["gone is missing", "memory://gone cannot be read", "odd://x cannot", "images/5 has no"]
    ):
        with pytest.raises(CorruptSample, match=told):
            images[2 + index]


def test_a_huge_image_elsewhere_is_not_read(monkeypatch):
    monkeypatch.setattr("torchflava.data.hub._LARGEST", 10)
    with fsspec.open("memory://there/huge.png", "wb") as file:
        file.write(b"x" * 11)
    features = datasets.Features({"image": datasets.Image()})
    column = [{"path": "memory://there/huge.png", "bytes": None}]
    images = HubImages(datasets.Dataset.from_dict({"image": column}, features=features))
    with pytest.raises(CorruptSample, match=r"huge\.png has more than 10 bytes"):
        images[0]


def test_a_caption_that_is_not_utf8_and_one_of_wide_blanks():
    offsets = np.array([0, 4, 8, 11], dtype=np.int32).tobytes()
    column = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(offsets), pa.py_buffer(b"goodcaf\xe9\xe3\x80\x80")]
    )
    texts = HubTexts(datasets.Dataset(pa.table({"text": column})))
    assert texts[0].text == "good"
    with pytest.raises(CorruptSample, match="row 1 of column 'text' is not UTF-8"):
        texts[1]
    with pytest.raises(CorruptSample, match="row 2 of column 'text' is blank"):
        texts[2]


def test_a_wrong_column_names_those_that_are_there(rows):
    for open_it in (lambda: HubPairs(rows, caption="text"), lambda: HubTexts(rows)):
        with pytest.raises(ValueError, match="no column 'text'; its columns are image, caption, label"):
            open_it()
    with pytest.raises(ValueError, match="no column 'jpg'; its columns are"):
        HubImages(rows, "jpg")
    with pytest.raises(ValueError, match=r"'caption' holds .*no images; if these are files, dataset\.cast_column"):
        HubImages(rows, "caption")
    with pytest.raises(ValueError, match=r"'label' holds .*; strings or lists of strings are due"):
        HubPairs(rows, caption="label")


def test_what_is_no_dataset_with_positions(rows):
    with pytest.raises(ValueError, match="2 splits was given; pass one of them: train, test"):
        HubImages(datasets.DatasetDict({"train": rows, "test": rows}))
    with pytest.raises(ValueError, match="a IterableDataset has no positions"):
        HubPairs(rows.to_iterable_dataset())
    with pytest.raises(ValueError, match="transform would be left out"):
        HubPairs(rows.with_transform(lambda batch: batch))
    with pytest.raises(ValueError, match="has no row"):
        HubImages(rows.select([]))
    with pytest.raises(ValueError, match="none of 2 rows has a text in column 'caption'"):
        HubPairs(rows.select([1, 3]))
    with pytest.raises(ValueError, match="none of 0 rows"):
        HubTexts(rows.select([]), "caption")


@pytest.mark.parametrize("index", [-1, 5])
def test_an_index_outside(rows, index):
    with pytest.raises(IndexError, match=rf"images: index {index} lies outside \[0, 5\)"):
        HubImages(rows)[index]
    with pytest.raises(IndexError):
        HubPairs(rows).caption(index)
    with pytest.raises(IndexError):
        HubTexts(rows, "caption")[index]


@pytest.mark.parametrize("file", ["hub.py", "hub_streams.py"])
def test_importing_does_not_import_datasets(file):
    tree = ast.parse((Path(__file__).parents[2] / "torchflava/data" / file).read_text())
    at_once = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(at_once) > 3
    assert not [line for line in at_once if line.split()[1].split(".")[0] in ("datasets", "pyarrow", "fsspec")]
