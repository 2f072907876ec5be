"""The demo's page over HTTP: one page without foreign scripts, pictures by number, questions and answers as JSON.

Requests come from a browser, but may come from anyone: bodies are bounded before they are read, no path names a file, other
sites cannot ask (a question must be JSON, and the Host must be the page's own), and an error says no more than it must.
"""

import json
import secrets
import socket
import sys
import traceback
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from demo_answers import Answers
from jinja2 import Environment

MOST_BYTES = 24 * 2**20
"""Of a question: an upload of 18 MB in base64."""
_PAGE = "demo.html"
_LOCAL = ("127.0.0.1", "localhost", "::1")


class DemoServer(ThreadingHTTPServer):
    """Serves one model's page; each request has a thread.

    Args:
        answers: what the page asks.
        host: the address to serve at.
        port: 0 takes a free one.
        shown: what the page calls the model.
    """

    daemon_threads = True

    def __init__(self, answers: Answers, host: str, port: int, *, shown: str) -> None:
        self.answers, self.shown = answers, shown
        self.local = host in _LOCAL
        text = (Path(__file__).parent / _PAGE).read_text()
        self.page = Environment(autoescape=True).from_string(text)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    @property
    def address(self) -> str:
        """Of the page."""
        host, port = str(self.server_address[0]), self.server_address[1]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def allows(self, host: str) -> bool:
        """Whether a request's Host is the page's own: another site's name may lead here too (DNS rebinding)."""
        if not self.local:
            return True
        try:
            return urlsplit(f"//{host}").hostname in _LOCAL
        except ValueError:  # for a bracket that nothing closes
            return False


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: DemoServer
    server_version, sys_version = "torchflava", ""
    timeout = 60  # seconds, for who sends slowly

    def do_GET(self) -> None:
        """The page, what there is, or a picture by its number."""
        if not self._is_ours():
            return
        path = self.path.partition("?")[0]
        answers = self.server.answers
        if path == "/":
            self._send_page()
        elif path == "/about":
            self._send_json(HTTPStatus.OK, answers.about() | {"model": self.server.shown})
        elif path.startswith("/picture/") and _number(path[9:]) in range(len(answers.gallery.files)):
            self._send(HTTPStatus.OK, "image/png", answers.gallery.files[int(path[9:])])
        else:
            self._send_json(HTTPStatus.NOT_FOUND, {"error": "There is nothing here."})

    def do_POST(self) -> None:
        """A question as JSON, by the page's part."""
        if not self._is_ours():
            return
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip()
        length = _number(self.headers.get("Content-Length", ""))
        if length < 0 or length > MOST_BYTES:
            self.close_connection = True  # what was not read must not be taken for the next request
            told = f"The question is too long; at most {MOST_BYTES // 2**20} MB are read."
            self._send_json(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": told})
            return
        body = self.rfile.read(length)
        if kind != "application/json":
            self._send_json(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, {"error": "A question must be application/json."})
            return
        try:
            asked = json.loads(body)
            if not isinstance(asked, dict):
                raise ValueError("A question must be a JSON object.")
            told = self.server.answers.answer(self.path.partition("?")[0].removeprefix("/ask/"), asked)
        except KeyError:
            self._send_json(HTTPStatus.NOT_FOUND, {"error": "There is no such question."})
        except (ValueError, RecursionError) as error:
            self._send_json(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        except Exception:
            traceback.print_exc()
            told = "Something went wrong; the terminal that the page was started in says what."
            self._send_json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": told})
        else:
            self._send_json(HTTPStatus.OK, told)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not told."""

    def _is_ours(self) -> bool:
        if self.server.allows(self.headers.get("Host", "")):
            return True
        self.close_connection = True
        self._send_json(HTTPStatus.FORBIDDEN, {"error": "This page is for this machine alone."})
        return False

    def _send_page(self) -> None:
        nonce = secrets.token_urlsafe(16)
        page = self.server.page.render(model=self.server.shown, nonce=nonce)
        policy = (
            f"default-src 'none'; img-src 'self' data: blob:; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", page.encode(), policy=policy)

    def _send_json(self, status: HTTPStatus, told: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(told).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes, *, policy: str = "default-src 'none'") -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Content-Security-Policy": policy}
        headers |= {"Cross-Origin-Resource-Policy": "same-origin"}  # no other site shows these pictures either
        headers |= {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def serve(answers: Answers, host: str, port: int, *, shown: str) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        OSError: if the port is taken.
        KeyboardInterrupt: at Ctrl-C, once nothing is served any more.
    """
    try:
        server = DemoServer(answers, host, port, shown=shown)
    except OSError as error:
        raise OSError(
            f"{host}:{port} cannot be served at ({error}); choose another --port, 0 for a free one, or another --host"
        ) from error
    with server:
        print(f"{shown}: open {server.address} in a browser; Ctrl-C ends it", flush=True)
        if not server.local:
            print(f"anyone who reaches {host} can use this page", file=sys.stderr, flush=True)
        server.serve_forever(poll_interval=0.2)


def _number(text: str) -> int:
    """A whole number in plain digits; -1 for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else -1
