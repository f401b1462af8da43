"""The fault-injecting proxy itself: what it lets through is whole, and each fault is what it says."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

BODY = bytes(range(256)) * 40


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was sent, or with BODY; remembers what reached it."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str | None, bytes]]

    def answer(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((f"{self.command} {self.path}", self.headers["Host"], data))
        body = data or BODY
        self.send_response(200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            body = b"3\r\nabc\r\n2;note\r\nde\r\n0\r\n\r\n"
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = answer

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def echo(proxy_module: Any) -> Iterator[Any]:
    Echo.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    with proxy_module.Proxy(server.server_port, seed=7) as running:
        yield running
    server.shutdown()
    server.server_close()


def connect(echo: Any) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(echo.endpoint_url.removeprefix("http://"), timeout=10)


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_without_rules_everything_passes_unchanged(echo: Any) -> None:
    connection = connect(echo)
    host = echo.endpoint_url.removeprefix("http://")
    assert ask(connection, "PUT", "/b/k%20k?x=1", BODY[:999]) == (200, BODY[:999])
    assert ask(connection, "GET", "/b/k") == (200, BODY)
    assert ask(connection, "HEAD", "/b/k") == (200, b"")
    assert ask(connection, "GET", "/chunked") == (200, b"abcde")
    assert ask(connection, "GET", "/after") == (200, BODY), "a kept connection goes on after a chunked answer"
    assert Echo.seen[0] == ("PUT /b/k%20k?x=1", host, BODY[:999])
    assert echo.requests == {"PUT": 1, "GET": 3, "HEAD": 1}
    assert not echo.faults


@pytest.mark.parametrize(("kind", "status", "code"), [("slow_down", 503, b"SlowDown"), ("error", 500, b"InternalError")])
def test_answers_of_a_store_in_trouble(echo: Any, kind: str, status: int, code: bytes, rule: Any) -> None:
    connection = connect(echo)
    with echo.suffering(rule(kind, "^GET /b/")):
        found, body = ask(connection, "GET", "/b/k")
        assert found == status and b"<Code>" + code + b"</Code>" in body
        assert ask(connection, "HEAD", "/b/k")[0] == 200, "the rule is for GET only"
        assert ask(connection, "GET", "/c/k") == (200, BODY), "and for one path only"
    assert ask(connection, "GET", "/b/k") == (200, BODY), "the rule is gone"
    assert [line for line, *_ in Echo.seen] == ["HEAD /b/k", "GET /c/k", "GET /b/k"], "the server never saw the first one"


def test_forbidden_has_no_body_for_head(echo: Any, rule: Any) -> None:
    connection = connect(echo)
    with echo.suffering(rule("forbidden")):
        assert ask(connection, "HEAD", "/b/k") == (403, b"")
        status, body = ask(connection, "PUT", "/b/k", b"data")
    assert status == 403 and b"AccessDenied" in body
    assert not Echo.seen


@pytest.mark.parametrize(("kind", "arrives"), [("reset", 0), ("lost_answer", 1)])
def test_connections_break_before_or_after_the_deed(echo: Any, kind: str, arrives: int, rule: Any) -> None:
    with echo.suffering(rule(kind, count=1)):
        with pytest.raises(ConnectionResetError):
            ask(connect(echo), "PUT", "/b/k", b"data")
        assert len(Echo.seen) == arrives
        assert ask(connect(echo), "PUT", "/b/k", b"data") == (200, b"data"), "only one was to break"
    assert echo.faults == {kind: 1}


def test_a_body_is_cut_in_the_middle(echo: Any, rule: Any) -> None:
    with echo.suffering(rule("truncate")), pytest.raises(http.client.IncompleteRead) as cut:
        ask(connect(echo), "GET", "/b/k")
    assert cut.value.partial == BODY[: len(BODY) // 2]


def test_a_slow_answer_comes_whole(echo: Any, monkeypatch: pytest.MonkeyPatch, rule: Any, proxy_module: Any) -> None:
    slept: list[float] = []
    monkeypatch.setattr(proxy_module.time, "sleep", slept.append)
    with echo.suffering(rule("slow", seconds=12.5)):
        assert ask(connect(echo), "GET", "/b/k") == (200, BODY)
    assert slept == [12.5]


def test_chance_follows_the_seed(echo: Any, rule: Any, proxy_module: Any) -> None:
    connection = connect(echo)
    with echo.suffering(rule("error", probability=0.2)):
        found = [ask(connection, "GET", "/b/k")[0] for _ in range(200)]
    twin = proxy_module.Proxy(1, seed=7)
    with twin.suffering(rule("error", probability=0.2)):
        assert found == [200 if twin.judge("GET /b/k") is None else 500 for _ in range(200)]
    assert 20 <= found.count(500) <= 60 and echo.faults["error"] == found.count(500)


def test_a_dead_server_is_a_broken_connection(echo: Any, proxy_module: Any) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with proxy_module.Proxy(nobody.getsockname()[1]) as lonely, pytest.raises(ConnectionResetError):
            ask(connect(lonely), "GET", "/b/k")


def test_signatures_stay_valid(s3: Any, proxy: Any, rule: Any) -> None:
    client = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=proxy.endpoint_url,
        aws_access_key_id=s3.key,
        aws_secret_access_key=s3.secret,
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}),
    )
    bucket = s3.make_bucket()

    def there_and_back(number: int) -> bool:
        data = BODY * (number + 1)
        client.put_object(Bucket=bucket, Key=f"a b/{number}", Body=data)
        return client.get_object(Bucket=bucket, Key=f"a b/{number}")["Body"].read() == data

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(there_and_back, range(16)))
    assert len(client.list_objects_v2(Bucket=bucket)["Contents"]) == 16
    with proxy.suffering(rule("forbidden")), pytest.raises(ClientError) as refused:
        client.get_object(Bucket=bucket, Key="a b/0")
    assert refused.value.response["Error"]["Code"] == "AccessDenied"
    with proxy.suffering(rule("reset")), pytest.raises(BotoCoreError):
        client.get_object(Bucket=bucket, Key="a b/0")
