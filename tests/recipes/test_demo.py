"""recipes/demo.py over HTTP: answers against the model asked by hand, hostile requests, models that lack something."""

import io
import json
import os
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import demo
import pytest
import torch
from demo import Demo
from demo_server import MOST_BYTES, DemoServer
from PIL import Image
from served import HOSTILE, Client, base64_of, clip, flava, make_folder, png, serving

from torchflava.layers import watched_attention
from torchflava.models import from_pretrained
from torchflava.transforms.image import EvalView, decoded, normalise
from torchflava.transforms.wordpiece import WordPiece

ROOT = Path(__file__).parents[2]
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("demo") / "small", flava())


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    with serving(Demo(str(folder), images=str(folder / "photos"), name=HOSTILE)) as opened:
        yield opened


def by_hand(folder: Path, number: int) -> tuple[torch.nn.Module, torch.Tensor, WordPiece]:
    model = from_pretrained(folder / "model.safetensors").eval()
    view = EvalView(model.flava.image_encoder.image_size)
    pixels = normalise(view(decoded((folder / "photos" / f"{number}.png").read_bytes()))[None])
    return model, pixels, WordPiece.from_file(folder)


def embedded(model: torch.nn.Module, tokenizer: WordPiece, text: str) -> torch.Tensor:
    ids = torch.tensor([tokenizer.encode(text, 13).ids])
    return model.embed_text(ids, torch.ones_like(ids, dtype=torch.bool))[0]


def test_the_page_is_one_file_whose_policy_lets_nothing_else_in(client: Client) -> None:
    status, headers, body = client.send("GET", "/")
    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    page = body.decode()
    assert HOSTILE not in page
    assert "&lt;script&gt;document.title" in page
    assert "http://" not in page.replace(client.server.address, "")
    assert "https://" not in page
    policy = headers["content-security-policy"]
    nonce = policy.split("script-src 'nonce-")[1].split("'")[0]
    assert page.count(f'nonce="{nonce}"') == 2
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert nonce not in client.send("GET", "/")[1]["content-security-policy"]


def test_what_there_is(client: Client) -> None:
    told = json.loads(client.send("GET", "/about")[2])
    assert (told["images"], told["texts"], told["missing"], told["model"]) == (5, 5, {}, HOSTILE)
    assert told["captions"][:3] == ["a red house", "a green dog", HOSTILE]
    for number in range(5):
        status, headers, body = client.send("GET", f"/picture/{number}")
        assert (status, headers["content-type"]) == (200, "image/png")
        assert headers["cross-origin-resource-policy"] == "same-origin"
        with Image.open(io.BytesIO(body)) as picture:
            assert picture.size == (120, 90)  # 40 x 30, drawn larger with sharp pixels


@torch.no_grad()
def test_a_search_finds_the_nearest(client: Client, folder: Path) -> None:
    status, told = client.ask("search", text="  a red dogs ")
    assert status == 200
    scores = []
    for number in range(5):
        model, pixels, tokenizer = by_hand(folder, number)
        scores.append(float(model.embed_image(pixels)[0] @ embedded(model, tokenizer, "a red dogs")))
    due = sorted(range(5), key=lambda number: -scores[number])
    assert [hit["at"] for hit in told["images"]] == due
    assert [hit["score"] for hit in told["images"]] == pytest.approx([scores[at] for at in due], abs=1e-3)


@torch.no_grad()
def test_texts_and_labels_of_an_image(client: Client, folder: Path) -> None:
    model, pixels, tokenizer = by_hand(folder, 3)
    image = model.embed_image(pixels)[0]
    status, told = client.ask("describe", image=3)
    assert status == 200
    captions = client.answers.gallery.lines
    due = sorted(captions, key=lambda text: -float(image @ embedded(model, tokenizer, text)))
    assert [hit["text"] for hit in told["texts"]] == due
    assert told["images"][0] == {"at": 3, "score": pytest.approx(1.0, abs=1e-3)}  # itself
    uploaded = client.ask("describe", image=base64_of(png(3)))
    assert uploaded == (status, told)
    status, told = client.ask("classify", image=3, labels="dog\n\n  red house \n" + HOSTILE, prompt="the {}")
    assert status == 200
    cosines = {
        label: float(image @ embedded(model, tokenizer, f"the {label}")) for label in ("dog", "red house", HOSTILE)
    }
    assert {row["label"]: row["cosine"] for row in told["labels"]} == pytest.approx(cosines, abs=1e-3)
    scale = float(model.contrastive.log_scale.exp())
    shares = torch.tensor([scale * row["cosine"] for row in told["labels"]]).softmax(0)
    assert [row["share"] for row in told["labels"]] == pytest.approx(shares.tolist(), abs=0.02)
    assert told["labels"] == sorted(told["labels"], key=lambda row: -row["cosine"])


