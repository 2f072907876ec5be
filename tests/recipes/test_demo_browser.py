"""The demo's page in a real browser: every part answers, uploads work, nothing sticks out, nothing hostile runs."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, browsing
from demo import Demo
from served import HOSTILE, Client, base64_of, clip, flava, make_folder, png, serving

pytestmark = pytest.mark.slow

PARTS = ("search", "describe", "classify", "fill", "attend")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as opened:
        yield opened


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = make_folder(tmp_path_factory.mktemp("demo") / "small", flava())
    with serving(Demo(str(folder), images=str(folder / "photos"), name=HOSTILE)) as opened:
        yield opened


def until(browser: Browser, script: str) -> Any:
    for _ in range(600):
        if seen := browser.ask(script):
            return seen
        time.sleep(0.05)
    raise AssertionError(f"not seen: {script}")


def shown(browser: Browser, client: Client, **how: Any) -> None:
    browser.open(client.server.address, **how)
    until(browser, "document.body.dataset.ready == 'yes'")


def answer(browser: Browser, part: str) -> str:
    """Ask a part of the page; its answer as text."""
    browser.ask(f"document.querySelector('#{part} .answer').replaceChildren()")
    browser.click(f"#tab-{part}")
    browser.click(f"#{part} .go")
    until(browser, f"document.querySelector('#{part} .answer').children.length")
    return str(browser.ask(f"document.querySelector('#{part} .answer').innerText"))


def write(browser: Browser, field: str, text: str) -> None:
    browser.ask(f"document.getElementById('{field}').value = {text!r}")


@pytest.mark.parametrize("width", [1280, 390])
def test_every_part_answers_and_nothing_else_is_asked_for(browser: Browser, client: Client, width: int) -> None:
    browser.asked.clear()
    browser.complaints.clear()
    shown(browser, client, width=width, dark=width == 390)
    assert browser.ask("document.querySelectorAll('#strip img').length") == 5
    browser.click("#strip button:nth-child(3)")  # whose caption is hostile
    assert browser.ask("document.querySelector('#strip [aria-pressed=true]').dataset.at") == "2"
    write(browser, "search-text", "a red house")
    write(browser, "labels", "dog\nhouse")
    write(browser, "fill-text", "a ____ dog")
    write(browser, "attend-text", HOSTILE)
    told = {part: answer(browser, part) for part in PARTS}
    assert HOSTILE in told["search"]
    assert "Images like it" in told["describe"]
    assert told["classify"].count("cos ") == 2
    assert "From the words alone" in told["fill"]
    assert "With the image" in told["fill"]
    assert "They belong together" in told["attend"]
    sizes = browser.ask("[...document.querySelectorAll('#attend img')].map(i => [i.naturalWidth, i.clientWidth])")
    assert len(sizes) == 2
    assert all(natural > 0 and seen > 100 for natural, seen in sizes)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask("document.title") == HOSTILE  # as text
    assert browser.ask("document.scripts.length") == 1
    ours = (client.server.address, "data:")
    assert [url for url in browser.asked if not url.startswith(ours)] == []
    assert browser.complaints == []
    assert len(browser.picture()) > 10_000


def test_an_upload_is_asked_about_and_a_bad_one_told(browser: Browser, client: Client) -> None:
    shown(browser, client)
    assert "Choose an image, or upload one." in answer(browser, "describe")
    for data, said in ((png(4), "a blue house on the hill"), (b"no image", "no image that can be read")):
        script = f"""(async () => {{
            const bytes = Uint8Array.from(atob('{base64_of(data)}'), c => c.charCodeAt(0));
            const given = new DataTransfer();
            given.items.add(new File([bytes], 'given.png', {{type: 'image/png'}}));
            const before = document.getElementById('chosen').src, field = document.getElementById('file');
            field.files = given.files;
            field.dispatchEvent(new Event('change'));
            while (document.getElementById('chosen').src === before) await new Promise(done => setTimeout(done, 10));
        }})()"""
        browser.ask(script)
        assert said in answer(browser, "describe")
    assert browser.ask("document.querySelector('#describe [role=alert]') !== null")


def test_clip_shows_what_is_missing(browser: Browser, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "clip", clip())
    with serving(Demo(str(folder), images=str(folder / "photos"))) as client:
        shown(browser, client)
        browser.click("#tab-attend")
        assert "CLIP compares images and texts" in browser.ask("document.getElementById('attend').innerText")
        assert browser.ask("document.querySelectorAll('#attend .go').length") == 0
        assert "a red house" in answer(browser, "search")
