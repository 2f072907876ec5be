"""A Hugging Face Hub of a test's own, on this machine: the real addresses and headers, repositories in memory.

What it answers: a model's info, its tree, its files (large ones by a redirect, as the real one's), commits, branches; and the
errors for what is not there, gated, or not this user's.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import huggingface_hub.utils
import pytest
import yaml

TOKEN = "hf_of_this_test"
LARGE = 20_000  # bytes; larger files stand elsewhere, as in LFS


class Hub:
    """The repositories, and what was asked."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        """By name, then branch, then file."""
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.asked: list[str] = []
        self.broken = False
        self.url = ""

    def add(self, name: str, files: dict[str, bytes], branch: str = "main") -> None:
        """Put files into a repository's branch."""
        self.repos.setdefault(name, {"main": {}}).setdefault(branch, {}).update(files)

    def files(self, name: str, revision: str) -> dict[str, bytes] | None:
        """The files of a branch, or of the commit that it is at."""
        branches = self.repos[name]
        return next((files for branch, files in branches.items() if revision in (branch, commit_of(files))), None)


def commit_of(files: dict[str, bytes]) -> str:
    """40 hexadecimal digits that change with the content."""
    digest = hashlib.sha1()
    for name, content in sorted(files.items()):
        digest.update(name.encode() + b"\0" + content)
    return digest.hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) if self.command == "POST" else b""
        if self.command == "POST" and self.headers.get("Transfer-Encoding") == "chunked":
            body = self.chunks()
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        if self.hub.broken:
            return self.send(503, b"{}")
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            head = json.loads(body)["content"].split("---")[1]
            assert yaml.safe_load(head)["library_name"] == "torchflava"
            return self.json({"errors": [], "warnings": []})
        if place := re.fullmatch(r"/cdn/([^/]+/[^/]+)/([^/]+)/(.+)", path):
            return self.file(*place.groups(), redirect=False)
        if place := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/([a-z]+)/([^/]+))?", path):
            name, verb, revision = place.groups()
            return self.api(name, verb or "revision", revision or "main", body)
        if place := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.file(*place.groups())
        return self.send(404, b"{}")

    def api(self, name: str, verb: str, revision: str, body: bytes) -> None:
        if self.refused(name):
            return None
        if verb == "branch":
            self.hub.repos[name].setdefault(revision, dict(self.hub.repos[name]["main"]))
            return self.send(200, b"{}")
        files = self.hub.files(name, revision)
        if files is None:
            return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if verb == "revision":
            siblings = [{"rfilename": file} for file in files]
            info = {
                "id": name,
                "sha": commit_of(files),
                "siblings": siblings,
                "private": False,
                "tags": [],
                "downloads": 0,
            }
            return self.json(info)
        if verb == "tree":
            return self.json([self.entry(*item) for item in files.items()])
        if verb == "preupload":
            asked = [file["path"] for file in json.loads(body)["files"]]
            return self.json(
                {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in asked]}
            )
        assert verb == "commit", self.path
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        where = f"{self.hub.url}/{name}/commit/{commit_of(files)}"
        return self.json({"success": True, "commitOid": commit_of(files), "commitUrl": where, "hookOutput": ""})

    def entry(self, path: str, content: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        if len(content) > LARGE:
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return entry

    def file(self, name: str, revision: str, file: str, *, redirect: bool = True) -> None:
        if redirect and self.refused(name):
            return None
        files = self.hub.files(name, revision)
        if files is None or file not in files:
            missing = "RevisionNotFound" if files is None else "EntryNotFound"
            return self.send(404, b"{}", {"X-Error-Code": missing})
        content = files[file]
        headers = {"X-Repo-Commit": commit_of(files)}
        if redirect and len(content) > LARGE:
            headers |= {"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Linked-Size": str(len(content))}
            return self.send(302, b"", {**headers, "Location": f"{self.hub.url}/cdn/{name}/{revision}/{file}"})
        return self.send(200, content, {**headers, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'})

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.send(401, b'{"error": "Invalid username or password."}')
        if name in self.hub.repos:
            return self.send(409, json.dumps({"url": f"{self.hub.url}/{name}"}).encode())
        self.hub.add(name, {})
        if asked.get("private") or asked.get("visibility") == "private":
            self.hub.private.add(name)
        return self.json({"url": f"{self.hub.url}/{name}", "id": name, "name": name})

    def refused(self, name: str) -> bool:
        """Whether this user does not get to see a repository, which is then said."""
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if name not in self.hub.repos or (name in self.hub.private and not known):
            self.send(401, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
            return True
        if name in self.hub.gated and not known:
            self.send(403, b"{}", {"X-Error-Code": "GatedRepo"})
            return True
        return False

    def chunks(self) -> bytes:
        body = b""
        while length := int(self.rfile.readline(), 16):
            body += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def json(self, content: Any) -> None:
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def only_hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Hub]:
    """A server that is the Hub for as long as it lasts."""
    with serving() as hub:
        use(hub, monkeypatch, folder)
        yield hub
        huggingface_hub.utils.close_session()


def use(hub: Hub, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As with HF_ENDPOINT and HF_HOME, which are read when the library is imported, and without a token."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
    huggingface_hub.utils.close_session()
