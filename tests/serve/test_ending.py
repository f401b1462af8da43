"""SIGTERM, clients that leave, and what the process does without."""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

HEAD = b"POST /v1/cutout HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


def test_sigterm_lets_requests_end(start_service: Callable[..., Any], fake_preset: str, picture: bytes) -> None:
    service = start_service("--preset", fake_preset)
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as client:
        client.sendall(HEAD % len(picture) + picture[:100])
        while service.gauge("queue") != 1:
            time.sleep(0.02)
        service.process.send_signal(signal.SIGTERM)
        while not any('"ending"' in line for line in service.log):
            time.sleep(0.02)
        with pytest.raises(OSError):
            service.get("/health")  # no new connections
        client.sendall(picture[100:])
        assert client.makefile("rb").read().startswith(b"HTTP/1.1 200 ")
    assert service.process.wait(60) == 0
    assert not any("traceback" in line for line in service.log)


def test_a_client_that_leaves_gives_its_place_back(service: Any, picture: bytes) -> None:
    for sent in (b"", picture[:50], picture):
        with socket.create_connection(("127.0.0.1", service.port), timeout=60) as client:
            client.sendall(HEAD % len(picture) + sent)
    until = time.monotonic() + 60
    while service.gauge("queue"):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert service.post("/v1/cutout", picture).status == 200


@pytest.mark.skipif(torch.cuda.is_available() or sys.platform != "linux", reason="this machine has a GPU, or no /proc")
def test_a_service_on_a_cpu_does_without_pytorch(start_service: Callable[..., Any], picture: bytes) -> None:
    service = start_service("--preset", "u2netp")
    assert service.post("/v1/cutout", picture).status == 200
    assert "libtorch" not in Path(f"/proc/{service.process.pid}/maps").read_text()
    assert service.end() == 0


def test_a_request_that_does_not_end_in_time_gets_json(start_service: Callable[..., Any], fake_preset: str) -> None:
    """The end of ``--drain`` cuts it off: the server itself would answer with 500 in plain text, and log a traceback."""
    service = start_service("--preset", fake_preset, "--drain", "1")
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as client:
        client.sendall(HEAD % 100 + b"x")
        while service.gauge("queue") != 1:
            time.sleep(0.02)
        service.process.send_signal(signal.SIGTERM)
        head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ") and json.loads(body)["code"] == "busy"
    assert service.process.wait(60) == 0
    assert not any("traceback" in line for line in service.log)
