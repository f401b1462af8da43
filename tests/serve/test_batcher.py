"""Batches, deadlines and failures, with a model whose passes the test ends itself."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from asgi import ask

from pipeline import Segmenter
from pipeline.concurrency import local_cpus
from pipeline.config.job import Compute, Limits
from pipeline.config.presets import load_preset
from pipeline.errors import DecodeError, ItemRefused, SegmentError, WeightsError
from pipeline.models.cascade import Segment
from pipeline.models.failures import BrokenDevice
from pipeline.serve.app import make_app
from pipeline.serve.asked import Asked
from pipeline.serve.batcher import Batcher
from pipeline.serve.metrics import Metrics
from pipeline.serve.refusals import RequestRefused, refusal_of
from pipeline.serve.service import Service
from pipeline.serve.settings import Serving
from pipeline.storage.files import Files
from pipeline.types import Box


class Held:
    """A segmenter that notes its batches, and works when it is let go."""

    def __init__(self, preset: str, *, batch: int = 4, held: bool = True) -> None:
        self.inner, self.batch = Segmenter(preset), batch
        self.recipe = self.inner.recipe
        self.batches: list[int] = []
        self.begun, self.go = threading.Semaphore(0), threading.Event()
        if not held:
            self.go.set()

    def segment(self, images: Sequence[Any], boxes: Sequence[Box | None], names: Sequence[tuple[str, ...]]) -> list[Any]:
        self.batches.append(len(images))
        self.begun.release()
        assert self.go.wait(60)
        return list(self.inner.segment(images, boxes, names))


def batched(segmenter: Any, scenario: Callable[[Batcher], Awaitable[Any]], wait_s: float = 0.0) -> Any:
    """Run a scenario with a batcher at work."""

    async def run() -> Any:
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(segmenter, thread, wait_s, Metrics())
            working = asyncio.ensure_future(batcher.run())
            try:
                return await asyncio.wait_for(scenario(batcher), 60)
            finally:
                segmenter.go.set()
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)

    return asyncio.run(run())


def begun(segmenter: Held) -> Awaitable[Any]:
    return asyncio.to_thread(segmenter.begun.acquire)


IMAGE = np.full((40, 30, 3), 200, np.uint8)


def test_what_arrives_during_a_pass_makes_the_next_batch(fake_preset: str) -> None:
    held = Held(fake_preset)

    async def scenario(batcher: Batcher) -> list[Segment]:
        first = batcher.put(IMAGE, None)
        await begun(held)
        assert batcher.working_since is not None
        others = [batcher.put(IMAGE, None) for _ in range(6)]
        held.go.set()
        return list(await asyncio.gather(first, *others))

    found = batched(held, scenario)
    assert held.batches == [1, 4, 2] and all(isinstance(one, Segment) for one in found)


def test_a_batch_waits_for_pictures_in_decoding_only(fake_preset: str) -> None:
    held = Held(fake_preset, held=False)

    async def scenario(batcher: Batcher) -> None:
        await batcher.put(IMAGE, None)  # nothing is coming: it would wait for an hour otherwise
        with batcher.expecting(), batcher.expecting():
            first = batcher.put(IMAGE, None)
            await asyncio.sleep(0.05)
            second = batcher.put(IMAGE, None)
        await asyncio.gather(first, second)

    batched(held, scenario, wait_s=3600)
    assert held.batches == [1, 2]


def test_a_request_that_has_gone_is_left_out(fake_preset: str) -> None:
    held = Held(fake_preset)

    async def scenario(batcher: Batcher) -> None:
        first = batcher.put(IMAGE, None)
        await begun(held)
        gone, other = batcher.put(IMAGE, None), batcher.put(IMAGE, None)
        gone.cancel()
        first.cancel()  # its pass has begun; the result is dropped
        held.go.set()
        await other

    batched(held, scenario)
    assert held.batches == [1, 1]


def test_pixels_are_freed_with_their_request(fake_preset: str) -> None:
    """Of a picture that has gone, at once, and not after the pass that keeps the model busy; of one that is done, as well."""
    held = Held(fake_preset)

    async def scenario(batcher: Batcher) -> None:
        images = [IMAGE.copy() for _ in range(3)]
        seen = [weakref.ref(image) for image in images]
        first = batcher.put(images[0], None)
        await begun(held)
        gone = [batcher.put(image, None) for image in images[1:]]
        images.clear()
        for one in gone:
            one.cancel()
        await asyncio.sleep(0.05)
        assert [one() is None for one in seen] == [False, True, True]
        held.go.set()
        await first
        await asyncio.sleep(0.05)
        assert seen[0]() is None

    batched(held, scenario)


def test_a_picture_that_fails_does_not_affect_others(fake_preset: str) -> None:
    held = Held(fake_preset, held=False)

    async def scenario(batcher: Batcher) -> list[Any]:
        with batcher.expecting():
            both = [batcher.put(IMAGE, Box(500, 500, 600, 600)), batcher.put(IMAGE, None)]
        return await asyncio.gather(*both, return_exceptions=True)

    bad, good = batched(held, scenario)
    assert isinstance(bad, ItemRefused) and isinstance(good, Segment) and held.batches == [2]


def test_an_error_of_the_model_belongs_to_its_batch(fake_preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(fake_preset, held=False)

    async def scenario(batcher: Batcher) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(held.inner, "segment", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await batcher.put(IMAGE, None)
        return await batcher.put(IMAGE, None)

    assert isinstance(batched(held, scenario), Segment)


@pytest.mark.usefixtures("no_collector")
def test_an_error_of_the_model_keeps_no_pixels(fake_preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(fake_preset, held=False)
    seen = list[Any]()

    async def fail(batcher: Batcher) -> None:
        pixels = IMAGE.copy()
        seen.append(weakref.ref(pixels))
        try:
            await batcher.put(pixels, None)
        except ZeroDivisionError:
            return

    async def scenario(batcher: Batcher) -> None:
        monkeypatch.setattr(held.inner, "segment", lambda *_: 1 / 0)
        await fail(batcher)
        await asyncio.sleep(0.05)
        assert seen[0]() is None

    batched(held, scenario)


def service_of(preset: str, **settings: Any) -> Service:
    chosen = load_preset(preset)
    return Service({"fake": chosen}, {}, {}, Serving(**settings), Limits(item_s=0.01), Compute(), Files())


def test_the_deadline_ends_a_request_but_not_the_service(fake_preset: str, picture: bytes) -> None:
    async def scenario() -> None:
        service = service_of(fake_preset, deadline_s=0.2)
        await service.load()
        batcher, held = service.batchers["fake"], Held(fake_preset)
        batcher.segmenter = held  # type: ignore[assignment]
        with pytest.raises(RequestRefused) as raised:
            await service.cut(picture, Asked("fake"))
        assert (raised.value.status, raised.value.code) == (504, "deadline")
        assert service.stuck_s > 0.1  # /health says so beyond limits.item_s
        held.go.set()
        batcher.segmenter = held.inner
        service.settings = Serving()
        assert (await service.cut(picture, Asked("fake"))).status_code == 200
        await service.stop()

    asyncio.run(scenario())


def test_slow_web_servers_do_not_delay_pictures(fake_preset: str, picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    monkeypatch.setattr("pipeline.serve.app.fetch", lambda *_: answers.wait(60) and picture)

    async def scenario() -> None:
        service = service_of(fake_preset)
        await service.load()
        app, leaves = make_app(service), asyncio.Event()
        fetching = [asyncio.ensure_future(ask(app, "GET", "/api/remove?url=x", leaves=leaves)) for _ in range(local_cpus() + 1)]
        await asyncio.sleep(0.1)
        assert (await ask(app, "POST", "/v1/cutout", picture)).status == 200
        leaves.set()
        assert {(await one).code for one in fetching} == {"gone"} and service.inside == 0
        service.settings = Serving(deadline_s=0.1)
        answer = await ask(app, "GET", "/api/remove?url=x")
        assert (answer.status, answer.code) == (504, "deadline") and service.inside == 0
        answers.set()
        service.settings = Serving()
        assert (await ask(app, "GET", "/api/remove?url=x")).status == 200
        await service.stop()

    try:
        asyncio.run(asyncio.wait_for(scenario(), 30))
    finally:
        answers.set()


def test_a_lost_gpu_is_told_by_the_health_of_the_service(
    fake_preset: str, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any) -> None:
        raise BrokenDevice("CUDA error: an illegal memory access was encountered")

    async def scenario() -> None:
        service = service_of(fake_preset)
        await service.load()
        assert service.fault is None
        monkeypatch.setattr(service.batchers["fake"].segmenter, "segment", lost)
        app = make_app(service)
        assert (await ask(app, "POST", "/v1/cutout", picture)).status == 500  # the log says why
        for method, path in (("GET", "/health"), ("GET", "/ready"), ("POST", "/v1/cutout")):
            answer = await ask(app, method, path, picture)
            assert (answer.status, answer.code) == (503, "device"), path
        assert service.fault is not None and service.inside == 0
        await service.stop()

    asyncio.run(scenario())


def test_a_request_during_loading_waits(fake_preset: str, picture: bytes) -> None:
    async def scenario() -> None:
        service = service_of(fake_preset)
        request = asyncio.ensure_future(service.cut(picture, Asked("fake")))
        await asyncio.sleep(0)
        assert not request.done() and not service.batchers
        await service.load()
        assert (await request).status_code == 200
        await service.stop()

    asyncio.run(scenario())


def test_a_model_that_cannot_be_loaded_lets_nobody_wait(picture: bytes) -> None:
    async def scenario() -> None:
        chosen = load_preset("mvanet-lite", {"weights": "missing.safetensors"})
        service = Service({"lite": chosen}, {}, {}, Serving(), Limits(), Compute(), Files())
        request = asyncio.ensure_future(service.cut(picture, Asked("lite")))
        with pytest.raises(WeightsError):
            await service.load()
        with pytest.raises(RequestRefused) as raised:
            await request
        assert raised.value.status == 503
        await service.stop()

    asyncio.run(scenario())


def test_clients_are_told_no_details_of_the_servers_failures(logged: list[Any]) -> None:
    told = refusal_of(SegmentError("CUDA error in /home/me/model.py"))
    assert (told.status, told.code, told.message) == (500, "segment", "the model failed")
    told = refusal_of(RuntimeError("secret-key at /home/me"))
    assert (told.status, told.code) == (500, "internal") and "secret" not in told.message
    assert [record.levelname for record in logged] == ["ERROR", "ERROR"]
    assert refusal_of(DecodeError("this PNG is damaged")).message == "this PNG is damaged"