@torch.no_grad()
def test_masked_words_with_and_without_the_image(client: Client, folder: Path) -> None:
    status, told = client.ask("fill", text="a ____ dogs on [mask] hill", image=1)
    assert (status, told["places"]) == (200, 2)
    model, pixels, tokenizer = by_hand(folder, 1)
    words = ["[CLS]", "a", "[MASK]", "dog", "##s", "on", "[MASK]", "hill", "[SEP]"]
    ids = torch.tensor([[tokenizer.tokens.index(word) for word in words]])
    keep = torch.ones_like(ids, dtype=torch.bool)
    text = model.flava.text_encoder(ids, keep)
    fused = model.flava.fuse(model.flava.image_encoder(pixels), text, keep)
    for name, logits in (("alone", model.mlm(text.normed)), ("seeing", model.mmm_text(fused.text))):
        for place, guesses in zip((2, 6), told[name], strict=True):
            shares = logits[0, place].softmax(-1)
            best = shares[: len(tokenizer.tokens)].argsort(descending=True)[:6].tolist()
            assert [guess["token"] for guess in guesses] == [tokenizer.tokens[at] for at in best]
            assert [guess["share"] for guess in guesses] == pytest.approx(shares[best].tolist(), rel=1e-3)
    assert told["alone"] != told["seeing"]
    assert "seeing" not in client.ask("fill", text="a ____")[1]
    assert client.ask("fill", text="a dog") == (
        400,
        {"error": "Write [MASK] or ____ in the text, where a word is to be filled in."},
    )


@torch.no_grad()
def test_attention_over_patches_and_words(client: Client, folder: Path) -> None:
    status, told = client.ask("attend", text="a red dogs", image=2)
    assert status == 200
    model, pixels, tokenizer = by_hand(folder, 2)
    ids = torch.tensor([tokenizer.encode("a red dogs", 13).ids])
    with watched_attention(model.flava.fusion_encoder) as weights:
        seen = model.flava(pixels, ids, torch.ones_like(ids, dtype=torch.bool))
    row = weights[-1].mean(1)[0, 0]
    assert told["last"]["patches"] == pytest.approx(float(row[2:11].sum()), abs=1e-3)
    assert [word for word, _ in told["last"]["words"]] == ["[CLS]", "a", "red", "dog", "##s", "[SEP]"]
    due = row[11:] / row[11:].max()
    assert [share for _, share in told["last"]["words"]] == pytest.approx(due.tolist(), abs=1e-3)
    assert told["matched"] == pytest.approx(float(model.itm(seen.fused.cls)[0].softmax(0)[1]), abs=1e-4)
    assert told["rollout"]["picture"].startswith("data:image/png;base64,")


