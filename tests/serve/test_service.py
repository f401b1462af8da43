"""Steps that do not end, and models that share a thread."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from asgi import ask

from pipeline.config.job import Compute, Limits
from pipeline.config.presets import load_preset
from pipeline.errors import ItemError, SegmentError
from pipeline.imaging.decode import decode
from pipeline.serve.app import _while_connected, make_app
from pipeline.serve.asked import Asked
from pipeline.serve.service import Service
from pipeline.serve.settings import Serving
from pipeline.storage.files import Files
from pipeline.types import Box


def test_a_decoder_that_hangs_is_told_by_the_health(fake_preset: str, picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds its thread for ever, so that every later picture would get 504 from a service that looks healthy."""
    ends = threading.Event()

    def hanging(*arguments: Any) -> Any:
        assert ends.wait(30)
        return decode(*arguments)

    monkeypatch.setattr("pipeline.serve.service.decode", hanging)

    async def scenario() -> None:
        settings = Serving(deadline_s=0.3)
        service = Service({"fake": load_preset(fake_preset)}, {}, {}, settings, Limits(item_s=0.2), Compute(), Files())
        await service.load()
        app = make_app(service)
        assert (await ask(app, "GET", "/health")).status == 200
        assert (await ask(app, "POST", "/v1/cutout", picture)).code == "deadline"
        for path in ("/health", "/ready"):
            answer = await ask(app, "GET", path)
            assert (answer.status, answer.code) == (503, "stuck")
        ends.set()
        while service.fault is not None:
            await asyncio.sleep(0.01)
        service.settings = Serving()
        assert (await ask(app, "POST", "/v1/cutout", picture)).status == 200
        await service.stop()

    try:
        asyncio.run(asyncio.wait_for(scenario(), 60))
    finally:
        ends.set()


def test_a_queue_that_has_ended_is_told_by_the_health(
    fake_preset: str, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every later picture would wait for its deadline."""

    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    async def scenario() -> None:
        settings = Serving(deadline_s=0.3)
        service = Service({"fake": load_preset(fake_preset)}, {}, {}, settings, Limits(), Compute(), Files())
        await service.load()
        app = make_app(service)
        monkeypatch.setattr(service.metrics, "observe_batch", broken)
        assert (await ask(app, "POST", "/v1/cutout", picture)).code == "deadline"
        for method, path in (("GET", "/health"), ("GET", "/ready"), ("POST", "/v1/cutout")):
            answer = await ask(app, method, path, picture)
            assert (answer.status, answer.code) == (503, "stuck")
        await service.stop()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_two_presets_take_turns_on_one_thread(fake_preset: str, picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        presets = {"fake": load_preset(fake_preset), "other": load_preset(fake_preset, {"box_margin": 0.2})}
        service = Service(presets, {}, {}, Serving(), Limits(), Compute(), Files())
        await service.load()
        app, (first, second) = make_app(service), service.batchers.values()
        recipes = [(await ask(app, "POST", f"/v1/cutout?preset={name}", picture)).headers["x-recipe"] for name in presets]
        assert recipes[0] != recipes[1] and (await ask(app, "POST", "/v1/cutout", picture)).headers["x-recipe"] == recipes[0]
        begun, goes, works = threading.Event(), threading.Event(), first.segmenter.segment

        def held(*arguments: Any) -> Any:
            begun.set()
            assert goes.wait(30)
            return works(*arguments)

        monkeypatch.setattr(first.segmenter, "segment", held)
        both = [asyncio.ensure_future(service.cut(picture, Asked("fake")))]
        await asyncio.to_thread(begun.wait)
        both.append(asyncio.ensure_future(service.cut(picture, Asked("other"))))
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            assert second.working_since is None  # it waits for the thread: its pass has not begun
            await asyncio.sleep(0.02)
        assert first.working_since is not None
        goes.set()
        assert [(await one).status_code for one in both] == [200, 200]
        await service.stop()

    asyncio.run(asyncio.wait_for(scenario(), 60))


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("how", ["box", "point", "model"])
def test_pictures_that_fail_are_let_go(fake_preset: str, picture: bytes, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """The tasks of a request lead to their error, its traceback to their frames, and these to the pixels."""
    seen = list[Any]()
    asked = {"box": Asked("fake", box=Box(9000, 9000, 9100, 9100)), "point": Asked("fake", point=(9000, 9000))}

    def noted(*arguments: Any) -> Any:
        pixels = decode(*arguments)
        seen.append(weakref.ref(pixels))
        return pixels

    def failing(*_: Any) -> Any:
        raise SegmentError("out of memory")

    async def leaves() -> Any:
        await asyncio.sleep(30)

    async def fail(service: Service) -> None:
        try:
            request: Any = SimpleNamespace(receive=leaves)
            await _while_connected(request, service.cut(picture, asked.get(how) or Asked("fake")))
        except ItemError:
            return

    monkeypatch.setattr("pipeline.serve.service.decode", noted)

    async def scenario() -> None:
        service = Service({"fake": load_preset(fake_preset)}, {}, {}, Serving(), Limits(), Compute(), Files())
        await service.load()
        if how == "model":
            monkeypatch.setattr(service.batchers["fake"].segmenter, "segment", failing)
        await fail(service)
        await asyncio.sleep(0.1)
        assert len(seen) == 1 and seen[0]() is None
        await service.stop()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_slow_upload_is_no_slow_answer(fake_preset: str, picture: bytes) -> None:
    """``answer_seconds``, on which an alert looks, is what the service needs, and not what its client does."""

    async def scenario() -> str:
        service = Service({"fake": load_preset(fake_preset)}, {}, {}, Serving(), Limits(), Compute(), Files())
        await service.load()
        app, sent = make_app(service), []

        async def receive() -> Any:
            if not sent:
                await asyncio.sleep(1.2)
                sent.append(picture)
                return {"type": "http.request", "body": picture, "more_body": False}
            await asyncio.Event().wait()

        async def send(_: Any) -> None:
            pass

        scope = {"type": "http", "method": "POST", "path": "/v1/cutout", "query_string": b"", "root_path": ""}
        await app(scope | {"headers": [(b"host", b"localhost")]}, receive, send)
        await service.stop()
        return service.metrics.text()

    lines = asyncio.run(asyncio.wait_for(scenario(), 60)).splitlines()
    assert "matteline_serve_answer_seconds_count 1" in lines
    assert 'matteline_serve_answer_seconds_bucket{le="1"} 1' in lines
