"""Clients that are slow on purpose lose their connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import Response

from pipeline.config.job import Compute, Limits
from pipeline.config.presets import load_preset
from pipeline.serve import body, connections
from pipeline.serve.app import make_app
from pipeline.serve.refusals import RequestRefused, refusal_of
from pipeline.serve.service import Service
from pipeline.serve.settings import Serving
from pipeline.storage.files import Files

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Open = Callable[[], Awaitable[Streams]]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HEADERS_S": 0.3, "CHECK_S": 0.3}.items():
        monkeypatch.setattr(connections, name, value)
    monkeypatch.setattr(body, "IDLE_S", 0.3)


def served(scenario: Callable[[Open], Awaitable[None]], app: Any = None) -> None:
    """Run a scenario against a server: by default one that answers with 64 MiB, or says what is wrong with a body."""

    async def default(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        try:
            if request.method == "POST":
                await body.read_body(request, Limits(fetch_s=2.0, max_bytes=10_000))
            answer = Response(bytes(2**26) if request.method == "GET" else b"small")
        except RequestRefused as error:
            answer = refusal_of(error).response()
        await answer(scope, receive, send)

    async def run() -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(app or default, http=connections.TimedProtocol, ws="none", lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            await asyncio.wait_for(scenario(lambda: asyncio.open_connection(*listening.getsockname())), 60)
        finally:
            server.should_exit = True
            await serving

    asyncio.run(run())


async def ended(reader: asyncio.StreamReader) -> bytes:
    """Everything until the server ends the connection."""
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: ", b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT"])
def test_headers_that_do_not_end(sent: bytes) -> None:
    async def scenario(connect: Open) -> None:
        reader, writer = await connect()
        writer.write(sent)
        await ended(reader)
        writer.close()

    served(scenario)


def test_a_body_that_does_not_end() -> None:
    async def scenario(connect: Open) -> None:
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        assert b" 408 " in await reader.readline()
        writer.close()

    served(scenario)


def test_a_body_that_trickles() -> None:
    """Each byte comes in time, but all of them would take too long."""

    async def scenario(connect: Open) -> None:
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n")
        answer = asyncio.ensure_future(reader.readline())
        while not answer.done():
            writer.write(b"x")
            await asyncio.sleep(0.1)
        assert b" 408 " in answer.result()
        writer.close()

    served(scenario)


def test_an_answer_that_nobody_reads() -> None:
    async def scenario(connect: Open) -> None:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readline()  # it has begun: on a busy machine, that takes a while
        await asyncio.sleep(1.5)
        assert len(await ended(reader)) < 2**26
        writer.close()

    served(scenario)


def test_an_answer_that_is_read_slowly_arrives() -> None:
    async def scenario(connect: Open) -> None:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        count = 0
        while more := await reader.read(2**20):
            count += len(more)
            await asyncio.sleep(0.015)
        assert count > 2**26
        writer.close()

    served(scenario)


def test_an_answer_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client reads far more than the least bytes per second, but all of them would take too long."""
    monkeypatch.setattr(connections, "ANSWER_S", 0.5)

    async def scenario(connect: Open) -> None:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        count = 0
        with contextlib.suppress(ConnectionResetError):
            while more := await reader.read(2**16):
                count += len(more)
                await asyncio.sleep(0.01)
        assert 2**20 < count < 2**26
        writer.close()

    served(scenario)


def test_a_place_is_held_until_the_answer_is_read(fake_preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service({"fake": load_preset(fake_preset)}, {}, {}, Serving(), Limits(), Compute(), Files())
    answer, protocols = b"0123456" * 2**21, []
    made = connections.TimedProtocol.connection_made

    def noted(self: connections.TimedProtocol, transport: Any) -> None:
        protocols.append(self)
        made(self, transport)

    async def cut(*_: Any) -> Response:
        return Response(answer)

    monkeypatch.setattr(service, "cut", cut)
    monkeypatch.setattr(connections.TimedProtocol, "connection_made", noted)
    monkeypatch.setattr(connections, "CHECK_S", 2.0)

    async def until(has_place: bool) -> None:
        while service.inside != has_place or (protocols[-1]._read_by is not None) != has_place:
            await asyncio.sleep(0.01)

    async def scenario(connect: Open) -> None:
        for is_read in (True, False):
            reader, writer = await connect()
            writer.write(b"POST /v1/cutout HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx")
            await reader.readuntil(b"\r\n\r\n")
            await until(True)
            if is_read:
                assert await reader.readexactly(len(answer)) == answer
            await until(False)  # one that is not read is cut
            writer.close()

    served(scenario, make_app(service))


def test_connections_above_the_limit_are_told_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SURPLUS", 1)
    monkeypatch.setattr(connections.TimedProtocol, "most", 2)
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345"

    async def scenario(connect: Open) -> None:
        held = [await connect() for _ in range(2)]
        reader, writer = await connect()
        writer.write(request)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 503 ") and b"x-error-code: busy" in answer and b"retry-after: 1" in answer
        more, _ = await connect()
        assert await ended(more) == b""  # this many get no answer
        for _, one in (*held, (reader, writer)):
            one.close()
        await asyncio.sleep(0.05)
        reader, writer = await connect()
        writer.write(request)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()

    served(scenario)


def test_there_are_more_connections_than_places() -> None:
    assert connections.protocol_for(32).most == 512 and connections.protocol_for(4096).most > 4096
