"""What the storage tests share: the same test on a disk and on a real S3 server, and a web server that misbehaves."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Storage
from pipeline.storage.files import Files


@dataclass(frozen=True)
class Where:
    """A place to test in: ``root`` is an empty folder or prefix."""

    root: str
    files: Files
    kind: str

    def put(self, name: str, data: bytes) -> str:
        uri = f"{self.root}/{name}"
        self.files.write(uri, data)
        return uri


@pytest.fixture
def local(tmp_path: Path) -> Where:
    return Where(str(tmp_path / "root"), Files(), "local")


@pytest.fixture
def remote(s3: Any) -> Where:
    s3.make_bucket("storage-tests")
    return Where(f"s3://storage-tests/{secrets.token_hex(6)}/root", Files(Storage(**s3.settings)), "s3")


@pytest.fixture(params=["local", "s3"])
def where(request: pytest.FixtureRequest) -> Where:
    """Both, one after the other."""
    found: Where = request.getfixturevalue("local" if request.param == "local" else "remote")
    return found


Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Web:
    """A web server whose answers a test scripts: one a request, the last one again and again."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path and headers of every request."""

    def say(self, *answers: Answer) -> None:
        self.answers[:] = answers
        self.seen.clear()


@pytest.fixture
def web() -> Iterator[Web]:
    """Headers are sent as scripted, so a Content-Length may lie."""
    state = Web("")
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # S3 clients wait for its "100 Continue" before a body

        def answer(self) -> None:
            with lock:
                state.seen.append((self.command, self.path, dict(self.headers)))
                status, headers, body = state.answers.pop(0) if len(state.answers) > 1 else state.answers[0]
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_DELETE = answer

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture
def fake_s3(web: Web) -> Callable[[], Files]:
    """S3 spoken by the scripted server."""

    def make() -> Files:
        return Files(Storage(endpoint_url=web.url, key="k", secret="s3cr3t-of-the-test", region="us-east-1"))

    return make
