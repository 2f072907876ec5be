"""Pages of retrieval and of confusions: what they show against brute force, hostile texts, and through the recipes' flags."""

import base64
import io
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from browsed import Element, read_page
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))

import linear_probe
import look
import zero_shot
from look_confusion import picture as matrix_picture
from look_page import page_beside, picture_uri
from looked import NUM, SCRIPT, captioned, confusion_page, embedded, guesses, retrieval_page
from made_tasks import MADE, picture
from seers import COLOURS


def pixels(image: Element) -> np.ndarray:
    data = base64.b64decode(image.attributes["src"].partition(",")[2])
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened.convert("RGB"))


def ranked(way: str) -> list[list[int]]:
    """For each query the gallery, nearest first, by cosines computed one by one in float64."""
    images, texts = (rows.double().numpy() for rows in embedded())
    asked, gallery = (texts, images) if way == "texts" else (images, texts)
    cosines = [[float(q @ g / np.linalg.norm(q) / np.linalg.norm(g)) for g in gallery] for q in asked]
    return [sorted(range(len(row)), key=lambda at: -row[at]) for row in cosines]


def answers(way: str, query: int) -> list[int]:
    return [query // 2] if way == "texts" else [2 * query, 2 * query + 1]


def expected(way: str, query: int) -> tuple[int, list[tuple[int, bool]]]:
    """The rank of the first right answer, and ranks and rights of what is shown."""
    order = ranked(way)[query]
    first = 1 + min(order.index(right) for right in answers(way, query))
    shown = [(rank, order[rank - 1] in answers(way, query)) for rank in range(1, 6)]
    return first, shown if first <= 5 else [*shown, (first, True)]


@pytest.mark.parametrize("way", ["texts", "images"])
def test_what_is_found_is_what_is_nearest(tmp_path: Path, way: str) -> None:
    section = read_page(retrieval_page(tmp_path)).one("section", id=way)
    articles, order = section.all("article"), ranked(way)
    made = captioned(tmp_path)
    assert len(articles) == len(order)
    for query, article in enumerate(articles):
        first, shown = expected(way, query)
        assert ("first" in article.attributes["class"].split()) == (first == 1)
        assert (f"right answer at rank {first}" in article.one("div").text) == (first > 1)
        items = article.all("li")
        told = [
            (int(item.one("span", of="quiet").text.split()[0]), "hit-right" in item.attributes["class"])
            for item in items
        ]
        assert told == shown
        assert ["beyond" in item.attributes["class"] for item in items] == [
            rank > at for at, (rank, _) in enumerate(shown, 1)
        ]
        places = [order[query][rank - 1] for rank, _ in shown]
        if way == "images":
            assert [item.text for item in items] == [
                f"{made.texts[at]} {item.all('span')[-1].text}" for at, item in zip(places, items, strict=True)
            ]
        else:
            for at, item in zip(places, items, strict=True):
                assert item.one("img").attributes["alt"] == f"{at:02}<i>.png"
                with Image.open(made.images[at]) as real:
                    assert (
                        np.abs(pixels(item.one("img")).mean((0, 1)) - np.asarray(real).mean((0, 1))).max() < 6
                    )  # JPEG


def test_recalls_stand_above(tmp_path: Path) -> None:
    page = read_page(retrieval_page(tmp_path, num=4))
    for way in ("texts", "images"):
        ranks = [expected(way, query)[0] for query in range(len(ranked(way)))]
        told = ", ".join(f"R@{k} {100 * sum(rank <= k for rank in ranks) / len(ranks):.1f} %" for k in (1, 5, 10))
        assert f"Of all {len(ranks)}: {told}. Shown are 4." in page.one("section", id=way).all("p")[0].text
        assert 0 < sum(rank == 1 for rank in ranks) < len(ranks)  # else nothing was compared


def test_the_worst_come_first_on_request(tmp_path: Path) -> None:
    page = read_page(retrieval_page(tmp_path, num=5, wrong_first=True))
    ranks = [expected("texts", query)[0] for query in range(2 * NUM)]
    worst = sorted(range(2 * NUM), key=lambda query: -ranks[query])[:5]
    asked = [article.one("div").all("span")[0].text for article in page.one("section", id="texts").all("article")]
    assert asked == [captioned(tmp_path).texts[query] for query in worst]


def test_queries_are_spread_evenly_otherwise(tmp_path: Path) -> None:
    section = read_page(retrieval_page(tmp_path, num=4)).one("section", id="texts")
    asked = [article.one("div").all("span")[0].text for article in section.all("article")]
    assert asked == [captioned(tmp_path).texts[query] for query in (0, 5, 11, 16)]


@pytest.mark.parametrize("kind", ["retrieval", "table", "picture"])
def test_nothing_is_fetched_and_nothing_runs(tmp_path: Path, kind: str) -> None:
    file = retrieval_page(tmp_path) if kind == "retrieval" else confusion_page(tmp_path, 7 if kind == "table" else 30)
    page = read_page(file)
    assert SCRIPT in page.text
    assert page.all("script") == page.all("link") == page.all("iframe") == []
    assert all(image.attributes["src"].startswith("data:image/") for image in page.all("img"))
    assert all(anchor.attributes["href"].startswith("#") for anchor in page.all("a"))
    policy = [meta.attributes["content"] for meta in page.all("meta") if "http-equiv" in meta.attributes]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert "url(" not in page.one("style").text


def test_a_small_matrix_is_a_table(tmp_path: Path) -> None:
    page = read_page(confusion_page(tmp_path, 7))
    predicted, labels = guesses(7, 9)
    counts = Counter(zip(labels.tolist(), predicted.tolist(), strict=True))
    rows = page.one("table", of="counts").one("tbody").all("tr")
    for true, row in enumerate(rows):
        cells = row.all("td")
        assert [int(cell.text or 0) for cell in cells] == [counts[true, at] for at in range(7)]
        assert ["hit" in cell.attributes.get("class", "") for cell in cells] == [at == true for at in range(7)]
        shades = [float(cell.attributes["style"].partition("/ ")[2].rstrip(")")) for cell in cells]
        assert shades == pytest.approx([0.8 * (counts[true, at] / 9) ** 0.5 for at in range(7)], abs=6e-4)
    right = int((predicted == labels).sum())
    assert f"{right} of 63 right ({100 * right / 63:.1f} %), 7 classes" in page.one("header").text


def test_of_a_thousand_classes_the_pairs_can_be_read(tmp_path: Path) -> None:
    page = read_page(confusion_page(tmp_path, 1000, 4))
    assert page.all("table", of="counts") == []
    assert pixels(page.one("section", id="matrix").one("img")).shape == (500, 500, 3)
    predicted, labels = guesses(1000, 4)
    counts = Counter((t, p) for t, p in zip(labels.tolist(), predicted.tolist(), strict=True) if t != p)
    first = sorted(counts, key=lambda pair: (-counts[pair], pair))[:40]
    rows = [[cell.text for cell in row.all("td")] for row in page.one("section", id="pairs").one("tbody").all("tr")]
    assert rows == [
        [f"class {t}" if t else SCRIPT, f"class {p}" if p else SCRIPT, str(counts[t, p]), f"{25 * counts[t, p]:.1f} %"]
        for t, p in first
    ]
    worst = page.one("section", id="worst").one("tbody").all("tr")
    rights = [int(row.all("td")[1].text) for row in worst]
    assert len(rights) == 20
    assert rights == sorted(int((predicted[labels == c] == c).sum()) for c in range(1000))[:20]


def test_no_error_is_lost_in_a_large_picture() -> None:
    shares = torch.eye(1001)
    blank = matrix_picture(shares)
    shares[900, 100] = 0.02
    assert blank.shape == (3, 334, 334)
    drawn = matrix_picture(shares)
    assert torch.equal(drawn[:, 300, 33], matrix_picture(torch.tensor([[0.02]]))[:, 0, 0])  # and not thinned out
    changed = (drawn != blank).any(0).nonzero().tolist()
    assert changed == [[300, 33]]


def test_thumbnails_keep_their_shape_and_small_pictures_their_pixels() -> None:
    wide = torch.zeros(3, 40, 400, dtype=torch.uint8)
    small = torch.arange(12, dtype=torch.uint8).view(3, 2, 2) * 20
    sizes = []
    for uri in (picture_uri(wide, most=100), picture_uri(small, least=5, photo=False)):
        with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as opened:
            sizes.append((opened.format, opened.size))
            last = np.asarray(opened)
    assert sizes == [("JPEG", (100, 10)), ("PNG", (6, 6))]
    assert (last == np.kron(small.permute(1, 2, 0).numpy(), np.ones((3, 3, 1), np.uint8))).all()


def test_of_several_tasks_each_has_its_page() -> None:
    assert page_beside(Path("a/b.html"), "dtd", several=True) == Path("a/b-dtd.html")
    assert page_beside(Path("a/b.html"), "dtd", several=False) == Path("a/b.html")


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of one colour with a captions file, and the same as a folder of classes."""
    made = tmp_path_factory.mktemp("colours")
    for at, name in enumerate(COLOURS):
        picture(made / "images" / f"{name}.png", at)
        picture(made / "classes" / name / "1.png", at)
    rows = [json.dumps({"image": f"{name}.png", "caption": f"the {name} one"}) for name in COLOURS]
    (made / "captions.jsonl").write_text("\n".join(rows))
    return made


@pytest.mark.parametrize("recipe", ["look", "zero_shot"])
def test_retrieval_through_the_recipes(
    colours: Path, tmp_path: Path, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--retrieval", str(colours / "captions.jsonl"), "--images", str(colours / "images"), "--device", "cpu"]
    out = str(tmp_path / "new/page.html")
    if recipe == "look":
        look.main(["seers:blind", *asked, "--out", out, "--queries", "3"])
    else:
        of_page = ["--page", out, "--page-queries", "3"]
        zero_shot.main(["--model", "seers:blind", *asked, "--out", str(tmp_path), *of_page])
    page = read_page(Path(out))
    assert page.one("h1").text == "captions, retrieval by seers:blind"
    assert "captions: tr@1 0.1000" in capsys.readouterr().out
    assert len(page.one("section", id="texts").all("article", of="first")) == 1  # only the first is found
    assert len(page.all("article")) == 6


def test_confusions_through_the_recipes(colours: Path, tmp_path: Path) -> None:
    given = ["--device", "cpu", "--out", str(tmp_path)]
    page = ["--page", str(tmp_path / "zero.html")]
    zero_shot.main(["--model", "seers:blind", "--images", str(colours / "classes"), *given, *page])
    told = read_page(tmp_path / "zero.html")
    assert told.one("h1").text == "classes, zero-shot by seers:blind"
    assert "1 of 10 right (10.0 %), 10 classes" in told.one("header").text
    pairs = [row.all("td")[:2] for row in told.one("section", id="pairs").one("tbody").all("tr")]
    assert [(a.text, b.text) for a, b in pairs] == [(name, "black") for name in sorted(COLOURS)[1:]]
    for name in ("dtd", "gtsrb"):
        MADE[name](tmp_path / "tasks")
    asked = ["--task", "dtd", "gtsrb", "--root", str(tmp_path / "tasks"), "--confusion", str(tmp_path / "probe.html")]
    linear_probe.main(["--model", "seers:painter", *asked, *given])
    for name in ("dtd", "gtsrb"):
        probed = read_page(tmp_path / f"probe-{name}.html")
        assert probed.one("h1").text == f"{name}, linear probe of seers:painter"
        assert "(100.0 %)" in probed.one("header").text
        assert "Nothing was taken for something else." in probed.text


def test_flags_that_cannot_be_are_told(colours: Path) -> None:
    of_classes = ["--model", "seers:blind", "--images", str(colours / "classes")]
    for main, words, told in (
        (zero_shot.main, [*of_classes, "--page", "x.png"], "--page x.png is a page; give it a name that ends in .html"),
        (zero_shot.main, [*of_classes, "--page", "x.html", "--wrong-first"], "are for the --page of a --retrieval"),
        (zero_shot.main, [*of_classes, "--page-queries", "0"], "--page-queries 0 must be 1 or more"),
        (linear_probe.main, ["--model", "seers:blind", "--confusion", "x"], "--confusion x is a page"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert told in str(stopped.value)
