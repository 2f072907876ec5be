"""The endpoints of a Kubernetes API server that a Volcano job needs, on 127.0.0.1; what it is sent is checked and kept."""

import json
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from strict_schema import faults


class Request(NamedTuple):
    """One that was made."""

    method: str
    path: str
    query: dict[str, str]
    body: Any


class Answer(NamedTuple):
    """A status and a body: an object, or text in the pieces in which it is sent."""

    status: int
    body: dict[str, Any] | Sequence[bytes]


class KubernetesAPI:
    """A context; jobs and logs are by namespace and name, and the test plays Volcano by changing them."""

    def __init__(self) -> None:
        self.jobs: dict[tuple[str, str], dict[str, Any]] = {}
        self.logs: dict[tuple[str, str], list[bytes]] = {}
        self.requests: list[Request] = []
        self.has_volcano = True
        self.refuses: tuple[int, str] | None = None
        """Answered to every request."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    def __enter__(self) -> "KubernetesAPI":
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self, **context: str) -> str:
        """The text of a configuration whose context also has `context`."""
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        clusters = [{"name": "test", "cluster": {"server": url}}]
        users = [{"name": "tester", "user": {"token": "a-token"}}]
        contexts = [{"name": "here", "context": {"cluster": "test", "user": "tester", **context}}]
        lists = {"clusters": clusters, "users": users, "contexts": contexts, "current-context": "here"}
        return json.dumps({"apiVersion": "v1", "kind": "Config", **lists})

    def answer(self, request: Request) -> Answer:
        """What the server says, by path: jobs of Volcano's group, or a pod's log."""
        if self.refuses is not None:
            return _failure(*self.refuses)
        match request.path.strip("/").split("/"):
            case ["apis", "batch.volcano.sh", "v1alpha1", "namespaces", space, "jobs", *rest] if self.has_volcano:
                return self._jobs(request, space, rest)
            case ["api", "v1", "namespaces", space, "pods", pod, "log"]:
                lines = self.logs.get((space, pod))
                return _missing("pods", pod) if lines is None else Answer(200, lines)
        return Answer(404, [b"404 page not found\n"])

    def _jobs(self, request: Request, space: str, rest: list[str]) -> Answer:
        if not rest and request.method == "POST":
            if found := faults(request.body):
                return _failure(422, "; ".join(found))
            name = request.body["metadata"]["name"]
            if (space, name) in self.jobs:
                return _failure(409, f'jobs.batch.volcano.sh "{name}" already exists', name=name, reason="Conflict")
            self.jobs[space, name] = json.loads(json.dumps(request.body))
            return Answer(201, self.jobs[space, name])
        if not rest:
            return Answer(200, {"kind": "JobList", "items": [job for (at, _), job in self.jobs.items() if at == space]})
        name, *what = rest
        if (space, name) not in self.jobs:
            return _missing("jobs.batch.volcano.sh", name)
        if request.method == "DELETE":
            del self.jobs[space, name]
            return Answer(200, {"kind": "Status", "status": "Success"})
        return Answer(200, self.jobs[space, name]) if what in ([], ["status"]) else _missing("jobs", name)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                url = urlsplit(self.path)
                size = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(size)) if size else None
                request = Request(self.command, url.path, dict(parse_qsl(url.query)), body)
                api.requests.append(request)
                status, told = api.answer(request)
                self.send_response(status, None)
                pieces = [json.dumps(told).encode()] if isinstance(told, dict) else told
                self.send_header("Content-Type", "application/json" if isinstance(told, dict) else "text/plain")
                self.send_header("Transfer-Encoding", "chunked")
                self.send_header("Connection", "close")  # the client keeps none open until it is collected
                self.end_headers()
                for piece in [*pieces, b""]:
                    self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")

            do_GET = do_POST = do_DELETE = answer  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        return Handler


def _failure(status: int, message: str, *, name: str = "", reason: str = "") -> Answer:
    details = {"name": name} if name else {}
    told = {"kind": "Status", "status": "Failure", "code": status, "message": message, "details": details}
    return Answer(status, told | {"reason": reason})


def _missing(kind: str, name: str) -> Answer:
    return _failure(404, f'{kind} "{name}" not found', name=name, reason="NotFound")