def test_many_ask_at_once(client: Client) -> None:
    questions = [
        ("search", {"text": "a dog"}),
        ("attend", {"text": "a dog", "image": 1}),
        ("fill", {"text": "a ____", "image": 0}),
    ]
    alone = [client.ask(part, **asked) for part, asked in questions]
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(client.ask, part, **asked) for part, asked in questions * 6]
        assert [job.result() for job in jobs] == alone * 6


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 60,000 x 60,000 pixels."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def large() -> bytes:
    file = io.BytesIO()
    Image.new("1", (7000, 6000)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("part", "question", "said"),
    [
        ("search", {}, "Write a text first."),
        ("search", {"text": " \n"}, "Write a text first."),
        ("search", {"text": ["a"]}, "Write a text first."),
        ("search", {"text": "a" * 2001}, "The text has 2001 letters; at most 2000 are read."),
        ("describe", {}, "Choose an image, or upload one."),
        ("describe", {"image": 5}, "There is no image 5; there are 5."),
        ("describe", {"image": -1}, "There is no image -1"),
        ("describe", {"image": True}, "Choose an image"),
        ("describe", {"image": "../../etc/passwd"}, "it is no base64"),
        ("describe", {"image": base64_of(b"no image")}, "no image that can be read"),
        ("describe", {"image": base64_of(png(0)[:70])}, "cannot be decoded"),
        ("describe", {"image": base64_of(bomb())}, "no image that can be read"),
        ("describe", {"image": base64_of(large())}, "The image has 7000 x 6000 pixels; at most 40 million are read."),
        ("classify", {"image": 0, "labels": " \n "}, "Give from 1 to 200 labels"),
        ("classify", {"image": 0, "labels": "a\n" * 201}, "these are 201"),
        ("classify", {"image": 0, "labels": "a", "prompt": "a photo"}, "The prompt needs {}"),
        (
            "classify",
            {"image": 0, "labels": "a" * 1000, "prompt": "{} {} {}"},
            "the prompt has 3002 letters; at most 2000",
        ),
        ("classify", {"image": 0, "labels": "a", "prompt": "{}" * 2001}, "the prompt has 2001 letters; at most 2000"),
        ("fill", {"text": "dog " * 13 + "____"}, "lies beyond the 13 tokens that are read; shorten the text"),
        ("attend", {"image": 0, "text": ""}, "Write a text first."),
    ],
)
def test_what_cannot_be_answered_is_told(client: Client, part: str, question: dict[str, object], said: str) -> None:
    status, told = client.ask(part, **question)
    assert status == 400
    assert said in told["error"]
    assert client.ask("search", text="a dog")[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("GET", "/picture/../../../etc/passwd", {}, None, 404),
        ("GET", "/picture/%2e%2e%2fmodel.safetensors", {}, None, 404),
        ("GET", "/picture/5", {}, None, 404),
        ("GET", "/picture/-1", {}, None, 404),
        ("GET", "/demo.py", {}, None, 404),
        ("GET", "/", {"Host": "evil.test"}, None, 403),
        ("GET", "/", {"Host": "["}, None, 403),
        ("GET", "HTTP://[/", {}, None, 404),
        ("POST", "/ask/search", {"Host": "evil.test:80", **JSON}, b'{"text": "a"}', 403),
        ("POST", "/ask/search", {"Content-Type": "text/plain"}, b'{"text": "a"}', 415),
        ("POST", "/ask/search", JSON, b"{", 400),
        ("POST", "/ask/search", JSON, b"[1]", 400),
        ("POST", "/ask/search", JSON, b"[" * 100_000, 400),
        ("POST", "/ask/search", JSON, b"\xff", 400),
        ("POST", "/ask/nothing", JSON, b"{}", 404),
        ("POST", "/ask/_search", JSON, b"{}", 404),
        ("POST", "/ask/search", JSON | {"Content-Length": str(MOST_BYTES + 1)}, b"", 413),
        ("POST", "/ask/search", JSON | {"Content-Length": "-5"}, b"", 413),
        ("PUT", "/", {}, None, 501),
    ],
)
def test_requests_that_no_page_sends(
    client: Client, method: str, path: str, headers: dict[str, str], body: bytes | None, status: int
) -> None:
    found, told, answer = client.send(method, path, body, headers)
    assert found == status
    if status != 501:
        assert "error" in json.loads(answer)
        assert told["x-content-type-options"] == "nosniff"


def test_an_error_of_ours_is_told_to_the_terminal_alone(
    client: Client, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*parts: object) -> None:
        raise RuntimeError("the secret is 7")

    monkeypatch.setattr(client.answers, "answer", fails)
    status, told = client.ask("search", text="a")
    assert status == 500
    assert "7" not in told["error"]
    assert "the secret is 7" in capfd.readouterr().err


def test_clip_says_what_it_lacks(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "clip", clip())
    with serving(Demo(str(folder), images=str(folder / "photos"))) as client:
        missing = json.loads(client.send("GET", "/about")[2])["missing"]
        assert missing.keys() == {"fill", "attend"}
        assert client.ask("attend", text="a dog", image=0) == (400, {"error": missing["attend"]})
        assert "CLIP compares images and texts" in missing["attend"]
        assert client.ask("fill", text="a ____")[0] == 400
        assert len(client.ask("search", text="a dog")[1]["images"]) == 5
        assert client.ask("classify", image=0, labels="a\nb")[0] == 200


