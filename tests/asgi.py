"""A client that asks an application in the same process, without a socket."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        assert self.headers["content-type"] == "application/json", self
        code: str = json.loads(self.body)["code"]
        assert self.headers["x-error-code"] == code
        return code


async def ask(
    app: Any, method: str, target: str, body: bytes = b"", leaves: asyncio.Event | None = None, **headers: str
) -> Answer:
    """One request, by ASGI. Its client stays until it has the answer, or leaves earlier."""
    path, _, query = target.partition("?")
    named = {"host": "localhost", "content-length": str(len(body))} | headers
    scope = {
        **{"type": "http", "method": method, "path": path, "query_string": query.encode(), "root_path": ""},
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in named.items()],
    }
    given, sent = [{"type": "http.request", "body": body, "more_body": False}], []

    async def receive() -> Any:
        if given:
            return given.pop()
        await (leaves or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *rest = sent
    told = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
    return Answer(start["status"], told, b"".join(one.get("body", b"") for one in rest))
