"""recipes/data/browse.py on mixtures and runs: what is shown is what the mixture yields, beside codes and other texts."""

import base64
import io
import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from browsed import Element, hidden, image_file, read_page, sample
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/data"))  # as `python recipes/data/browse.py` does

import browse
from browse_drawing import code_map
from browse_plan import Plan, _restored, plan_of_flags
from browse_samples import samples_of
from browse_sources import drawn, rows_of
from corpora import Corpus, kinds, open_corpus, save_corpus
from presets import Config, parse, shaping

from torchflava.batch import IGNORE
from torchflava.data.blend import Blend, Nearby
from torchflava.data.lines import TextLines
from torchflava.data.mixture import Kind, Mixture
from torchflava.data.shards import ShardPairs
from torchflava.data.tars import write_shards

TINY = ["--preset", "tiny", "--steps", "40", "--warmup-steps", "2", "--vocab-size", "120"]
NUM = 10  # more than a batch of eight


class Run:
    """A run's settings, corpus and mixture, made without browse.py."""

    def __init__(self, words: list[str]) -> None:
        self.config: Config = parse(words)
        self.corpus: Corpus = open_corpus(self.config)
        self.mixture = Mixture(kinds(self.corpus, self.config), self.config.batch_size, self.config.seed)

    def rows(self, kind: str, num: int, first_step: int = 0) -> list[tuple[int, int]]:
        """The step and place of the first rows of a kind."""
        steps = [step for step in range(first_step, self.config.steps) if self.mixture.order(step).kind == kind]
        return [(step, row) for step in steps for row in range(self.config.batch_size)][:num]


@pytest.fixture(scope="module")
def tiny() -> Run:
    return Run(TINY)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of_flags(TINY)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Element:
    out = tmp_path_factory.mktemp("page") / "p.html"
    return read_page(browse.main([*TINY, "--out", str(out), "--num", str(NUM), "--measure", "50"]))


def figures(page: Element, kind: str) -> list[Element]:
    return page.under("Samples").under(kind).all("figure", of="sample")


def pixels(image: Element) -> Tensor:
    with Image.open(io.BytesIO(base64.b64decode(image.attributes["src"].partition(",")[2]))) as found:
        return torch.from_numpy(np.array(found)).permute(2, 0, 1)


def marked(figure: Element) -> list[tuple[str, str]]:
    """What stands at each word to predict, and what the model sees there."""
    marks = figure.all("mark")
    return [(m.one("span", of="true").text, m.one("span", of="seen").text) for m in marks]


def asked(tokenizer, masked_ids: Tensor, positions: Tensor, labels: Tensor) -> Counter[str]:
    """The letters of the tokens to predict, and the tokens put in their place."""
    kept = labels != IGNORE
    true = [tokenizer.tokens[label].removeprefix("##") for label in labels[kept].tolist()]
    seen = [tokenizer.tokens[token].removeprefix("##") for token in masked_ids[positions[kept]].tolist()]
    return Counter("".join(true)) + Counter("".join(seen))


def letters(marks: list[tuple[str, str]]) -> Counter[str]:
    seen = [token if token == "##" else token.removeprefix("##") for _, told in marks for token in told.split()]
    return Counter("".join(true for true, _ in marks)) + Counter("".join(seen))