def test_without_images_or_a_vocabulary(folder: Path, tmp_path: Path) -> None:
    with serving(Demo(str(folder))) as client:  # whose folder tells of no run, and so of no images
        assert client.answers.missing().keys() == {"search"}
        assert "start with --images" in client.ask("search", text="a dog")[1]["error"]
        assert client.ask("classify", image=base64_of(png(1)), labels="dog\nhouse")[0] == 200
    bare = make_folder(tmp_path / "bare", flava())
    (bare / "vocab.txt").unlink()
    with serving(Demo(str(bare), images=str(bare / "photos"))) as client:
        assert client.answers.missing().keys() == {"search", "classify", "fill", "attend"}
        assert "vocabulary" in client.ask("fill", text="a ____")[1]["error"]


def test_texts_of_ones_own_and_damaged_images(folder: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(png(1))
    (photos / "b.png").write_bytes(png(2)[:60])
    (tmp_path / "texts.txt").write_text("a dog\n\na house\na dog\n")
    with serving(Demo(str(folder), images=str(photos), texts=str(tmp_path / "texts.txt"))) as client:
        about = json.loads(client.send("GET", "/about")[2])
        assert (about["images"], about["texts"]) == (1, 2)
    (photos / "a.png").unlink()
    with (
        pytest.raises(ValueError, match=r"none of the first 2000 images of .* can be read"),
        serving(Demo(str(folder), images=str(photos))),
    ):
        pass


def test_why_there_are_no_captions_is_told(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    with serving(Demo(str(folder), images=str(tmp_path))) as client:
        assert client.answers.gallery.captions == [""]
    assert "images are shown without captions: " in caplog.text
    (tmp_path / "captions.csv").write_text("picture\na.png\n")
    for wrong in (Demo(str(folder), images=str(tmp_path / "captions.csv")), Demo(str(folder), images="no/where")):
        with pytest.raises(ValueError, match=r"captions\.csv|there is no no/where"), serving(wrong):
            pass
    (tmp_path / "none").mkdir()
    none = Demo(str(folder), images=str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"has no image .*; as pairs: "), serving(none):
        pass
    (tmp_path / "empty.txt").write_text(" \n\n")
    texts = str(tmp_path / "empty.txt")
    with pytest.raises(ValueError, match=r"empty\.txt has no text"), serving(Demo(str(folder), texts=texts)):
        pass


def test_it_is_served_by_ip_version_6(client: Client) -> None:
    try:
        server = DemoServer(client.answers, "::1", 0, shown="six")
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    with server:
        assert server.address == f"http://[::1]:{server.server_address[1]}"
        assert server.allows("[::1]:8010")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no/where"], "no/where is neither a file nor a folder that is there"),
        (["some:thing"], "some:thing is a function; the page shows models that this project builds"),
        ([".", "--texts", "no/where"], "--texts no/where is not a file"),
        ([".", "--port", "65536"], "--port 65536 must be from 0 to 65535"),
        ([".", "--most", "0"], "--most 0 must be 1 or more"),
    ],
)
def test_a_wrong_word_ends_with_a_word_about_it(words: list[str], said: str) -> None:
    with pytest.raises(SystemExit, match=f"demo.py: {said}"):
        demo.main(words)


@pytest.mark.slow
def test_it_ends_cleanly_and_refuses_a_port_that_is_taken(folder: Path) -> None:
    words = [sys.executable, "-u", "recipes/demo.py", str(folder), "--images", str(folder / "photos")]
    given = {"cwd": ROOT, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "text": True, "stdout": subprocess.PIPE}
    with subprocess.Popen([*words, "--port", "0"], stderr=subprocess.PIPE, **given) as served:
        assert served.stdout is not None
        line = served.stdout.readline()
        assert "open http://127.0.0.1:" in line
        port = line.split("127.0.0.1:")[1].split()[0]
        other = subprocess.run([*words, "--port", port], stderr=subprocess.PIPE, timeout=120, check=False, **given)
        assert other.returncode == 1
        assert "choose another --port" in other.stderr
        assert "Traceback" not in other.stderr
        served.send_signal(signal.SIGINT)
        out, err = served.communicate(timeout=60)
        assert (served.returncode, "Traceback" in err) == (0, False)
        assert "stopped" in out
