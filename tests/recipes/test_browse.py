"""recipes/data/browse.py on shards: what is shown, counted and rejected; hostile captions, keys and metadata; its complaints."""

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from browsed import Element, hidden, image_file, read_page, sample
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/data"))  # as `python recipes/data/browse.py` does

import browse

from torchflava.data.order import draw, keyed_rng
from torchflava.data.shards import ShardPairs
from torchflava.data.tars import write_shards
from torchflava.transforms.image import TrainViews, decode_image
from torchflava.transforms.masking import block_mask

ROOT = Path(__file__).parents[2]
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"
CAPTIONS = ["a red house", "A red house", "two dogs & a cat", SCRIPT, "the sea", "a red house", "rain \u202e\x07on it"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven good pairs, four that cannot be read, and one of each that lacks something."""
    path = tmp_path_factory.mktemp("data") / "shards"
    path.mkdir()
    meta = json.dumps({"note": SCRIPT, "half": "\ud800", "title": 'a "b"'}).encode()
    good = [sample(f"good{i}", i, caption, json=meta) for i, caption in enumerate(CAPTIONS)]
    bad = [
        sample("html<b>", 0, "not an image", image=b"<html><b>404</b>"),
        sample("cut", 0, "half an image", image=image_file(3)[:200]),
        sample("latin", 0, "caf\xe9".encode("latin-1")),
        sample("blank", 0, "  "),
        sample("alone", 1, None),
        sample("text", 1, "no image here", image=None),
        ("neither<i>", {"json": b"{}"}),
    ]
    write_shards([*good[:4], *bad[:3]], path / "a", 100)
    write_shards([*good[4:], *bad[3:]], path / "b", 100)
    card = {"name": "coco", "rejected": {"bad row": 3, "duplicate": 1}, "examples": {"bad row": ["x<u>", 7]}}
    (path / "card.json").write_text(json.dumps(card))
    return path


@pytest.fixture(scope="module")
def written(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return browse.main([str(folder), "--out", str(tmp_path_factory.mktemp("page") / "new/page.html")])


@pytest.fixture(scope="module")
def page(written: Path) -> Element:
    return read_page(written)


def pixels(image: Element) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(image.attributes["src"].partition(",")[2])))


def test_samples_stand_in_the_order_of_training_with_the_papers_masks(folder: Path, page: Element) -> None:
    figures = page.all("figure", of="sample")
    source = ShardPairs(sorted(folder.glob("*.tar")), "shards")
    places = [at for _, at in draw(len(source), "shards", 0, numbers=np.arange(11, dtype=np.uint64))]
    assert len(figures) == len(source) == 11
    for figure, at in zip(figures, places, strict=True):
        key = source.key(at)
        if not key.partition("/")[2].startswith("good"):
            assert f"In place of: {key}" in figure.text
            continue
        caption, image = source[at].caption, decode_image(source[at].image)
        assert figure.one("p", of="caption").text == " ".join(
            caption.replace("\u202e", "\\u202e").replace("\x07", "\\x07").split()
        )
        assert figure.one("p", of="key").text == f"{key} · 40 \u00d7 30 px"
        assert not figure.all("p", of="fault")
        stored, view = figure.all("img")
        assert pixels(stored).size == (40, 30)
        assert pixels(view).size == (224, 224)
        assert stored.attributes["alt"] == f"stored image of {key}"
        rng = keyed_rng(0, "shards", 0, at)
        rng.random()  # whether the text is another's: never, for shards alone
        TrainViews(224, 112)(image, rng)
        mask = block_mask((14, 14), rng, num_masked=75)
        assert hidden(figure, 14) == set(mask.flatten().nonzero()[0].tolist())
        assert 60 < mask.sum() <= 75


def test_histograms_count_each_sample_once(page: Element) -> None:
    charts = page.under("Lengths").all("figure", of="chart")
    titles = {chart.one("b").text: chart for chart in charts}
    assert set(titles) == {"Length in words", "Length in tokens", "Size of a file"}
    for title, chart in titles.items():
        assert sum(int(bar.attributes["data-count"]) for bar in chart.all("rect")) == 7, title
    words = {bar.one("title").text: bar.attributes["data-count"] for bar in titles["Length in words"].all("rect")}
    assert words == {"2: 1": "1", "3: 5": "5", "4: 0": "0", "5: 1": "1"}
    assert "Width: all 7 are 40 pixels." in page.text
    assert "11 of 11 samples measured, drawn by a key; 4 cannot be read" in page.text


def test_frequent_words_and_captions_are_counted(page: Element) -> None:
    measured = page.under("Lengths")
    chips = [li.text for li in measured.one("ol", of="frequent").all("li")]
    assert chips[:3] == ["a 57.1 %", "house 42.9 %", "red 42.9 %"]
    (row,) = measured.one("tbody").all("tr")
    assert row.text == "2 a red house"
    assert "28.6 % of the texts occur more than once" in measured.text
    assert "0 % of the texts are cut at 77 tokens" in measured.text


def test_nothing_in_the_data_becomes_markup(written: Path, page: Element) -> None:
    text = written.read_text(encoding="utf-8")
    assert SCRIPT in page.text
    assert '"note": ' in page.text
    assert "\\ud800" in text
    assert not page.all("script")
    assert not page.all("i")
    assert not page.all("u")
    assert all(set(image.attributes) <= {"src", "alt", "loading", "class"} for image in page.all("img"))
    assert all(image.attributes["src"].startswith("data:image/") for image in page.all("img"))
    (policy,) = [meta for meta in page.all("meta") if "http-equiv" in meta.attributes]
    assert policy.attributes["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "http:" not in text
    assert "https:" not in text


def test_what_is_not_trained_on_is_told_by_reason(folder: Path, page: Element) -> None:
    unread, indexed, built = page.under("Rejects").all("tbody")
    reasons = {row.all("td")[0].text: row.all("td")[2].text for row in unread.all("tr")}
    assert reasons["its caption is empty"] == "b-00000.tar/blank"
    assert reasons["UnidentifiedImageError: cannot identify image file"] == "a-00000.tar/html<b> <html><b>404</b>"
    assert any(reason.startswith("its caption is not UTF-8") and "latin" in told for reason, told in reasons.items())
    (cut,) = [told for told in reasons.values() if "/cut" in told]
    assert cut == f"a-00000.tar/cut {repr(image_file(3)[:16])[2:-1]}"
    assert [[cell.text for cell in row.all("td")] for row in indexed.all("tr")] == [
        ["no caption", "1", "b-00000.tar/alone"],
        ["no image", "1", "b-00000.tar/text"],
        ["no image and no caption", "1", "b-00000.tar/neither<i>"],
    ]
    assert [row.text for row in built.all("tr")] == [
        f"{folder}/card.json: coco bad row 3 x<u>, 7",
        f"{folder}/card.json: coco duplicate 1",
    ]
    assert "3 incomplete" in page.one("section", id="sources").text


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes(folder: Path, written: Path, tmp_path: Path) -> None:
    """In another process too, where sets have another order."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    words = [sys.executable, str(ROOT / "recipes/data/browse.py"), str(folder), "--out", str(tmp_path / "p.html")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'p.html'} (")
    assert (tmp_path / "p.html").read_bytes() == written.read_bytes()
    assert list(tmp_path.iterdir()) == [tmp_path / "p.html"]


