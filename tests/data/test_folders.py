"""Folders: read by position what was written, by the standard library's csv and json; nothing outside is ever read."""

import csv
import io
import json
import logging
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from torchflava.data import folders
from torchflava.data.folders import FolderImages, FolderPairs
from torchflava.data.samples import ImageSample, PairSample
from torchflava.transforms.image import CorruptSample, decode_image

CAPTIONS = ["a red dog", 'she said "no", twice', "two\nlines", "größer ☃ 犬"]


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images, in two folders."""
    root = tmp_path / "root"
    (root / "in" / "deep").mkdir(parents=True)
    for number, name in enumerate(["a.png", "b.PNG", "in/c.png", "in/deep/d.png"]):
        (root / name).write_bytes(png(number))
    (tmp_path / "secret.png").write_bytes(b"secret")
    return root


NAMES = ["a.png", "b.PNG", "in/c.png", "in/deep/d.png"]
ROWS = list(zip(NAMES, CAPTIONS, strict=True))


def table(path: Path, rows: list[tuple[str, ...]], **form: str) -> Path:
    with path.open("w", newline="", encoding=form.pop("encoding", "utf-8")) as file:
        csv.writer(file, **form).writerows(rows)
    return path


def lines(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def coco(path: Path, rows: list[tuple[str, str]]) -> Path:
    images = [{"id": 100 - at, "file_name": name, "height": 2} for at, (name, _) in enumerate(rows)]
    told = [{"id": at, "image_id": 100 - at, "caption": caption} for at, (_, caption) in enumerate(rows)]
    path.write_text(json.dumps({"info": {}, "images": images[::-1], "annotations": told}))
    return path


def marked(path: Path) -> Path:
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    return path


def fields(rows: list[tuple[str, str]], image: str, caption: str) -> list[object]:
    return [{image: name, caption: told, "url": None} for name, told in rows]


WRITERS = {
    "csv": lambda at: table(at / "c.csv", [("id", "image", "caption"), *(("7", *row) for row in ROWS)]),
    "open_clip": lambda at: table(at / "c.csv", [("filepath", "title"), *ROWS], delimiter="\t"),
    "tsv": lambda at: table(at / "c.tsv", [("text", "file_name"), *(r[::-1] for r in ROWS)], delimiter="\t"),
    "bom": lambda at: table(at / "c.csv", [("filepath", "title"), *ROWS], encoding="utf-8-sig"),
    "unix": lambda at: table(at / "c.txt", [("filepath", "title"), *ROWS], lineterminator="\n"),
    "blanks": lambda at: table(at / "C.CSV", [(" image", "caption "), *ROWS]),
    "jsonl": lambda at: lines(at / "c.jsonl", fields(ROWS, "file_name", "text")),
    "json": lambda at: lines(at / "c.json", [fields(ROWS, "image", "caption")]),
    "coco": lambda at: coco(at / "c.json", ROWS),
    "marked": lambda at: marked(coco(at / "c.json", ROWS)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_captions_of_every_kind(folder, tmp_path, kind):
    pairs = FolderPairs(folder, WRITERS[kind](tmp_path), "mine")
    expected = [PairSample(png(n), told, f"{name}#{n}") for n, (name, told) in enumerate(ROWS)]
    assert [pairs[i] for i in range(len(pairs))] == expected
    assert [pairs.caption(i) for i in range(4)] == CAPTIONS
    assert (pairs.name, pairs.rejected, pairs.resume) == ("mine", {}, "exact")
    assert decode_image(pairs[3].image).shape == (3, 2, 3)


def test_a_text_beside_each_image(folder, tmp_path):
    for name, told in ROWS:
        (folder / name).with_suffix(".txt").write_text(f"\n{told} \n")
    (folder / "in" / "a.png").write_bytes(png(9))
    (folder / "in" / "deep" / "d.txt").write_bytes(b"\xff")
    (folder / "b.txt").write_text(" \n")
    pairs = FolderPairs(folder)
    assert [(s.image, s.caption) for s in map(pairs.__getitem__, range(len(pairs)))] == [
        (png(0), CAPTIONS[0]),
        (png(2), CAPTIONS[2]),
    ]
    assert pairs.rejected == {"empty caption": 1, "no caption": 1, "not UTF-8": 1}


def test_texts_that_were_not_read_at_opening_are_corrupt_when_they_are_read(folder, monkeypatch):
    monkeypatch.setattr(folders, "LOOKED_FOR", 1)
    for name, told in zip(NAMES, [b"good", b"\xff", b" ", b"\xef\xbb\xbfgood"], strict=True):
        (folder / name).with_suffix(".txt").write_bytes(told)
    pairs = FolderPairs(folder)
    assert (len(pairs), pairs.rejected) == (4, {})
    assert [pairs.caption(0), pairs.caption(3)] == ["good", "good"]
    with pytest.raises(CorruptSample, match=r"b\.txt is not UTF-8"):
        pairs.caption(1)
    with pytest.raises(CorruptSample, match=r"in/c\.txt is empty"):
        pairs[2]


def test_the_last_text_that_is_looked_for_is_read_at_opening(folder, monkeypatch):
    monkeypatch.setattr(folders, "LOOKED_FOR", 3)
    monkeypatch.setattr(folders, "_LARGEST", 200)
    for name, told in zip(NAMES, [b"good", b"x" * 201, b" ", b"\xff"], strict=True):
        (folder / name).with_suffix(".txt").write_bytes(told)
    pairs = FolderPairs(folder)
    assert (len(pairs), pairs.rejected) == (2, {"unreadable caption": 1, "empty caption": 1})
    with pytest.raises(CorruptSample, match=r"d\.txt is not UTF-8"):
        pairs[1]


def test_several_captions_of_an_image_are_several_samples(folder, tmp_path):
    rows = [{"image": "a.png", "captions": ["one", "", " two "]}, {"image": "b.PNG", "captions": []}]
    for path in (lines(tmp_path / "c.jsonl", rows), lines(tmp_path / "c.json", [rows])):
        pairs = FolderPairs(folder, path)
        assert [pairs[i] for i in range(len(pairs))] == [
            PairSample(png(0), "one", "a.png#0"),
            PairSample(png(0), "two", "a.png#1"),
        ]
        assert pairs.rejected == {"empty caption": 2}


def test_what_is_left_out_is_counted_and_named(folder, tmp_path, caplog):
    rows = [
        b"image,caption",
        b"a.png,fine",
        b"b.PNG, ",
        b"in/c.png,caf\xe9",
        b"gone.png,gone",
        b"a.png,one,two",
        b"../secret.png,up",
        os.fsencode(tmp_path / "secret.png") + b",absolute",
        b"in/../../secret.png,winding",
        b",nothing",
        b"in,a folder",
        os.fsencode(folder / "in/c.png") + b",absolute but inside",
        b'in/../b.PNG,"fine, too"',
    ]
    (tmp_path / "c.csv").write_bytes(b"\n\n".join(rows) + b'\na.png,"open\nb.PNG,swallowed')
    with caplog.at_level(logging.WARNING):
        pairs = FolderPairs(folder, tmp_path / "c.csv")
    assert [pairs[i] for i in range(len(pairs))] == [
        PairSample(png(0), "fine", "a.png#0"),
        PairSample(png(2), "absolute but inside", f"{folder}/in/c.png#1"),
        PairSample(png(1), "fine, too", "in/../b.PNG#2"),
    ]
    assert pairs.rejected == {
        "empty caption": 1,
        "not UTF-8": 1,
        "missing": 2,
        "malformed": 2,
        "outside the folder": 4,
    }
    assert "not UTF-8: 1 (first: line 7); missing: 2 (first: line 9)" in caplog.text


def test_links_out_of_the_folder_are_not_followed(folder, tmp_path):
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "out").symlink_to(tmp_path)
    (folder / "same.png").symlink_to(folder / "a.png")
    rows = [("image", "caption"), ("link.png", "x"), ("out/secret.png", "x"), ("same.png", "fine")]
    pairs = FolderPairs(folder, table(tmp_path / "c.csv", rows))
    assert (len(pairs), pairs[0].image, pairs.rejected) == (1, png(0), {"outside the folder": 2})
    assert [FolderImages(folder)[i].key for i in range(5)] == ["a.png", "b.PNG", "same.png", "in/c.png", NAMES[3]]
    (folder / "same.png").unlink()
    (folder / "same.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(CorruptSample, match=r"same\.png leads out of the folder"):
        pairs[0]


def test_a_folder_that_is_itself_a_link(folder, tmp_path):
    (tmp_path / "linked").symlink_to(folder)
    pairs = FolderPairs(tmp_path / "linked", table(tmp_path / "c.csv", [("image", "caption"), *ROWS]))
    assert [pairs[i].image for i in range(4)] == [png(n) for n in range(4)]


def test_images_beyond_those_looked_for_are_missed_when_they_are_read(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "LOOKED_FOR", 2)
    rows = [("image", "caption"), ("gone.png", "x"), ("a.png", "x"), ("gone.png", "x"), ("\0.png", "x")]
    pairs = FolderPairs(folder, table(tmp_path / "c.csv", rows))
    assert (len(pairs), pairs.rejected) == (2, {"missing": 1, "outside the folder": 1})
    assert pairs.caption(1) == "x"
    with pytest.raises(CorruptSample, match=r"gone\.png is missing"):
        pairs[1]
    with pytest.raises(ValueError, match=r"missing: 2 \(first: line 2\)"):
        FolderPairs(folder, table(tmp_path / "c.csv", [rows[0], rows[1], rows[1], rows[1]]))


def test_a_pipe_is_not_waited_for_and_a_huge_file_is_not_read(folder, tmp_path, monkeypatch):
    pairs = FolderPairs(folder, table(tmp_path / "c.csv", [("image", "caption"), *ROWS]))
    (folder / "a.png").unlink()
    os.mkfifo(folder / "a.png")
    with pytest.raises(CorruptSample, match=r"a\.png is missing or is no regular file"):
        pairs[0]
    monkeypatch.setattr(folders, "_LARGEST", 10)
    with pytest.raises(CorruptSample, match=r"b\.PNG has more than 10 bytes"):
        pairs[1]


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ({"image": "img"}, r"no image='img'; give image= one of its columns: image, path, caption"),
        ({}, r"2 columns that may be the image; give image= one of its columns: image, path, caption"),
        ({"image": "path", "caption": "text"}, r"no caption='text'; give caption= .*: image, path, caption"),
    ],
)
def test_a_wrong_column_names_those_that_are_there(folder, tmp_path, named, told):
    rows = [("image", "path", "caption"), ("a.png", "b.PNG", "x")]
    for path in (
        table(tmp_path / "c.csv", rows),
        lines(tmp_path / "c.jsonl", [dict(zip(*rows, strict=True))]),
        lines(tmp_path / "c.json", [[dict(zip(*rows, strict=True))]]),
    ):
        with pytest.raises(ValueError, match=told):
            FolderPairs(folder, path, **named)
        assert FolderPairs(folder, path, image="path")[0].image == png(1)


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("c.csv", b"", r"no known column of images; give image= one of its columns: $"),
        ("c.csv", "image,caption\na.png,x\n".encode("utf-16"), "are UTF-16; save them as UTF-8"),
        ("c.csv", b"\xfe\xff" + "image,caption\na.png,x\n".encode("utf-16-be"), "are UTF-16; save them as UTF-8"),
        ("c.csv", b"im\xe9ge,caption\n", "its first row is no row of UTF-8 column names"),
        ("c.csv", b"image,caption\rb.png,x\r", "its first row is no row of"),
        ("c.csv", b"image,caption,caption\n", "2 columns that may be the caption"),
        ("c.csv", b"image,caption\n", "left out: none; there are no captions"),
        ("c.jsonl", b"[1]\nnull\n", "no line with a JSON object"),
        ("c.json", b"{", "are no JSON in UTF-8"),
        ("c.json", b"[" * 100_000, "are no JSON in UTF-8"),
        ("c.json", b"[1]", "neither COCO's images and annotations nor a list of objects"),
        ("c.json", b'{"images": []}', "neither COCO's images and annotations nor a list of objects"),
        ("c.json", b'{"images": [{"id": 1}], "annotations": []}', r"COCO's images have id and file_name.*'file_name'"),
        ("c.xlsx", b"", r"the ending '\.xlsx' is none of \.csv, \.tsv"),
    ],
)
def test_files_that_are_no_captions(folder, tmp_path, name, data, told):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=told):
        FolderPairs(folder, tmp_path / name)


def test_what_cannot_be_opened(folder, tmp_path):
    with pytest.raises(ValueError, match=r"gone\.csv cannot be read"):
        FolderPairs(folder, tmp_path / "gone.csv")
    with pytest.raises(ValueError, match="there is no folder"):
        FolderPairs(tmp_path / "gone")
    with pytest.raises(ValueError, match="no caption: 4"):
        FolderPairs(folder)
    with pytest.raises(ValueError, match="give captions="):
        FolderPairs(folder, image="image")
    with pytest.raises(ValueError, match="leave image and caption out"):
        FolderPairs(folder, coco(tmp_path / "c.json", ROWS), caption="caption")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="has no image"):
        FolderImages(tmp_path / "none")


def test_bad_lines_of_json(folder, tmp_path):
    data = [
        b'{"image": "a.png", "caption": "fine"}',
        b'{"image": "a.png"}',
        b'{"caption": "x"}',
        b"{",
        b"[]",
        b"caf\xe9",
    ]
    data += [b'{"image": "a.png", "caption": 3}', b'{"image": "a.png", "caption": ["x", null]}']
    data += [b'\xef\xbb\xbf{"image": "a.png", "caption": "marked, not at the beginning"}']
    data += [b'{"image": "a.png", "caption": "\\ud83d"}', b'{"image": "\\ud83d", "caption": "x"}', b" ", b"[" * 100_000]
    (tmp_path / "c.jsonl").write_bytes(
        b"\xef\xbb\xbf" + b"\r\n".join(data) + b'\n{"image": "b.PNG", "caption": "last"}'
    )
    pairs = FolderPairs(folder, tmp_path / "c.jsonl")
    assert [pairs[i].caption for i in range(len(pairs))] == ["fine", "last"]
    assert pairs.rejected == {"empty caption": 1, "malformed": 7, "not UTF-8": 2, "outside the folder": 1}


def test_captions_of_an_unknown_image_of_coco(folder, tmp_path):
    found = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"image_id": i, "caption": "x"} for i in (1, 2)],
    }
    (tmp_path / "c.json").write_text(json.dumps(found))
    pairs = FolderPairs(folder, tmp_path / "c.json")
    assert (len(pairs), pairs.rejected) == (1, {"malformed": 1})


def test_a_file_that_has_changed(folder, tmp_path):
    path = table(tmp_path / "c.csv", [("image", "caption"), *ROWS])
    pairs = FolderPairs(folder, path)
    os.truncate(path, path.stat().st_size - 30)
    with pytest.raises(ValueError, match=r"c\.csv have changed since they were opened"):
        [pairs[i] for i in range(4)]


def test_a_row_that_has_fewer_captions_than_it_had(folder, tmp_path):
    (path := tmp_path / "c.jsonl").write_text('{"image": "a.png", "captions": ["one", "two"]}')
    pairs = FolderPairs(folder, path)
    path.write_text('{"image": "a.png", "captions": ["one,  two"]}')
    with pytest.raises(ValueError, match=r"c\.jsonl have changed since they were opened"):
        pairs[1]


def test_a_row_without_an_end_is_left_out(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("torchflava.data.caption_rows._LONGEST", 30)
    path = table(tmp_path / "c.csv", [("image", "caption"), ("a.png", "x" * 40), ("a.png", "short")])
    pairs = FolderPairs(folder, path)
    assert (len(pairs), pairs.caption(0), pairs.rejected) == (1, "short", {"malformed": 1})


@pytest.mark.parametrize("index", [-1, 4])
def test_an_index_outside(folder, tmp_path, index):
    pairs = FolderPairs(folder, table(tmp_path / "c.csv", [("image", "caption"), *ROWS]))
    for source in (pairs, FolderImages(folder)):
        with pytest.raises(IndexError, match=rf"index {index} lies outside \[0, 4\)"):
            source[index]
    with pytest.raises(IndexError, match=rf"index {index} lies"):
        pairs.caption(index)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "coco"])
def test_threads_and_pickling_change_nothing(folder, tmp_path, kind):
    pairs = FolderPairs(folder, WRITERS[kind](tmp_path))
    indices = np.random.default_rng(0).integers(0, 4, 200).tolist()
    alone = [pairs[i] for i in indices]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(pickle.loads(pickle.dumps(pairs)).__getitem__, indices)) == alone


def test_images_of_a_folder(folder, tmp_path):
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "png").write_bytes(b"")
    (folder / "notes.txt").write_bytes(b"")
    odd = os.fsencode(folder) + b"/in/\xff.jpg"
    with open(odd, "wb") as file:
        file.write(png(7))
    images = FolderImages(folder, "mine")
    assert [images[i] for i in range(len(images))] == [
        ImageSample(png(0), "a.png"),
        ImageSample(png(1), "b.PNG"),
        ImageSample(png(2), "in/c.png"),
        ImageSample(png(7), r"in/\udcff.jpg"),
        ImageSample(png(3), "in/deep/d.png"),
    ]
    assert (images.name, images.resume) == ("mine", "exact")
    assert [pickle.loads(pickle.dumps(images))[i] for i in range(5)] == [images[i] for i in range(5)]
    os.unlink(odd)
    with pytest.raises(CorruptSample, match=r"\\udcff\.jpg is missing"):
        images[3]


def test_a_row_costs_16_bytes(folder, tmp_path):
    path = table(tmp_path / "c.csv", [("image", "caption"), *[("a.png", "x" * 100)] * 500])
    size = len(pickle.dumps(FolderPairs(folder, path)))
    path = table(tmp_path / "c.csv", [("image", "caption"), *[("a.png", "x" * 100)] * 1500])
    assert len(pickle.dumps(FolderPairs(folder, path))) - size < 1000 * 16 + 100


nasty = st.text(st.sampled_from("ab \",\t\n\r'é☃\u2028\x85\x00\ufeff"), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(nasty, nasty), min_size=1, max_size=8),
    delimiter=st.sampled_from(",\t"),
    form=st.sampled_from([("\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_MINIMAL), ("\r\n", csv.QUOTE_ALL)]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_whatever_csv_writes_is_read(folder, tmp_path, rows, delimiter, form, encoding):
    written = [("other", "image", "caption"), *((other, "a.png", told) for other, told in rows), ("", "a.png", "last")]
    end, quoting = form  # with "\n" alone and minimal quoting, csv writes a bare "\r" that it refuses to read itself
    named = {"delimiter": delimiter, "lineterminator": end, "quoting": quoting}
    path = table(tmp_path / "c.csv", written, encoding=encoding, **named)
    pairs = FolderPairs(folder, path)
    expected = [told.strip() for _, told in rows if told.strip()] + ["last"]
    assert [pairs[i].caption for i in range(len(pairs))] == expected
    assert sum(pairs.rejected.values()) == len(rows) + 1 - len(expected)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60))
def test_no_bytes_break_the_reader(folder, tmp_path, data):
    for name, head in (("c.csv", b"image,caption\na.png,x\n"), ("c.jsonl", b'{"image": "a.png", "caption": "x"}\n')):
        (tmp_path / name).write_bytes(head + data)
        pairs = FolderPairs(folder, tmp_path / name)
        assert pairs.caption(0) == "x"
        assert all(pairs.caption(i) for i in range(len(pairs)))
