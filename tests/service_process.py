"""A service in a process of its own, as users start it, and a client of it."""

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
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


@contextmanager
def services() -> Iterator[Callable[..., Running]]:
    """``start("--preset", …, env={})``: a running service that is ready. All end with the block."""
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

    try:
        yield start
    finally:
        for running in started:
            running.process.kill()
            running.process.wait()