def test_images_texts_and_lines_are_shown_as_what_they_are(tmp_path: Path) -> None:
    for name in ("images", "texts"):
        (tmp_path / name).mkdir()
    wide = image_file(1, (600, 300))
    alone = sample("t", 0, "a text among images", image=None)
    write_shards([sample("w", 1, None, image=wide), sample("v", 2, None), alone], tmp_path / "images/s", 9)
    write_shards([sample(key, 1, f"a text of {key}", image=None) for key in "xyz"], tmp_path / "texts/s", 9)
    (tmp_path / "lines.txt").write_text("one line\nanother line\n" + "word " * 600)
    out = browse.main(
        [*map(str, (tmp_path / "images", tmp_path / "texts", tmp_path / "lines.txt")), "--out", f"{tmp_path}/p"]
    )
    page = read_page(out)
    for kind, num in (("images", 2), ("texts", 3), ("lines.txt", 3)):
        figures = page.under(str(tmp_path / kind)).all("figure", of="sample")
        assert len(page.under("Samples").under(str(tmp_path / kind)).all("figure", of="sample")) == num, figures
    images = page.under("Samples").under(str(tmp_path / "images"))
    assert sorted(pixels(figure.all("img")[0]).size for figure in images.all("figure", of="sample")) == [
        (40, 30),
        (200, 100),
    ]
    assert len(page.under("Samples").all("svg", of="mask")) == 2
    assert "33.3 % of the texts are cut at 512 tokens" in page.under("Lengths").under(str(tmp_path / "lines.txt")).text