def test_pairs_are_those_that_the_mixture_yields(tiny: Run, page: Element) -> None:
    shown, rows = figures(page, "pair"), tiny.rows("pair", NUM)
    assert len(shown) == len(rows) == NUM
    assert len({step for step, _ in rows}) == 2
    unmatched = 0
    for figure, (step, row) in zip(shown, rows, strict=True):
        batch = tiny.mixture[step].batch
        assert f"step {step}" in figure.one("p", of="key").text
        assert hidden(figure, 4) == set(torch.nonzero(batch.masked[row]).flatten().tolist())
        view, target, codes = figure.all("img")
        assert pixels(view).equal(batch.pixels[row])
        assert pixels(target).equal(batch.targets[row])
        codebook = tiny.corpus.codebook
        assert pixels(codes).equal(codebook.decode(codebook.encode(batch.targets[row : row + 1]))[0])
        told = asked(tiny.corpus.tokenizer, batch.masked_ids[row], batch.token_positions[row], batch.token_labels[row])
        assert letters(marked(figure)) == told
        clean = tiny.corpus.tokenizer.decode(batch.ids[row][batch.keep[row]].tolist())
        assert ("Masked text of another image" in figure.text) == (not batch.matched[row])
        assert figure.one("p", of="caption").text == clean or len(batch.ids[row]) == tiny.config.max_length
        unmatched += not batch.matched[row]
        if not batch.matched[row]:
            assert figure.all("p", of="quiet")[-1].text == f"Its own, for the contrastive loss: {clean}"
    assert 0 < unmatched < NUM


def test_images_and_texts_are_those_that_the_mixture_yields(tiny: Run, page: Element) -> None:
    for figure, (step, row) in zip(figures(page, "image"), tiny.rows("image", NUM), strict=True):
        batch = tiny.mixture[step].batch
        assert hidden(figure, 4) == set(torch.nonzero(batch.masked[row]).flatten().tolist())
        assert pixels(figure.all("img")[0]).equal(batch.pixels[row])
        assert not figure.all("p", of="caption")
    num_marked = 0
    for figure, (step, row) in zip(figures(page, "text"), tiny.rows("text", NUM), strict=True):
        batch = tiny.mixture[step].batch
        told = asked(tiny.corpus.tokenizer, batch.masked_ids[row], batch.positions[row], batch.labels[row])
        assert letters(marked(figure)) == told
        num_marked += len(marked(figure))
    assert num_marked > NUM / 2


def test_the_sources_are_told_with_their_shares_and_epochs(tiny: Run, page: Element) -> None:
    rows = {row.all("td")[0].text: row for row in page.one("section", id="sources").one("tbody").all("tr")}
    assert rows["pair"].text == "pair scene-pairs-train 1,048,576 \u2013 \u2013 70 % 100 % 224 0.00"
    assert rows["text"].text == "text scene-texts-train 1,048,576 \u2013 \u2013 15 % 100 % 48 0.00"
    assert "Seed 0; 40 steps of 8 samples." in page.text
    assert page.one("code").text == f"recipes/pretrain.py {' '.join(TINY)}"
    for kind, titles in (("pair", 2), ("image", 0), ("text", 2)):
        charts = page.under("Lengths").under(kind).all("figure", of="chart")
        assert [sum(int(bar.attributes["data-count"]) for bar in c.all("rect")) for c in charts] == [50] * titles


@pytest.mark.slow
def test_from_a_later_step_on_the_samples_are_that_step_s(tiny: Run, plan: Plan, tmp_path: Path) -> None:
    for kind, shown in samples_of(plan, 3, 21).items():
        assert [of.step for of in shown] == [step for step, _ in tiny.rows(kind, 3, 21)]
    last = {kind: len(shown) for kind, shown in samples_of(plan, 20, 39).items()}
    assert last == {kind: len(tiny.rows(kind, 20, 39)) for kind in last}
    assert sum(last.values()) == 8
    with pytest.raises(ValueError, match="--first-step 40 must be below the 40 steps of the run"):
        browse.main([*TINY, "--first-step", "40", "--out", str(tmp_path / "q")])


