"""What is checked before a request is read, and what every answer carries."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from asgi import Answer, ask
from starlette.responses import Response

from pipeline.config.job import Compute, Limits
from pipeline.config.presets import load_preset
from pipeline.serve.app import make_app
from pipeline.serve.service import Service
from pipeline.serve.settings import Serving
from pipeline.storage.files import Files

SHOP = "https://shop.example.com"
TOKEN = "0123456789abcdef"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}


def service_of(preset: str, **settings: Any) -> Service:
    return Service({"fake": load_preset(preset)}, {}, {}, Serving(**settings), Limits(), Compute(), Files())


def asked(service: Service, method: str, path: str, **headers: str) -> Answer:
    return asyncio.run(ask(make_app(service), method, path, **headers))


def test_probes_ask_by_any_host_name(fake_preset: str) -> None:
    """Kubernetes asks a pod by its address, also if clients must use a name."""
    service = service_of(fake_preset, host="0.0.0.0", token=TOKEN, hosts=("cut.example.com",))
    assert asked(service, "GET", "/health", host="10.0.0.7:8000").status == 200
    assert asked(service, "GET", "/ready", host="10.0.0.7:8000").code == "not_ready"
    assert asked(service, "GET", "/docs", host="10.0.0.7:8000").code == "host"
    assert asked(service, "GET", "/docs", host="cut.example.com").status == 200


def test_a_preflight_is_checked_logged_and_counted(fake_preset: str, logged: list[logging.LogRecord]) -> None:
    service = service_of(fake_preset, origins=(SHOP,), token=TOKEN)
    assert asked(service, "OPTIONS", "/v1/cutout", origin="https://evil.example", **PREFLIGHT).code == "origin"
    assert asked(service, "OPTIONS", "/v1/cutout", origin=SHOP, host="rebound.example", **PREFLIGHT).code == "host"
    assert asked(service, "OPTIONS", "/v1/cutout", **PREFLIGHT).code == "token"  # no page asks
    allowed = asked(service, "OPTIONS", "/v1/cutout", origin=SHOP, **PREFLIGHT)
    assert allowed.status == 200 and allowed.headers["access-control-allow-origin"] == SHOP
    assert "Authorization" in allowed.headers["access-control-allow-headers"] and "Origin" in allowed.headers["vary"]
    counted = service.metrics.text()
    assert 'failures_total{code="origin"} 1' in counted and 'requests_total{path="/v1/cutout",status="200"} 1' in counted
    assert len([record for record in logged if record.getMessage() == "request"]) == 4


@pytest.mark.parametrize(
    "path, headers, code",
    [
        ("/v1/presets", {}, None),  # curl
        ("/v1/presets", {"sec-fetch-site": "same-origin", "referer": "http://localhost/"}, None),
        ("/v1/presets", {"sec-fetch-site": "none"}, None),  # typed
        ("/api/remove?url=x", {"sec-fetch-site": "cross-site", "referer": "https://evil.example/"}, "origin"),
        ("/api/remove?url=x", {"sec-fetch-site": "cross-site"}, "origin"),  # a page with Referrer-Policy: no-referrer
        ("/v1/presets", {"sec-fetch-site": "same-site", "referer": "http://localhost:3000/"}, "origin"),
        ("/v1/presets", {"sec-fetch-site": "cross-site", "referer": "http://["}, "origin"),
        ("/v1/presets", {"sec-fetch-site": "cross-site", "referer": f"{SHOP}/cups"}, None),  # an allowed origin
        ("/", {"sec-fetch-site": "cross-site", "referer": "https://wiki.example/"}, None),  # a link to the page
    ],
)
def test_pictures_and_links_of_other_pages_are_refused(
    fake_preset: str, path: str, headers: dict[str, str], code: str | None
) -> None:
    """``<img src="http://localhost:8000/api/remove?url=…">`` has no ``Origin``, and would make the service work."""
    answer = asked(service_of(fake_preset, origins=(SHOP,)), "GET", path, **headers)
    assert (answer.status, code) == (200, None) or answer.code == code, answer


def test_pages_may_read_refusals(fake_preset: str) -> None:
    refused = asked(service_of(fake_preset, origins=(SHOP,), token=TOKEN), "GET", "/v1/presets", origin=SHOP)
    assert refused.code == "token" and refused.headers["access-control-allow-origin"] == SHOP
    assert {"X-Error-Code", "Location"} <= set(refused.headers["access-control-expose-headers"].split(", "))
    assert "access-control-allow-origin" not in asked(service_of(fake_preset), "GET", "/health").headers


@pytest.mark.parametrize("is_broken", [True, False])
def test_a_failure_is_found_in_the_log_by_its_id(fake_preset: str, is_broken: bool, logged: list[logging.LogRecord]) -> None:
    async def cut(*_: Any) -> Response:
        if is_broken:
            raise RuntimeError("a bug")
        return Response(b"fine")

    service = service_of(fake_preset)
    service.cut = cut  # type: ignore[method-assign]
    answer = asyncio.run(ask(make_app(service), "POST", "/v1/cutout", b"x"))
    named = answer.headers["x-request-id"]
    assert len(named) == 16
    facts = [record.__dict__["facts"]["request_id"] for record in logged]
    assert facts == [named] * (2 if is_broken else 1)
    if is_broken:
        assert json.loads(answer.body)["request_id"] == named


def test_a_request_that_is_cancelled_gets_json(fake_preset: str) -> None:
    """At the end of draining, the server cancels requests, and would answer for them in plain text."""

    async def cut(*_: Any) -> Response:
        await asyncio.sleep(60)
        raise AssertionError

    async def scenario() -> Answer:
        service = service_of(fake_preset)
        service.cut = cut  # type: ignore[method-assign]
        request = asyncio.ensure_future(ask(make_app(service), "POST", "/v1/cutout", b"x"))
        while not service.inside:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        request.cancel()
        return await request

    answer = asyncio.run(scenario())
    assert (answer.status, answer.code) == (503, "busy") and answer.headers["retry-after"] == "10"
