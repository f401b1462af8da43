"""Answers of web servers: to the request of an image, of a weights file, and of a webhook."""

from __future__ import annotations

import gzip
import random
import socket
import threading
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from kinds import Kind, Wrong
from mutations import ODD_VALUES

from pipeline.config.job import Storage
from pipeline.errors import WeightsError
from pipeline.storage.files import Files
from pipeline.storage.http import download, post_json
from pipeline.storage.retry import with_retries

BODY = bytes(range(256)) * 40
MAX_BYTES = 100_000
TIMEOUT_S = 0.25
"""Of one fetch with its retries. A slow body takes longer."""

SLOW = b"<slow>"
"""In an answer: the server waits here, longer than the client."""

HERE = b"<here>"
"""In an answer: the server's address."""


@dataclass
class Server:
    """A server that sends the same bytes to every request, whatever they are, and closes the connection."""

    answer: bytes = b""
    url: str = ""
    socket: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0), backlog=64))

    def start(self) -> None:
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self.socket.accept()
            threading.Thread(target=self._reply, args=(connection, self.answer), daemon=True).start()

    def _reply(self, connection: socket.socket, answer: bytes) -> None:
        try:
            with connection:
                connection.settimeout(2)
                request = b""
                while b"\r\n\r\n" not in request and (piece := connection.recv(65536)):
                    request += piece
                for at, part in enumerate(answer.replace(HERE, self.url.encode()).split(SLOW)):
                    time.sleep(1.0 if at else 0)
                    connection.sendall(part)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(65536)
        except OSError:  # the client has left
            pass


def answer(status: bytes = b"200 OK", body: bytes = BODY, **headers: bytes) -> bytes:
    facts = {b"Content-Length": b"%d" % len(body), b"ETag": b'"v1"'} | {
        name.replace("_", "-").encode(): value for name, value in headers.items()
    }
    return b"HTTP/1.1 " + status + b"\r\n" + b"".join(b"%s: %s\r\n" % pair for pair in facts.items()) + b"\r\n" + body


def chunked(body: bytes, size: int = 1000) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    text = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nLast-Modified: today\r\n\r\n" + text


PACKED = gzip.compress(BODY, mtime=0)
SAMPLES = {
    "plain": answer(),
    "chunked": chunked(BODY),
    "gzip": answer(body=PACKED, Content_Encoding=b"gzip"),
    "deflate": answer(body=zlib.compress(BODY), Content_Encoding=b"deflate"),
    "until the end": b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n" + BODY,
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n" + answer(),
}
"""Answers whose body is BODY."""

LOCATIONS = (
    *(
        b"<here>/again",
        b"/",
        b"//",
        b"http://",
        b"http://[::1",
        b"http://h:99999/",
        b"ftp://h/",
        b"file:///etc/passwd",
        b"\xff\xfe",
    ),
    *(
        b"http://169.254.169.254/latest",
        b"http://10.0.0.1/",
        b"http://\xe2\x98\x83.example/",
        b"javascript:0",
        b"http://a b/",
        b"?",
        b"#",
    ),
    *(b"http://user:pass@h/", b"http://%00/", b"x" * 7000, b"http://" + b"a." * 200, b"http://0x7f.1/", b"http://h/\r\n x"),
)
VALUES = (
    b"",
    b"-1",
    b"1e9",
    b"99999999999999999999",
    b"0x10",
    b"gzip, gzip",
    b"br",
    b"zstd",
    b"x",
    b"chunked, chunked",
    b"\xff\xfe",
    b"a" * 9000,
)
NAMES = (
    b"Content-Length",
    b"Transfer-Encoding",
    b"Content-Encoding",
    b"Connection",
    b"ETag",
    b"Location",
    b"Set-Cookie",
    b"Content-Type",
    b"",
)
TOKENS = (
    b"\r\n",
    b"\n",
    b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"-1\r\n",
    b"\x00",
    b": ",
    b"; a=b",
    SLOW,
)


def with_header(rng: random.Random, name: str) -> bytes:
    """Add or replace a header."""
    head, _, body = SAMPLES[name].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    value = rng.choice((*VALUES, *LOCATIONS, str(rng.choice(ODD_VALUES))[:500].encode("utf-8", "surrogatepass")))
    for _ in range(rng.choice((1, 1, 2, 200))):
        lines.insert(rng.randint(1, len(lines)), b"%s: %s" % (rng.choice(NAMES), value))
    if rng.random() < 0.2:
        lines[0] = b"HTTP/1.1 %d %s" % (
            rng.choice((0, 99, 101, 103, 204, 206, 304, 404, 429, 500, 600, 999, 10**6)),
            rng.choice(VALUES),
        )
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def redirect(rng: random.Random, _: str) -> bytes:
    return answer(b"302 Found", b"", Location=rng.choice(LOCATIONS))


def cut_body(rng: random.Random, name: str) -> bytes:
    """Cut the body of an answer that says how long it is. It must be refused."""
    whole = SAMPLES[name if name != "until the end" else "plain"]
    start = whole.rindex(b"\r\n\r\n", 0, 400) + 4
    return whole[: rng.randrange(start, len(whole) - 1)]


def slow(rng: random.Random, name: str) -> bytes:
    at = rng.randrange(len(SAMPLES[name]))
    return SAMPLES[name][:at] + SLOW + SAMPLES[name][at:]


def bomb(rng: random.Random, _: str) -> bytes:
    """Return an answer that unpacks to 200 MB, or never ends its headers."""
    packed = zlib.compressobj(9, zlib.DEFLATED, 31)
    piece = b"".join(packed.compress(bytes(2**20)) for _ in range(200)) + packed.flush()
    endless = (b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000)
    return rng.choice((answer(body=piece, Content_Encoding=b"gzip"), *endless))


def http_kind() -> Kind:
    server = Server()
    server.start()
    files = Files(Storage(allow_roots=(server.url,)))

    def read(name: str, data: bytes) -> None:
        server.answer = data
        way = name.partition(": ")[0]
        found = files.fetch(f"{server.url}/photo.jpg", max_bytes=MAX_BYTES, timeout_s=2.0 if way == "valid" else TIMEOUT_S)
        if len(found.data) > MAX_BYTES or way == "cut body" or (way == "valid" and found.data != BODY):
            raise Wrong(f"{len(found.data)} bytes were accepted")
        found.etag.encode()  # it is written to the index
        with Path("weights").open("wb") as file:
            etag = with_retries(
                server.url, WeightsError, lambda left: download(server.url, "v1", file.write, left, allow_http=True), TIMEOUT_S
            )
        if etag is not None:
            etag.encode()
        post_json(server.url, b"{}", tries=1, timeout_s=TIMEOUT_S)

    ways = {"header": with_header, "redirect": redirect, "cut body": cut_body, "slow": slow}
    return Kind(SAMPLES, read, ways | {"bomb": bomb}, TOKENS, byte_share=0.5)


KINDS = {"HTTP answers": http_kind}
