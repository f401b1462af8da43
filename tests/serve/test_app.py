"""The whole application in this process, without a model and without a socket."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from starlette.responses import Response

from pipeline.config.job import Compute, Limits
from pipeline.config.presets import load_preset
from pipeline.serve.app import make_app
from pipeline.serve.service import Service
from pipeline.serve.settings import Serving
from pipeline.storage.files import Files


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


async def ask(app: Any, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
    """One request, by ASGI. Its client stays until it has the answer."""
    path, _, query = target.partition("?")
    named = {"host": "localhost", "content-length": str(len(body))} | headers
    scope = {
        **{"type": "http", "method": method, "path": path, "query_string": query.encode(), "root_path": ""},
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in named.items()],
    }
    given, sent = [{"type": "http.request", "body": body, "more_body": False}], []

    async def receive() -> Any:
        return given.pop() if given else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *rest = sent
    told = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
    return Answer(start["status"], told, b"".join(one.get("body", b"") for one in rest))


def service_of(preset: str, **settings: Any) -> Service:
    return Service({"fake": load_preset(preset)}, {}, {}, Serving(**settings), Limits(), Compute(), Files())


def cutting(service: Service, answer: Callable[[], Awaitable[Response]]) -> Any:
    """The service's application, with this in place of its model."""

    async def cut(*_: Any) -> Response:
        return await answer()

    service.cut = cut  # type: ignore[method-assign]
    return make_app(service)


def test_a_bug_is_told_in_json_logged_once_and_counted(fake_preset: str, logged: list[logging.LogRecord]) -> None:
    async def broken() -> Response:
        raise RuntimeError("secret-key at /home/me")

    service = service_of(fake_preset)
    answer = asyncio.run(ask(cutting(service, broken), "POST", "/v1/cutout", b"picture"))
    assert (answer.status, answer.code) == (500, "internal") and b"secret" not in answer.body
    assert answer.headers["x-content-type-options"] == "nosniff"
    (error,) = [record for record in logged if record.levelno == logging.ERROR]
    assert error.exc_info is not None and "secret-key" in str(error.exc_info[1])
    assert 'failures_total{code="internal"} 1' in service.metrics.text()
    assert service.inside == 0