def test_a_vocabulary_of_ones_own_splits_the_words(folder: Path, tmp_path: Path) -> None:
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "ho", "##use"]) + "\n")
    page = read_page(browse.main([str(folder), "--vocab", str(vocab), "--out", str(tmp_path / "p"), "--num", "3"]))
    assert "9 tokens in the vocabulary" in page.text
    figures = page.all("figure", of="sample")
    assert len(figures) == 3
    told = [p.text for figure in figures for p in figure.all("p", of="words")]
    assert all(set(text.split()) <= {"a", "red", "house", "[UNK]", "[MASK]", "ho", "##use"} for text in told), told


def test_a_damaged_shard_is_left_out_and_told(folder: Path, tmp_path: Path) -> None:
    write_shards([sample("k", 1, "a cat")], tmp_path / "s", 9)
    (tmp_path / "bad.tar").write_bytes((folder / "a-00000.tar").read_bytes()[:1500])
    page = read_page(browse.main([str(tmp_path), "--out", str(tmp_path / "p")]))
    assert len(page.all("figure", of="sample")) == 1
    assert f"Left out: shard {tmp_path}/bad.tar cannot be read" in page.under("Rejects").text


def test_shards_that_hold_nothing_readable_make_a_page_too(tmp_path: Path) -> None:
    write_shards([sample(key, 1, b"\xff\xfe", image=b"no image") for key in "ab"], tmp_path / "s", 9)
    page = read_page(browse.main([str(tmp_path), "--out", str(tmp_path / "p")]))
    figures = page.all("figure", of="sample")
    assert len(figures) == 2
    assert all("Cannot be read: s-00000.tar/" in figure.text for figure in figures)
    assert not page.all("figure", of="chart")
    assert "2 of 2 samples measured, drawn by a key; 2 cannot be read" in page.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to show: give folders of .tar files"),
        (["EMPTY"], "EMPTY names no shards; give folders of .tar files"),
        (["FOLDER", "--num", "0"], "--num 0 must be 1 or more"),
        (["FOLDER", "--measure", "0"], "--measure 0 must be 1 or more"),
        (["FOLDER", "--first-step", "3"], "--first-step 3 is a run's"),
        (["FOLDER", "--vocab", "FOLDER/card.json"], "card.json: no tokenizer.json"),
        (["FOLDER", "--vocab", "EMPTY/vocab.txt"], "vocab.txt: there is no such file"),
        (["FOLDER", "--seed", "3"], "--seed is no flag for shards; give either folders or flags of pretrain.py"),
        (["--run", "EMPTY", "--vocab", "v.txt"], "--vocab v.txt is for shards and mixtures; a run has a vocabulary of"),
        (["--preset", "tiny", "--first-step", "-1"], "--first-step -1 must be 0 or more"),
        (["--run", "EMPTY"], "--run EMPTY: its config.json cannot be read"),
        (["--run", "EMPTY", "--preset", "tiny"], "--run EMPTY says all that --preset tiny would"),
        (["FOLDER", "--out", "EMPTY"], "--out EMPTY is a folder; name a file, such as EMPTY/page.html"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(words: list[str], said: str, folder: Path, tmp_path: Path) -> None:
    def put(word: str) -> str:
        return word.replace("FOLDER", str(folder)).replace("EMPTY", str(tmp_path))

    out = [] if "--out" in words else ["--out", str(tmp_path / "page.html")]
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the whole text is looked at
        browse.main([*map(put, words), *out])
    assert put(said) in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
