"""What a client does not get: every refusal is JSON with a code, and nothing brings the service down."""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from damage import damaged
from PIL import Image

TOKEN = "0123456789abcdef0123456789abcdef"
FORM = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    "query, status, code, words",
    [
        ("outptu=mask", 400, "request", "'outptu'"),
        ("output=alpha", 400, "request", "cutout, mask, trimap, json"),
        ("output=trimap&background=white", 400, "request", "a trimap is a PNG"),
        ("rendition=amazon-main&output=trimap", 400, "request", "its own format"),
        ("rendition=white,thumbnail", 400, "request", "output=json"),
        ("rendition=white,x&output=json", 400, "request", "'x' is unknown"),
        ("preset=/etc/passwd.yaml", 400, "request", "choose from fake"),
        ("rendition=/etc/x.yaml", 400, "request", "amazon-main"),
        ("rendition=amazon-main&format=webp", 400, "request", "its own format"),
        ("format=exe", 400, "request", "webp"),
        ("output=mask&format=webp", 400, "request", "a mask is a PNG"),
        ("background=pink", 400, "request", "six hex digits"),
        ("box=1,2,3", 400, "item", "four numbers"),
        ("box=[[1],2,3,4]", 400, "item", "four numbers"),
        ("box=" + "[" * 500, 400, "item", "four numbers"),
        ("box=9,9,1,1", 400, "item", "no area"),
        ("box=900,900,1000,1000", 400, "item", "outside the image"),
    ],
)
def test_wrong_options(service: Any, picture: bytes, query: str, status: int, code: str, words: str) -> None:
    answer = service.post(f"/v1/cutout?{query}", picture)
    assert (answer.status, answer.json["code"]) == (status, code) and words in answer.json["message"]
    assert answer.headers["X-Error-Code"] == code