def test_a_run_s_folder_gives_what_that_run_saw(tiny: Run, page: Element, tmp_path: Path) -> None:
    folder = tmp_path / "20260101-tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(shaping(tiny.config)))
    save_corpus(tiny.corpus, folder)
    (folder / "data.json").write_text(json.dumps(tiny.mixture.state(0)))
    words = ["--run", str(folder), "--num", str(NUM), "--measure", "50", "--out", str(tmp_path / "p")]
    again = read_page(browse.main(words))
    assert again.one("section", id="samples") == page.one("section", id="samples")
    assert not again.one("header").all("p", of="fault")
    tokens = (folder / "vocab.txt").read_text().split("\n")
    (folder / "vocab.txt").write_text("\n".join([*tokens[:-30], ""]))  # what the run kept, not what would be learnt
    (folder / "data.json").write_text(json.dumps(tiny.mixture.state(0) | {"seed": 1}))
    other = read_page(browse.main(words))
    assert other.one("section", id="samples") != page.one("section", id="samples")
    assert "This is not what the run saw: the data would not go on as it began: seed was 1, is 0" in other.text
    (folder / "data.json").unlink()
    assert "has no data.json yet" in read_page(browse.main(words)).text
    (folder / "codebook.safetensors").unlink()
    with pytest.raises(ValueError, match=f"the data of --run {folder} cannot be opened from here: .*codebook"):
        browse.main(words)


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("emoji")
    for vendor, begin in (("google", 0), ("twitter", 40), ("microsoft", 80)):
        told = [f"flag {i}; red; round; small" for i in range(40)]
        made = [
            (
                f"{vendor}-{i}",
                {"png": image_file(begin + i, (64, 64), "PNG"), "txt": caption.encode(), "json": b'{"tones": []}'},
            )
            for i, caption in enumerate(told)
        ]
        made[7][1]["png"] = b"GIF89a\x00broken"
        write_shards(made, folder / vendor, 30)
    (folder / "texts.txt").write_text("".join(f"a gloss of word {i}\n" for i in range(50)))
    (folder / "card.json").write_text(json.dumps([{"source": "google", "samples": 40, "rejected": {"no name": 2}}]))
    return folder


def test_emoji_are_shown_as_stored_as_seen_and_as_told_this_time(emoji: Path, tmp_path: Path) -> None:
    words = ["--preset", "emoji", "--data", str(emoji), "--steps", "30", "--warmup-steps", "1", "--batch-size", "90"]
    words += ["--num-codes", "8", "--vocab-size", "200", "--mismatch-rate", "0.5"]
    out = browse.main([*words, "--out", str(tmp_path / "p"), "--num", "84", "--measure", "1000"])
    page, run = read_page(out), Run([*words, "--max-corrupt-fraction", "1"])
    shown = figures(page, "pair")
    assert len(shown) == 84
    batch = run.mixture[run.rows("pair", 1)[0][0]].batch
    replaced = 0
    for row, figure in enumerate(shown):
        stored, view, target, codes = figure.all("img")
        assert pixels(stored).shape == pixels(view)[:, :1, :1].expand(3, 64, 64).shape
        assert pixels(view).equal(batch.pixels[row])
        assert pixels(target).equal(batch.targets[row])
        assert codes.attributes["alt"].startswith("what the codes draw of ")
        assert hidden(figure, 4) == set(torch.nonzero(batch.masked[row]).flatten().tolist())
        assert figure.one("p", of="caption").text.count("; ") == 3
        assert figure.one("pre").text == '{ "tones": [] }'
        replaced += sum("In place of: " in p.text for p in figure.all("p", of="fault"))
    epoch = {figure.one("p", of="key").text.partition(" ")[0] for figure in shown}
    assert len(epoch) == 78  # of 80, two are broken; six are of the second epoch or replace others
    assert replaced >= 2
    pairs = page.under("Lengths").under("pair")
    assert "captions are told anew each time" in pairs.text
    assert "80 of 80 samples measured, drawn by a key; 2 cannot be read" in pairs.text
    assert "100 % of the texts occur more than once" in pairs.text
    unread, built = page.under("Rejects").all("tbody")
    assert unread.all("tr")[0].text.startswith("pair UnidentifiedImageError: ")
    assert "GIF89a\\x00broken" in unread.text
    assert built.text == f"{emoji}/card.json: google no name 2"
    row = page.one("section", id="sources").one("tbody").all("tr")[0]
    num_bytes = sum(path.stat().st_size for name in ("google", "twitter") for path in emoji.glob(f"{name}-*.tar"))
    assert row.text == f"pair emoji 80 4 {num_bytes / 1000:.0f} kB 80 % 100 % 2,160 27.00"


