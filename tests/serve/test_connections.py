"""Clients that are slow on purpose lose their connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import Response

from pipeline.config.job import Limits
from pipeline.serve import body, connections
from pipeline.serve.refusals import RequestRefused, refusal_of

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Open = Callable[[], Awaitable[Streams]]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HEADERS_S": 0.3, "CHECK_S": 0.3}.items():
        monkeypatch.setattr(connections, name, value)
    monkeypatch.setattr(body, "IDLE_S", 0.3)


def served(scenario: Callable[[Open], Awaitable[None]]) -> None:
    """Run a scenario against a server that answers with 64 MiB, or says what is wrong with a body."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
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
        config = uvicorn.Config(app, http=connections.TimedProtocol, ws="none", lifespan="off", log_config=None)
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
