"""The pages of looking in a real browser: all pictures are drawn, nothing is fetched, switches switch, nothing sticks out."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from browsed import image_file
from browser import Browser, browsing

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import look
import tiny
from looked import NUM, SCRIPT, confusion_page, retrieval_page

from torchflava.codebooks import PatchCodebook
from torchflava.models import save_pretrained

pytestmark = pytest.mark.slow

SEEN = "[...document.querySelectorAll('#texts article')].filter(e => e.getClientRects().length)"
RIGHT = "e => e.classList.contains('first')"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each kind."""
    folder = tmp_path_factory.mktemp("pages")
    return {
        "retrieval": retrieval_page(folder),
        "table": confusion_page(folder, 10),
        "picture": confusion_page(folder, 1000, 3),
        "pair": pair_page(folder),
    }


def pair_page(folder: Path) -> Path:
    torch.manual_seed(0)
    save_pretrained(tiny.pretraining(), folder / "model.safetensors")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "house", "<", ">", "script"]
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    codes = torch.rand(tiny.NUM_CODES, 3, 4, 4, dtype=torch.float64)
    PatchCodebook(codes, (255 * codes).to(torch.uint8), 12).save(folder / "codebook.safetensors")
    (folder / "image.png").write_bytes(image_file(5, (40, 30), "PNG"))
    pair = ["--pair", str(folder / "image.png"), f"a red house {SCRIPT}", "--out", str(folder / "pair.html")]
    look.main([str(folder), *pair, "--device", "cpu"])
    return folder / "pair.html"


@pytest.mark.parametrize("kind", ["retrieval", "table", "picture", "pair"])
@pytest.mark.parametrize("width", [1280, 390])
def test_all_is_drawn_and_nothing_else_is_asked_for(
    browser: Browser, pages: dict[str, Path], kind: str, width: int
) -> None:
    browser.asked.clear()
    browser.complaints.clear()
    browser.open(pages[kind], width=width, dark=width == 390)
    browser.ask("Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.decode() }))")
    sizes = browser.ask("[...document.images].map(i => [i.naturalWidth, i.getBoundingClientRect().width])")
    assert all(natural > 0 and shown > 10 for natural, shown in sizes)
    assert len(sizes) > {"table": -1, "picture": 0}.get(kind, 4)
    assert browser.ask("document.scripts.length") == 0
    assert browser.ask("document.title") != "broken"
    others = [url for url in browser.asked if not url.startswith("data:")]
    assert others == [pages[kind].resolve().as_uri()]
    assert browser.complaints == []
    # Nothing sticks out to the right: what is wide scrolls within itself.
    assert browser.ask("document.documentElement.scrollWidth") <= width
    background = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 24, 27)" if width == 390 else "rgb(251, 251, 249)")


def test_the_switch_shows_right_and_wrong(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["retrieval"])
    right = browser.ask(f"{SEEN}.map({RIGHT})")
    assert len(right) == 2 * NUM
    assert 0 < sum(right) < len(right)
    assert right != sorted(right)
    browser.click("#only-wrong")
    assert browser.ask(f"{SEEN}.map({RIGHT})") == [False] * right.count(False)
    browser.click("#only-right")
    assert browser.ask(f"{SEEN}.map({RIGHT})") == [True] * right.count(True)
    browser.click("#order-wrong")
    tops = f"{SEEN}.sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top).map({RIGHT})"
    assert browser.ask(tops) == sorted(right)
    browser.click("#all")
    assert browser.ask(tops) == right


def test_outlines_lie_on_the_hidden_patches(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["pair"])
    boxes = browser.ask(
        "(frame => { const f = frame.getBoundingClientRect(); return [...frame.querySelectorAll('rect')].map(r => { const b ="
        "r.getBoundingClientRect(); return [3 * (b.x + b.width / 2 - f.x) / f.width, 3 * (b.y + b.height / 2 - f.y) / f.height]"
        "}) })(document.querySelector('.frame:has(svg)'))"
    )
    told = browser.ask("document.querySelector('#patches p').textContent")
    assert f"Of {len(boxes)} hidden patches" in told
    assert len({(int(x), int(y)) for x, y in boxes}) == len(boxes)
    assert all(x % 1 == pytest.approx(0.5, abs=0.05) and y % 1 == pytest.approx(0.5, abs=0.05) for x, y in boxes)
