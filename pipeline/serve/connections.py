"""Speak HTTP with clients that are slow on purpose: uvicorn has no time-out for headers, nor for answers that nobody reads."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S = 10.0
"""Seconds in which the headers of a request must be complete."""

CHECK_S = 10.0
"""Seconds between two looks at an answer that the client is slow to read."""

MOST = 512
"""Connections at a time, at least. Further ones are told to try again."""

SPARE = 128
"""Connections besides those of the queue: requests that are refused, probes, and clients that keep theirs open."""

SURPLUS = 128
"""Connections that get this answer at the same time. Further ones are closed without one."""

LEAVE_S = 2.0
"""Seconds in which a client that is told to try again must close its connection."""

SLOWEST = 1024
"""Bytes per second that a client must read, or the connection is cut."""


ANSWER_S = 300.0
"""Seconds in which a client must have read an answer: until then, it holds a place of the queue."""


def protocol_for(queue: int) -> type[TimedProtocol]:
    """Return the protocol of a service with so many places: there are always connections left for those who find none."""
    return type("TimedProtocol", (TimedProtocol,), {"most": max(MOST, queue + SPARE)})


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with these time-outs, and JSON where uvicorn itself refuses a request.

    Attributes:
        most: Connections at a time.
    """

    most = MOST

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._headers_by: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._read_by: asyncio.TimerHandle | None = None
        self._is_surplus = self._is_told = False

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._is_surplus = len(self.connections) > self.most
        if len(self.connections) > self.most + SURPLUS:
            transport.abort()
        else:
            self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        for timer in (self._headers_by, self._reading, self._read_by):
            if timer is not None:
                timer.cancel()
        self._headers_by = self._reading = self._read_by = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes. Part of a header starts the clock, a complete one stops it."""
        if self._is_surplus:
            if not self._is_told:
                self._is_told = True
                message = "too many connections are open; try again later"
                self._answer(503, b"Service Unavailable", "busy", message, {"retry-after": "1"})
                self.transport.write_eof()  # closed now, bytes that are still on their way would destroy the answer
                self.loop.call_later(LEAVE_S, self.transport.abort)
            return
        super().data_received(data)
        self._watch_headers()

    def _watch_headers(self) -> None:
        waiting = self.cycle is None or self.cycle.response_complete
        if waiting and self._headers_by is None:
            self._headers_by = self.loop.call_later(HEADERS_S, self._give_up_headers)
        elif not waiting and self._headers_by is not None:
            self._headers_by.cancel()
            self._headers_by = None

    def _give_up_headers(self) -> None:
        self._headers_by = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()

    def pause_writing(self) -> None:
        """Watch whether the client goes on reading."""
        super().pause_writing()
        if self._reading is None:
            self._look_again(self.transport.get_write_buffer_size())
        if self._read_by is None:
            self._read_by = self.loop.call_later(ANSWER_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop watching. The clock of the whole answer goes on, unless this was its last piece."""
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        if self.cycle is None or self.cycle.response_complete:
            self._stop_answer()

    def on_response_complete(self) -> None:
        """Stop the clock of the answer, unless the client has still to read much of it."""
        if not self.flow.write_paused:
            self._stop_answer()
        super().on_response_complete()

    def _stop_answer(self) -> None:
        if self._read_by is not None:
            self._read_by.cancel()
            self._read_by = None

    def _look_again(self, left: int) -> None:
        self._reading = self.loop.call_later(CHECK_S, self._check_reading, left)

    def _check_reading(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if before - left < SLOWEST * CHECK_S:
            self._reading = None
            self.transport.abort()
        else:
            self._look_again(left)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._answer(400, b"Bad Request", "request", "this is not a valid HTTP request", {})
        self.transport.close()

    def _answer(self, status: int, reason: bytes, code: str, message: str, more: dict[str, str]) -> None:
        """Write an answer that the application does not know of."""
        body = json.dumps({"code": code, "message": message}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
        headers |= {"x-error-code": code, **more}
        for event in (
            h11.Response(status_code=status, headers=list(headers.items()), reason=reason),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event=event) or b"")
