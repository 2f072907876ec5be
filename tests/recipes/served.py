"""The demo served from a thread of this process, on small models with random weights, and questions to it."""

import base64
import contextlib
import http.client
import io
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import tiny
from demo import Demo
from demo_answers import Answers, open_answers
from demo_server import DemoServer

from torchflava.models import save_pretrained

HOSTILE = "<script>document.title = 'broken'</script> & <img src=x>"
WORDS = ["a", "red", "green", "blue", "house", "dog", "##s", "on", "the", "hill", "<", ">", "script", "&", ";"]


def make_folder(folder: Path, model: torch.nn.Module) -> Path:
    """A model with its vocabulary, and a folder of five captioned images, one caption hostile."""
    (folder / "photos").mkdir(parents=True)
    save_pretrained(model, folder / "model.safetensors")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    for number, caption in enumerate(("a red house", "a green dog", HOSTILE, "the hill", "a blue house on the hill")):
        (folder / "photos" / f"{number}.png").write_bytes(png(number))
        (folder / "photos" / f"{number}.txt").write_text(caption)
    return folder


def flava() -> torch.nn.Module:
    """With all heads."""
    torch.manual_seed(0)
    return tiny.pretraining(parts={"fusion": tiny.fusion_encoder(depth=2)})


def clip() -> torch.nn.Module:
    """Without a fusion encoder."""
    return tiny.clip_pretraining()


def png(seed: int, size: tuple[int, int] = (40, 30)) -> bytes:
    """An image of random patches."""
    coarse = np.random.default_rng(seed).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Client:
    """Asks a server."""

    def __init__(self, server: DemoServer) -> None:
        self.server, self.answers = server, server.answers

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by small letters, and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_address[1], timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            told = connection.getresponse()
            return told.status, {name.lower(): value for name, value in told.getheaders()}, told.read()

    def ask(self, part: str, **question: Any) -> tuple[int, dict[str, Any]]:
        """Status and answer."""
        body = json.dumps(question).encode()
        status, _, told = self.send("POST", f"/ask/{part}", body, {"Content-Type": "application/json"})
        return status, json.loads(told)


@contextlib.contextmanager
def serving(asked: Demo) -> Iterator[Client]:
    """The demo, for a while."""
    answers: Answers = open_answers(asked, torch.device("cpu"))
    with DemoServer(answers, "127.0.0.1", 0, shown=asked.subject.shown) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Client(server)
        finally:
            server.shutdown()
            thread.join()