def test_a_codebook_that_cannot_decode_is_shown_by_colours(tiny: Run, plan: Plan) -> None:
    class Encodes:
        def encode(self, pixels: Tensor) -> Tensor:
            return tiny.corpus.codebook.encode(pixels)

    views = [shown.views[2] for shown in samples_of(plan._replace(codebook=Encodes()), 3, 0)["pair"]]
    assert {view.label for view in views} == {"codes, a colour each"}
    step, row = tiny.rows("pair", 3)[1]
    codes = tiny.corpus.codebook.encode(tiny.mixture[step].batch.targets)[row]
    assert views[1].uri == code_map(codes, 4)
    colours = pixels(Element("img", {"src": views[1].uri})).flatten(1).T
    for a in range(16):
        for b in range(16):
            assert colours[a].equal(colours[b]) == (codes[a] == codes[b])
    many = pixels(Element("img", {"src": code_map(torch.arange(256), 16)})).flatten(1).T
    assert len(many.unique(dim=0)) == 256


def test_blends_are_told_source_by_source(tmp_path: Path) -> None:
    for name, num in (("a", 30), ("b", 10)):
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {i}\n" for i in range(num)))
    a, b = (TextLines(tmp_path / f"{name}.txt", name) for name in "ab")

    def rows(source: object) -> list[tuple[str, float, float]]:
        kind = Kind(source, lambda *_: None, lambda _: None, 1.0)
        return [(r.name, r.draw_share, r.epochs) for r in rows_of(Mixture({"text": kind}, 4, 0), 100)]

    assert rows(Blend("ab", [a, b])) == [("a", 0.75, 10.0), ("b", 0.25, 10.0)]
    assert rows(Blend("ab", [a, b], {"a": 1.0, "b": 4.0})) == [("a", 0.2, 400 * 0.2 / 30), ("b", 0.8, 400 * 0.8 / 10)]
    assert rows(a) == [("a", 1.0, 400 / 30)]
    taken = Counter(chosen.source.name for chosen in drawn(Blend("ab", [a, b], {"a": 1.0, "b": 4.0}), 10, seed=0))
    assert taken == {"a": 2, "b": 8}
    whole = drawn(Blend("ab", [a, b]), 40, seed=0)
    assert sorted((chosen.source.name, chosen.at) for chosen in whole) == [("a", i) for i in range(30)] + [
        ("b", i) for i in range(10)
    ]
    assert drawn(Blend("ab", [a, b]), 7, seed=0) == whole[:7] != drawn(Blend("ab", [a, b]), 7, seed=1)


def test_what_is_drawn_nearby_is_measured_all_over(tmp_path: Path) -> None:
    shards = write_shards([sample(str(i), i, f"no {i}") for i in range(40)], tmp_path / "s", 4)
    nearby = Nearby(ShardPairs(shards), 1)
    chosen = drawn(nearby, 10, seed=0)
    assert len({c.at // 4 for c in chosen}) > 3
    assert {type(c.source) for c in chosen} == {ShardPairs}
    kind = Kind(Blend("blend", [nearby], {"pairs": 1.0}), lambda *_: None, lambda _: None, 1.0)
    (row,) = rows_of(Mixture({"pair": kind}, 4, 0), 100)
    assert (row.name, row.num_shards, row.num_samples, row.draws) == ("pairs", 10, 40, 400.0)


def test_settings_come_back_as_they_were(tiny: Run) -> None:
    config = replace(tiny.config, lr=0.5, betas=(0.1, 0.2), shares=replace(tiny.config.shares, pair=0.4, image=0.45))
    kept = json.loads(json.dumps(shaping(config)))
    assert _restored(parse([]), kept) == replace(config, threads=1, folder="runs", log_every=10, save_every=400)
