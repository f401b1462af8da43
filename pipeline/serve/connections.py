"""Speak HTTP with clients that are slow on purpose: uvicorn has no time-out for headers, nor for answers that nobody reads."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S = 10.0
"""Seconds in which the headers of a request must be complete."""

CHECK_S = 10.0
"""Seconds between two looks at an answer that the client is slow to read."""

MOST = 512
"""Connections at a time; further ones are closed."""

SLOWEST = 1024
"""Bytes per second that a client must read, or the connection is cut."""


ANSWER_S = 300.0
"""Seconds in which a client must have read an answer: until then, it holds a place of the queue."""


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with these time-outs, and JSON where uvicorn itself refuses a request."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._headers_by: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._read_by: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        if len(self.connections) > MOST:
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
        body = b'{"code":"request","message":"this is not a valid HTTP request"}'
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        events = (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        for event in events:
            self.transport.write(self.conn.send(event=event) or b"")
        self.transport.close()