@pytest.mark.parametrize(
    "body, kind, status, code",
    [
        (b"", "image/png", 400, "request"),
        (b"a=1", "application/x-www-form-urlencoded", 415, "request"),
        (b"no picture", "image/png", 422, "decode"),
        (b"GIF89a", "image/gif", 422, "decode"),
        (b"--b--\r\n", FORM, 400, "request"),
        (b"--c\r\n", FORM, 400, "request"),
        (b"x", "multipart/form-data", 400, "request"),
        (b'--b\r\nContent-Disposition: form-data; name="other"; filename="x"\r\n\r\nx\r\n--b--\r\n', FORM, 400, "request"),
        (b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n\r\n--b--\r\n', FORM, 400, "request"),
        (b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + bytes(70_000) + b"\r\n--b--\r\n", FORM, 400, "request"),
        (b"--b\r\nX: " + b"x" * 900_000, FORM, 400, "request"),
    ],
)
def test_wrong_bodies(service: Any, body: bytes, kind: str, status: int, code: str) -> None:
    answer = service.post("/v1/cutout", body, Content_Type=kind)
    assert (answer.status, answer.json["code"]) == (status, code), answer.body


def test_unknown_addresses_and_methods(service: Any) -> None:
    for path in ("/nothing", "/v1/cutout/", "/../etc/passwd", "/%2e%2e/etc", "/" + "x" * 5000):
        assert service.get(path).json["code"] == "not_found"
    assert service.request("DELETE", "/v1/cutout").json["code"] == "method"
    assert service.get("/api/remove").json["code"] == "request"
    for url in ("http://169.254.169.254/latest", "file:///etc/passwd", "s3://bucket/key", "/etc/passwd", "http://127.0.0.1:1/"):
        answer = service.get(f"/api/remove?url={url}")
        assert answer.status in {400, 403} and "passwd" not in answer.json["message"]


def chunks(count: int, size: int = 65536) -> Iterator[bytes]:
    yield from (bytes(size) for _ in range(count))


def test_a_large_body_is_refused_while_it_arrives(service: Any, make_form: Any) -> None:
    """limits.max_bytes is 3,000,000 here."""
    assert service.post("/v1/cutout", bytes(3_000_001)).status == 413
    assert service.post("/v1/cutout", chunks(60), Transfer_Encoding="chunked").json["code"] == "fetch"
    body, kind = make_form("image", bytes(3_000_001))
    assert service.post("/v1/cutout", body, Content_Type=kind).status == 413
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as client:
        client.sendall(b"POST /v1/cutout HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")  # before a single byte of it


def test_many_pixels_are_refused(service: Any) -> None:
    sink = io.BytesIO()
    Image.new("1", (2100, 2000)).save(sink, "PNG")
    answer = service.post("/v1/cutout", sink.getvalue())
    assert (answer.status, answer.json["code"]) == (422, "decode") and "limits.max_pixels" in answer.json["message"]


def test_hostile_files_get_a_picture_or_4xx(service: Any) -> None:
    statuses = []
    for name, data in damaged(7, 250, 5_000):
        answer = service.post("/v1/cutout", data)
        assert answer.status in {200, 400, 413, 422}, (name, answer.body[:300])
        if answer.status != 200:
            assert answer.json.keys() == {"code", "message"} and "\n" not in answer.json["message"]
            assert not re.search(r"0x[0-9a-f]{6}|Traceback|/(home|tmp|usr|site-packages)/", answer.json["message"])
        statuses.append(answer.status)
    assert {200, 422} <= set(statuses) and service.get("/ready").status == 200
    assert not [line for line in service.log if "traceback" in line]


def test_noise_instead_of_http(service: Any) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as client:
        client.sendall(b"\x16\x03\x01\x02 hello\r\n\r\n")
        head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and b"x-error-code: request" in head and json.loads(body)["code"] == "request"


def test_other_hosts_and_origins_are_refused(service: Any, picture: bytes) -> None:
    assert service.get("/v1/presets", Host="rebound.example").json["code"] == "host"
    assert service.get("/v1/presets", Host="[").status in {400, 421}
    for name in ("localhost", "127.0.0.1", "[::1]", f"LOCALHOST:{service.port}"):
        assert service.get("/v1/presets", Host=name).status == 200, name
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        answer = service.post("/v1/cutout", picture, Origin=origin)
        assert (answer.status, answer.json["code"]) == (403, "origin")
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert service.post("/v1/cutout", picture, Origin=f"http://127.0.0.1:{service.port}").status == 200


def test_a_full_queue_says_when_to_try_again(service: Any, picture: bytes) -> None:
    """Eight clients that never finish their bodies take the eight places."""
    head = b"POST /v1/cutout HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\nx"
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=60))
            client.sendall(head)
        wait_for(lambda: service.gauge("queue") == 8)
        answer = service.post("/v1/cutout", picture)
        assert (answer.status, answer.json["code"]) == (503, "busy") and int(answer.headers["Retry-After"]) >= 1
        assert service.get("/health").status == 200
    wait_for(lambda: service.gauge("queue") == 0)
    assert service.post("/v1/cutout", picture).status == 200


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_the_token_is_needed(start_service: Callable[..., Any], fake_preset: str, picture: bytes, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    origin = "https://shop.example.com"
    service = start_service(
        *("--host", "0.0.0.0", "--preset", fake_preset, "--allow-origin", origin), "--token-file", str(tmp_path / "token")
    )
    for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": "Bearer \xff"}):
        answer = service.post("/v1/cutout", picture, **given)
        assert (answer.status, answer.json["code"], answer.headers["WWW-Authenticate"]) == (401, "token", "Bearer")
    for path in ("/metrics", "/v1/presets", "/api/remove?url=x", "/nothing"):
        assert service.get(path).status == 401, path
    for path in ("/health", "/ready", "/docs", "/openapi.json"):
        assert service.get(path).status == 200, path
    answer = service.post("/v1/cutout", picture, Authorization=f"Bearer {TOKEN}", Origin=origin)
    assert answer.status == 200 and answer.headers["Access-Control-Allow-Origin"] == origin
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    assert service.request("OPTIONS", "/v1/cutout", None, asked).status == 200
    service.end()
    assert not any(TOKEN in line for line in service.log)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--host", "0.0.0.0"], "MATTELINE_TOKEN"),
        (["--host", "::"], "needs a token"),
        (["--token-file", "missing"], "cannot be read"),
        (["--allow-origin", "*"], "not an origin"),
        (["--preset", "nonsense"], "nonsense"),
        (["--preset", "mvanet-lite", "--preset", "mvanet-lite"], "same name"),
        (["--rendition", "amazon-main"], "given twice"),
        (["--host", "192.0.2.1", "--token-file", "token"], "cannot listen"),
        (["--set", "limits.max_pixels=0"], "max_pixels"),
        (["--set", "budget.deadline_s=60"], "--output-root"),
        (["--allow-root", ".", "--output-root", "out", "--set", "budget.deadline_s=1h"], "deadline_s"),
        (["--allow-root", ".", "--output-root", "out", "--set", "output.nme=x"], "output.nme"),
    ],
)
def test_a_wrong_configuration_is_refused(matteline: Any, tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "token").write_text(TOKEN)
    done: subprocess.CompletedProcess[str] = matteline("serve", "--port", "0", *arguments)
    assert done.returncode == 2 and words in done.stderr, done.stderr


def test_a_short_token_is_refused(matteline: Any) -> None:
    done = matteline("serve", env={"MATTELINE_TOKEN": "secret"})
    assert done.returncode == 2 and "at least 16" in done.stderr and "secret" not in done.stderr


def test_a_model_that_cannot_be_loaded_ends_the_service(own_process: Any) -> None:
    done = own_process("serve", "--port", "0", "--set", "recipe.weights=missing.safetensors")
    assert done.returncode == 2 and "missing.safetensors" in done.stderr and "Traceback" not in done.stderr


def test_a_missing_extra_is_named(matteline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "pipeline.serve.server", raising=False)
    done = matteline("serve")
    assert done.returncode == 2 and "pip install 'matteline[serve]'" in done.stderr
