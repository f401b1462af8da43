"""The whole application in this process, without a model and without a socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asgi import ask
from starlette.responses import Response

from pipeline.config.job import Compute, Limits
from pipeline.config.presets import load_preset
from pipeline.errors import ConfigError
from pipeline.serve.app import make_app
from pipeline.serve.service import Service
from pipeline.serve.settings import Serving
from pipeline.storage.files import Files


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


@pytest.mark.parametrize("origin", ["http://[", "http://[x]", "null", "", "\xff", "//"])
def test_an_origin_that_cannot_be_read_is_another_one(fake_preset: str, origin: str, logged: list[logging.LogRecord]) -> None:
    app = make_app(service_of(fake_preset, token="0123456789abcdef", host="0.0.0.0"))
    for host in ("localhost", ""):
        answer = asyncio.run(ask(app, "GET", "/metrics", host=host, origin=origin))
        assert (answer.status, answer.code) == (403, "origin")
    assert not [record for record in logged if record.exc_info]


@pytest.mark.parametrize(
    "origin",
    [
        *("http://[", "http://[x]", "http://x:y", "*", "shop.example.com", "https://shop.example.com/page"),
        *("https://Shop.example.com", "https://shop.example.com:443", "http://shop.example.com:80", "https://me@shop.example"),
    ],
)
def test_an_allowed_origin_must_be_one(origin: str) -> None:
    """As browsers send it: another spelling would never be equal to theirs."""
    with pytest.raises(ConfigError, match="is not an origin"):
        Serving(origins=(origin,))


def test_origins_and_hosts_that_browsers_send_are_taken() -> None:
    origins = ("https://shop.example.com", "http://localhost:3000", "http://[::1]:8000")
    settings = Serving(origins=origins, hosts=("Cut.lan", "::2"))
    assert settings.answered_hosts == {"localhost", "127.0.0.1", "::1", "cut.lan", "::2"}


@pytest.mark.parametrize("name", ["", "*", "https://cut.lan", "cut.lan:8000", "cut.lan/", "a b", "bücher.de", "["])
def test_an_allowed_host_must_be_a_name(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a host name"):
        Serving(hosts=(name,))


@pytest.mark.parametrize("setting", [{"deadline_s": float("nan")}, {"drain_s": float("inf")}])
def test_limits_in_seconds_are_finite(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"is no limit; give a finite number"):
        Serving(**setting)  # type: ignore[arg-type]
