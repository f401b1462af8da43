"""A service as users start it: the command, in a process of its own, on a free port."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

IMAGING = Path(__file__).resolve().parents[1] / "imaging"
sys.path.append(str(IMAGING))  # damage.py and what it imports

MATTELINE = str(Path(sys.executable).with_name("matteline"))
START_S = 120


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Running:
    """A service, and a client of it."""

    process: subprocess.Popen[str]
    port: int = 0
    log: list[str] = field(default_factory=list)

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, headers or {}, encode_chunked=not isinstance(body, bytes | None))
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, None, {name.replace("_", "-"): value for name, value in headers.items()})

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("POST", path, body, {"Content-Type": "application/octet-stream"} | named)

    def gauge(self, name: str) -> float:
        found = re.search(rf"^matteline_serve_{re.escape(name)} (\S+)$", self.get("/metrics").body.decode(), re.M)
        assert found, name
        return float(found[1])

    def end(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def form(field: str, data: bytes, **fields: str) -> tuple[bytes, str]:
    """A form with a file, and its content type."""
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items()
    ]
    head = f'--b\r\nContent-Disposition: form-data; name="{field}"; filename="x.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    return b"".join([*parts, head.encode(), data, b"\r\n--b--\r\n"]), "multipart/form-data; boundary=b"


@pytest.fixture(scope="session")
def make_form() -> Callable[..., tuple[bytes, str]]:
    return form


@pytest.fixture(scope="session")
def start_service() -> Iterator[Callable[..., Running]]:
    """``start_service("--preset", …, env={})``: a running service that is ready. All end with the tests."""
    started: list[Running] = []

    def start(*arguments: str, env: dict[str, str] | None = None, ready: bool = True) -> Running:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_", "MATTELINE"))}
        process = subprocess.Popen(
            [MATTELINE, "serve", "--port", "0", *arguments], env=environment | (env or {}), stderr=subprocess.PIPE, text=True
        )
        running = Running(process)
        started.append(running)
        listening = threading.Event()

        def read() -> None:
            assert process.stderr is not None
            for line in process.stderr:
                running.log.append(line)
                if found := re.search(r"listening on http://\S+:(\d+)", line):
                    running.port = int(found[1])
                    listening.set()
            listening.set()

        threading.Thread(target=read, daemon=True).start()
        assert listening.wait(START_S) and running.port, "".join(running.log)
        until = time.monotonic() + START_S
        while ready and running.get("/ready").status != 200:
            assert time.monotonic() < until and process.poll() is None, "".join(running.log)
            time.sleep(0.05)
        return running

    yield start
    for running in started:
        running.process.kill()
        running.process.wait()


@pytest.fixture(scope="session")
def service(start_service: Callable[..., Running], fake_preset: str) -> Running:
    """A service with the fake model, which answers at once."""
    limits = ("--set", "limits.max_bytes=3000000", "--set", "limits.max_pixels=4000000")
    return start_service("--preset", fake_preset, *limits, "--queue", "8")


@pytest.fixture(scope="session")
def picture(make_photos: Callable[..., list[Path]], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_photos(tmp_path_factory.mktemp("photos"), 1)[0].read_bytes()
