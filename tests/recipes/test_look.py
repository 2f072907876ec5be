"""recipes/look.py on a pair: attention, hidden words and codes against the model asked by hand; the page; complaints."""

import base64
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsed import Element, image_file, read_page
from fake_hub import serving, use
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import look
import tiny
from look_drawing import heat, masked_view
from look_pair import Look, Pair
from look_pair import look as look_at

from torchflava.batch import PairBatch
from torchflava.codebooks import PatchCodebook
from torchflava.layers import attention_weights
from torchflava.models import FlavaForPreTraining, from_pretrained, save_pretrained
from torchflava.tasks import read_image
from torchflava.transforms.image import EvalView, normalise
from torchflava.transforms.wordpiece import WordPiece

WORDS = ["a", "red", "green", "house", "dog", "##s", "on", "the", "hill", "<", ">", "script", "alert", "&", ";"]
CAPTION = "a red dogs; on the red hill"
HOSTILE = "<script>alert(1)</script> & \u202e<img src=http://x.test/y>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small FLAVA with three fusion blocks and all heads, its vocabulary, its codebook, and an image."""
    made = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    model = tiny.pretraining(parts={"fusion": tiny.fusion_encoder(depth=3)})
    save_pretrained(model, made / "model.safetensors")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (made / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    rng = torch.Generator().manual_seed(0)
    shape = (tiny.NUM_CODES, 3, 4, 4)
    codes = torch.rand(shape, generator=rng, dtype=torch.float64)
    PatchCodebook(codes, (255 * codes).to(torch.uint8), 12).save(made / "codebook.safetensors")
    (made / "image.png").write_bytes(image_file(5, (40, 30), "PNG"))
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> FlavaForPreTraining:
    loaded = from_pretrained(folder / "model.safetensors")
    assert isinstance(loaded, FlavaForPreTraining)
    return loaded.eval()


def looked(folder: Path, model: torch.nn.Module, **asked: object) -> Look:
    from torchflava.codebooks import load_codebook

    pair = Pair(read_image(folder / "image.png"), CAPTION)._replace(**asked)
    return look_at(model, WordPiece.from_file(folder), pair, codebook=load_codebook(folder / "codebook.safetensors"))


def inputs(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = normalise(EvalView(tiny.IMAGE_SIZE)(read_image(folder / "image.png"))[None])
    return pixels, torch.tensor([WordPiece.from_file(folder).encode(CAPTION, tiny.MAX_LENGTH).ids])


def written(folder: Path, *words: str) -> Element:
    out = folder / "new" / "page.html"
    out.unlink(missing_ok=True)
    look.main([str(folder), "--out", str(out), "--device", "cpu", *words])
    return read_page(out)


@torch.no_grad()
def test_attention_is_cls_ms_of_each_layer(folder: Path, model: FlavaForPreTraining) -> None:
    """Block by block, the heads' mean; the rollout as CLS_M's row of the product, from the last layer down."""
    found = looked(folder, model)
    (pixels, ids), flava = inputs(folder), model.flava
    keep = torch.ones_like(ids, dtype=torch.bool)
    image, text = flava.image_encoder(pixels).hidden, flava.text_encoder(ids, keep).hidden
    fusion = flava.fusion_encoder
    x = torch.cat([fusion.cls_token, flava.image_to_fusion(image), flava.text_to_fusion(text)], 1)
    maps = []
    for block in fusion.trunk.blocks:
        maps.append(attention_weights(block.attention, block.attention_norm(x))[0].mean(0))
        x = block(x)
    rolled = torch.eye(x.shape[1])[0]
    for layer in reversed(maps):
        rolled = 0.5 * rolled + 0.5 * rolled @ layer
    num = 1 + tiny.NUM_PATCHES
    for seen, expected in ((found.last, maps[-1][0]), (found.rollout, rolled)):
        torch.testing.assert_close(torch.tensor([seen.own, seen.image_token]), expected[:2])
        torch.testing.assert_close(seen.patches, expected[2 : 1 + num])
        torch.testing.assert_close(seen.words, expected[1 + num :])
    assert found.tokens == ["[CLS]", "a", "red", "dog", "##s", ";", "on", "the", "red", "hill", "[SEP]"]
    logits = model.itm(flava(pixels, ids).fused.cls)[0]
    assert found.matched == pytest.approx(float(logits.softmax(0)[1]), rel=1e-5)
    assert found.cosine == pytest.approx(float(model.embed_image(pixels)[0] @ model.embed_text(ids)[0]), rel=1e-4)


@torch.no_grad()
def test_hidden_words_and_codes_are_what_pretraining_predicts(folder: Path, model: FlavaForPreTraining) -> None:
    found = looked(folder, model, words=("dogs", "red"), num_patches=4)
    assert found.words is not None
    assert found.patches is not None
    assert [word.place for word in found.words] == [2, 3, 4, 8]  # every "red", and both pieces of "dogs"
    assert [word.true for word in found.words] == ["red", "dog", "##s", "red"]
    (pixels, ids), masked = inputs(folder), found.patches.masked
    assert int(masked.sum()) == 4
    hidden = ids.clone()
    hidden[0, [2, 3, 4, 8]] = 4
    places, keep, yes = masked.nonzero().T, torch.ones_like(ids, dtype=torch.bool), torch.tensor([True])
    at = torch.tensor([[2, 3, 4, 8]])
    batch = PairBatch(pixels, masked[None], places, places, ids, keep, hidden, keep, at, ids.gather(1, at), yes, yes)
    shares = model.word_logits(batch)[0].softmax(-1)
    for word, row, true in zip(found.words, shares, [6, 9, 10, 6], strict=True):
        order = row[:20].argsort(descending=True)[:5].tolist()
        assert [guess.token for guess in word.guesses] == [WordPiece.from_file(folder).tokens[id] for id in order]
        assert [guess.probability for guess in word.guesses] == pytest.approx(row[order].tolist(), rel=1e-4)
        assert word.rank == 1 + sum(float(share) > float(row[true]) for share in row)
    codes = model.mmm_image(model.fuse_masked(batch).image[0, 1:][masked])
    assert found.patches.predicted.tolist() == codes.argmax(1).tolist()
    pictured = EvalView(12)(read_image(folder / "image.png"))
    book = PatchCodebook.from_file(folder / "codebook.safetensors")
    assert found.patches.true.tolist() == book.encode(pictured[None])[0, masked].tolist()
    assert found.patches.drawn is not None
    truly, guessed = found.patches.drawn
    for number, place in enumerate(places[0].tolist()):
        y, x = 4 * (place // 3), 4 * (place % 3)
        assert torch.equal(guessed[:, y : y + 4, x : x + 4], book.pictures[found.patches.predicted[number]])
        assert torch.equal(truly[:, y : y + 4, x : x + 4], book.pictures[found.patches.true[number]])


def test_what_is_hidden_hangs_on_the_seed_alone(folder: Path, model: FlavaForPreTraining) -> None:
    def hidden(seed: int) -> tuple[list[int], list[bool]]:
        found = looked(folder, model, seed=seed)
        assert found.words is not None
        assert found.patches is not None
        return [word.place for word in found.words], found.patches.masked.tolist()

    drawn = [hidden(seed) for seed in range(12)]
    assert drawn == [hidden(seed) for seed in range(12)]
    assert len({str(each) for each in drawn}) > 6
    assert {tuple(words) for words, _ in drawn} <= {(1,), (2,), (3, 4), (6,), (7,), (8,), (9,)}  # whole, and never ";"
    assert {sum(masked) for _, masked in drawn} <= {2, 3}  # 75 of 196, of nine


def test_of_punctuation_alone_something_is_hidden(folder: Path, model: FlavaForPreTraining) -> None:
    found = looked(folder, model, caption="; & ;")
    assert found.words is not None
    assert len(found.words) == 1


def test_the_documented_attention_by_hand(folder: Path, model: FlavaForPreTraining) -> None:
    told = (Path(__file__).parents[2] / "docs/looking.md").read_text()
    block = told.partition("<!-- attention by hand -->\n```python\n")[2].partition("```")[0]
    pixels, ids = inputs(folder)
    names: dict[str, Any] = {"model": model, "pixels": pixels, "ids": ids}
    exec(block, names)
    found = looked(folder, model)
    torch.testing.assert_close(names["last"][0, 2 : 2 + tiny.NUM_PATCHES], found.last.patches)
    torch.testing.assert_close(names["rolled"][0, 2 + tiny.NUM_PATCHES :], found.rollout.words)


def test_heat_and_masks_lie_on_their_patches() -> None:
    view = torch.full((3, 12, 12), 200, dtype=torch.uint8)
    weights = torch.tensor([0.0, 0.1, 0.4, 0.2])
    hot = heat(view, weights).float().mean(0)
    cells = [float(hot[y : y + 6, x : x + 6].mean()) for y in (0, 6) for x in (0, 6)]
    assert np.argsort(cells).tolist() == [0, 1, 3, 2]  # brighter for more
    hidden = masked_view(view, torch.tensor([False, True, False, False]))
    assert torch.equal(hidden[:, :6, :6], view[:, :6, :6])
    assert torch.equal(hidden[:, 6:], view[:, 6:])
    assert (hidden[:, :6, 6:] != 200).all()


def test_the_page_of_a_pair(folder: Path) -> None:
    page = written(folder, "--pair", str(folder / "image.png"), CAPTION, "--mask", "dogs", "--patches", "3")
    assert page.one("h1").text == CAPTION
    first, second = page.all("figure", of="map")
    shaded = first.one("p", of="words").all("span")
    assert [span.text for span in shaded] == [
        "[CLS]",
        "a",
        "red",
        "dog",
        "##s",
        ";",
        "on",
        "the",
        "red",
        "hill",
        "[SEP]",
    ]
    shares = [float(span.attributes["title"].removesuffix(" %")) for span in shaded]
    shades = [float(span.attributes["style"].partition("/ ")[2].rstrip(")")) for span in shaded]
    assert shares[int(np.argmax(shades))] == max(shares)
    assert max(shades) == 0.75
    assert first.one("img").attributes["src"] != second.one("img").attributes["src"]
    words = page.under("Hidden words")
    assert [mark.text for mark in words.all("mark")] == ["[MASK]"] * 2
    assert [table.one("b").text for table in words.all("table")] == ["dog", "##s"]
    assert all(len(table.one("tbody").all("tr")) == 5 for table in words.all("table"))
    cells = page.under("Hidden patches").one("svg").all("g")
    right = sum("hit" in cell.attributes["class"] for cell in cells)
    assert len(cells) == 3
    assert f"Of 3 hidden patches {right} codes are predicted right" in page.under("Hidden patches").text
    for picture in page.all("img"):
        kind, _, data = picture.attributes["src"].partition(",")
        assert kind == "data:image/png;base64"
        assert min(Image.open(io.BytesIO(base64.b64decode(data))).size) >= 336


def test_what_somebody_wrote_is_text(folder: Path) -> None:
    page = written(folder, "--pair", str(folder / "image.png"), HOSTILE, "--name", "<b>n</b>", "--patches", "0")
    assert page.all("script") == page.all("link") == []
    assert page.one("h1").text == HOSTILE.replace("\u202e", "\\u202e")
    assert "No patch is hidden" in page.text
    assert "seen by <b>n</b>" in page.text
    assert all(img.attributes["src"].startswith("data:") for img in page.all("img"))


def test_without_a_codebook_codes_are_numbers(folder: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "vocab.txt", "image.png"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    page = written(tmp_path, "--pair", str(tmp_path / "image.png"), CAPTION, "--patches", "3")
    codes = [text.text for text in page.one("svg").all("text")]
    assert len(codes) == 3
    assert all(0 <= int(code) < tiny.NUM_CODES for code in codes)
    assert "give it by --codebook" in page.text


def test_a_model_without_heads_shows_its_attention(folder: Path, model: FlavaForPreTraining) -> None:
    found = looked(folder, model.flava)
    assert found.words is found.matched is None
    assert found.patches is not None
    assert len(found.patches.predicted) == 0
    torch.testing.assert_close(found.last.words, looked(folder, model).last.words)


def test_a_pair_as_a_picture(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "pair.png"
    caption = "a $red$ house \u72ac"  # neither a formula, nor in the font
    look.main([str(folder), "--pair", str(folder / "image.png"), caption, "--out", str(out), "--device", "cpu"])
    with Image.open(out) as drawn:
        assert drawn.size == (1400, 900)


def test_a_model_on_the_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the vocabulary and the codebook that lie there: the same page as of the folder, but for the name."""
    captions = tmp_path / "captions.tsv"
    captions.write_text(f"filepath\ttitle\n{folder / 'image.png'}\ta red house\n")
    pages = {name: tmp_path / f"{name}.html" for name in ("here", "there")}
    kinds = (["--pair", str(folder / "image.png"), CAPTION], ["--retrieval", str(captions), "--images", str(folder)])
    with serving() as hub:
        use(hub, monkeypatch, tmp_path)
        files = ("model.safetensors", "vocab.txt", "codebook.safetensors")
        hub.add("some/small", {name: (folder / name).read_bytes() for name in files})
        for words in kinds:
            for model, page in zip((str(folder), "some/small"), pages.values(), strict=True):
                named = ["--name", "small", "--out", str(page), "--device", "cpu"]
                look.main([model, *words, *named])
            assert pages["here"].read_bytes() == pages["there"].read_bytes()
        with pytest.raises(SystemExit, match="the Hub shows no model 'some/none'"):
            look.main(["some/none", *kinds[0], "--out", str(pages["here"])])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "give one of --pair IMAGE CAPTION, and --retrieval FILE"),
        (["--pair", "IMAGE", "a dog", "--retrieval", "x.tsv"], "give one of"),
        (["--retrieval", "x.tsv"], "say by --images"),
        (["--pair", "IMAGE", "a dog", "--wrong-first"], "are for --retrieval"),
        (["--retrieval", "x.tsv", "--images", ".", "--mask", "dog"], "are for --pair"),
        (["--pair", "IMAGE", "a dog", "--out", "x.pdf"], "neither .html nor"),
        (["--retrieval", "x.tsv", "--images", ".", "--out", "x.png"], "choose one"),
        (
            ["--pair", "IMAGE", "a dog", "--mask", "house"],
            "--mask 'house' does not stand in the caption, whose tokens are",
        ),
        (["--pair", "IMAGE", "a dogs", "--mask", "dog"], "--mask 'dog' does not stand"),
        (["--pair", "IMAGE", "a dog", "--patches", "99"], "num_masked 99 must lie between 0 and the 9 patches"),
        (["--pair", "no.png", "a dog"], "no.png"),
        (["--pair", "IMAGE", ""], "the caption has no word"),
        (["--retrieval", "no.tsv", "--images", "."], "there is no no.tsv"),
        (["--pair", "IMAGE", "a dog", "--patches", "-2"], "must be -1 or more"),
    ],
)
def test_what_cannot_be_is_told(folder: Path, tmp_path: Path, words: list[str], told: str) -> None:
    out = [] if "--out" in words else ["--out", str(tmp_path / "x.html")]
    words = [str(folder / "image.png") if word == "IMAGE" else word for word in words]
    with pytest.raises(SystemExit) as stopped:
        look.main([str(folder), "--device", "cpu", *words, *out])
    assert told in str(stopped.value)
    assert not list(tmp_path.iterdir())


def test_other_models_are_told(folder: Path, tmp_path: Path) -> None:
    pair = ["--pair", str(folder / "image.png"), "a dog", "--out", str(tmp_path / "x.html"), "--device", "cpu"]
    save_pretrained(tiny.clip_pretraining(), tmp_path / "clip.safetensors")
    for model, told in (
        ("seers:painter", "seers:painter is a function; give its weights"),
        (str(tmp_path / "none"), "none is neither a file or folder that is there"),
        (str(tmp_path / "clip.safetensors"), "no fusion encoder"),
    ):
        with pytest.raises(SystemExit) as stopped:
            look.main([model, *pair, "--vocab", str(folder / "vocab.txt")])
        assert told in str(stopped.value)
