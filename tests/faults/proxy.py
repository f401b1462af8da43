"""An HTTP proxy in front of a real S3 server that breaks requests on purpose.

What it lets through it leaves as it is, byte for byte and with the client's own ``Host``, so signatures stay valid.
Every client connection has a thread; every request gets a connection of its own to the server.
"""

# Not "from __future__ import annotations": dataclasses couldn't resolve texts in a module that is loaded by its path.
import contextlib
import random
import re
import socket
import socketserver
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Literal

Kind = Literal["slow_down", "error", "forbidden", "reset", "lost_answer", "slow", "truncate"]

ANSWERS = {
    "slow_down": (503, "Slow Down", "SlowDown", "Please reduce your request rate."),
    "error": (500, "Internal Server Error", "InternalError", "We encountered an internal error. Please try again."),
    "forbidden": (403, "Forbidden", "AccessDenied", "Access Denied."),
}
"""Faults that are an answer: status, reason, S3's code and message. The server never sees such a request."""


@dataclass
class Rule:
    """Which requests suffer what.

    ``reset`` cuts the connection before the server sees the request, ``lost_answer`` after the server has carried it out;
    ``slow`` holds the answer's first byte back for ``seconds``; ``truncate`` ends the answer in the middle of its body.
    """

    kind: Kind
    match: str = ""
    """Searched in ``METHOD /path?query``; empty matches every request."""
    probability: float = 1.0
    count: int | None = None
    """At most so many requests; None is no limit."""
    seconds: float = 0.0
    hits: int = 0


@dataclass
class Request:
    """A request as it came: ``head`` up to and with the empty line, and its body."""

    head: bytes
    body: bytes

    @property
    def line(self) -> str:
        """``METHOD /path?query``."""
        method, path, _ = self.head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        return f"{method} {path}"


@dataclass
class Proxy:
    """A proxy on a free port of the loopback interface, once entered. Rules may come and go at any time.

    Args:
        port: of the server behind it.
        seed: of the dice for ``Rule.probability``.
    """

    port: int
    seed: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    """Requests seen, by method."""
    faults: Counter[str] = field(default_factory=Counter)
    """Requests that suffered, by kind."""

    def __post_init__(self) -> None:
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._dice = random.Random(self.seed)
        self._server = _Server(("127.0.0.1", 0), _Connection)
        self._server.proxy = self

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextlib.contextmanager
    def suffering(self, *rules: Rule) -> Iterator[None]:
        """These rules hold for a while."""
        with self._lock:
            self._rules += rules
        try:
            yield
        finally:
            with self._lock:
                self._rules = [rule for rule in self._rules if not any(rule is one for one in rules)]

    def judge(self, line: str) -> Rule | None:
        """Count a request and give the first rule that it suffers, if any."""
        with self._lock:
            self.requests[line.partition(" ")[0]] += 1
            for rule in self._rules:
                spent = rule.count is not None and rule.hits >= rule.count
                if not spent and re.search(rule.match, line) and self._dice.random() < rule.probability:
                    rule.hits += 1
                    self.faults[rule.kind] += 1
                    return rule
        return None


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    proxy: Proxy


class _Connection(socketserver.StreamRequestHandler):
    """One client connection: requests one after another until either side has enough."""

    disable_nagle_algorithm = True
    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            while (request := self._read()) is not None and self._serve(request):
                pass

    def _read(self) -> Request | None:
        head = _head(self.rfile)
        if head is None:
            return None
        if _header(head, b"expect") == b"100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return Request(head, b"".join(_body(head, self.rfile, answer=False)))

    def _serve(self, request: Request) -> bool:
        """Answer a request; True if the connection may carry another."""
        rule = self.server.proxy.judge(request.line)
        kind = rule.kind if rule is not None else None
        if kind == "reset":
            return self._reset()
        if kind in ANSWERS:
            self.wfile.write(_answer(kind, request.line))
            return True
        try:
            upstream = socket.create_connection(("127.0.0.1", self.server.proxy.port), timeout=60)
        except ConnectionError:
            return self._reset()  # the server is down, and this is what its clients would see
        with upstream, upstream.makefile("rb") as answer:
            upstream.sendall(request.head + request.body)
            head = _head(answer)
            while head is not None and head.split(b" ", 2)[1] == b"100":
                head = _head(answer)
            if head is None or kind == "lost_answer":
                return self._reset()
            if rule is not None and kind == "slow":
                time.sleep(rule.seconds)
            has_body = not request.line.startswith("HEAD ")
            self._pass_on(head, _body(head, answer, answer=True) if has_body else iter(()), cut=kind == "truncate")
        return kind != "truncate" and _header(head, b"connection") != b"close"

    def _pass_on(self, head: bytes, body: Iterator[bytes], *, cut: bool) -> None:
        if cut:
            whole = b"".join(body)
            self.wfile.write(head + whole[: len(whole) // 2])
            return
        self.wfile.write(head)
        for piece in body:
            self.wfile.write(piece)

    def _reset(self) -> bool:
        # Lingering for no time makes the kernel send RST instead of an orderly end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # socketserver would shut the connection down in order, so it is closed here.
        self.rfile.close()
        self.wfile.close()
        self.connection.close()
        return False


def _head(stream: BinaryIO) -> bytes | None:
    """Start line and headers as they came, with the empty line; None where the stream ends before."""
    lines = []
    while (line := stream.readline(65536)) not in (b"\r\n", b"\n"):
        if not line:
            return None
        lines.append(line)
    return b"".join(lines) + line


def _header(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        found, _, value = line.partition(b":")
        if found.strip().lower() == name:
            return value.strip().lower()
    return None


def _body(head: bytes, stream: BinaryIO, *, answer: bool) -> Iterator[bytes]:
    """A body as it came, chunk sizes and all."""
    length = _header(head, b"content-length")
    if _header(head, b"transfer-encoding") == b"chunked":
        while True:
            size = stream.readline()
            yield size
            count = int(size.split(b";")[0], 16) if size else 0
            yield _exactly(count + 2, stream)  # data and its line end; after the last chunk, which is empty, the end of it all
            if not count:
                return
    elif length is not None:
        yield _exactly(int(length), stream)
    elif answer and head.split(b" ", 2)[1] not in (b"204", b"304"):
        yield stream.read()


def _exactly(count: int, stream: BinaryIO) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise ConnectionResetError("the other side is gone")
    return data


def _answer(kind: str, line: str) -> bytes:
    status, reason, code, message = ANSWERS[kind]
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'.encode()
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return head if line.startswith("HEAD ") else head + body
