"""Hold the models of a service, and lead each picture through decoding, model and encoding."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from starlette.responses import Response

from pipeline.concurrency import local_cpus
from pipeline.config.detector import Detector
from pipeline.config.job import Compute, Limits
from pipeline.config.presets import Preset
from pipeline.config.rendition import Rendition
from pipeline.imaging.decode import decode
from pipeline.imaging.parts import box_at, without_others
from pipeline.models.backgrounds import Backgrounds
from pipeline.models.cascade import Segment
from pipeline.segmenter import Cutout, Segmenter
from pipeline.serve.answers import encode_answer
from pipeline.serve.asked import Asked
from pipeline.serve.batcher import Batcher
from pipeline.serve.jobs.jobs import Jobs
from pipeline.serve.metrics import Metrics
from pipeline.serve.refusals import RequestRefused, no_detector
from pipeline.serve.settings import Serving
from pipeline.storage.files import Files
from pipeline.types import Mask, Pixels

T = TypeVar("T")

FETCHES = 16
"""Pictures that are fetched from web servers at the same time."""


def _names(asked: Asked, detector: Detector | None) -> tuple[str, ...]:
    """Return the names to look for.

    Raises:
        RequestRefused: 400: there are names and no detector.
    """
    if asked.names and detector is None:
        raise no_detector(asked.preset)
    if asked.names is None and detector is not None:
        return detector.label
    return asked.names or ()


async def _result(waiting: asyncio.Future[Segment]) -> Segment:
    """Wait for a picture's mask. A request that ends takes its picture out of the queue."""
    try:
        return await waiting
    finally:
        waiting.cancel()
        del waiting  # an error leads to this frame, and the future to the error: only the garbage collector would free them


class Service:
    """The models, the queue and the counters. Used by one event loop only.

    Args:
        presets: Presets by name, the default first. Each is one model in memory.
        renditions: Renditions by the name of their file; their background pictures are pinned.
        backgrounds: These pictures.
        settings: Queue and deadline.
        limits: Limits of one picture.
        compute: Device, engine, threads and batch size.
        files: Access to weights, and to allowed addresses of pictures.
        jobs: Runs for clients; None: the service takes none.
    """

    def __init__(
        self,
        presets: Mapping[str, Preset],
        renditions: Mapping[str, Rendition],
        backgrounds: Backgrounds,
        settings: Serving,
        limits: Limits,
        compute: Compute,
        files: Files,
        jobs: Jobs | None = None,
    ) -> None:
        self.presets, self.renditions, self.backgrounds = presets, renditions, backgrounds
        self.settings, self.limits, self.compute, self.files = settings, limits, compute, files
        self.jobs = jobs
        self.metrics = Metrics()
        self.metrics.gauges["queue"] = ("Requests that are read, wait, are worked on or are answered.", lambda: self.inside)
        self.metrics.gauges["ready"] = ("1 if the models are loaded.", lambda: bool(self.batchers))
        if jobs is not None:
            self.metrics.gauges["jobs"] = ("Jobs that are running.", lambda: jobs.running)
        self.inside = 0
        self.ready = asyncio.Event()
        self.draining = False
        self.batchers: dict[str, Batcher] = {}
        self._each = ThreadPoolExecutor(local_cpus(), "pictures")
        self._model = ThreadPoolExecutor(1, "model")
        self._fetches = ThreadPoolExecutor(FETCHES, "fetches")  # slow web servers must not hold the threads for pictures
        self._steps: dict[int, float] = {}
        """Start of the step that each thread for pictures works on, by ``time.monotonic``."""
        self._tasks: list[asyncio.Task[None]] = []
        self._decoded = asyncio.Semaphore(local_cpus())
        """Pictures in memory, decoded; grows by two batches once the model is known."""
        self._seconds = 1.0
        """Recent seconds between two answers, to say when to try again."""
        self._answered_at: float | None = None

    async def load(self) -> None:
        """Load the models, and make each work once, so that no request pays for the first pass.

        Raises:
            Refused: A model cannot be loaded.
        """
        loop = asyncio.get_running_loop()
        try:
            loaded = [await loop.run_in_executor(self._model, self._load, preset) for preset in self.presets.values()]
            self.batchers = {
                name: Batcher(segmenter, self._model, self.settings.wait_s, self.metrics)
                for name, segmenter in zip(self.presets, loaded, strict=True)
            }
            self._tasks = [loop.create_task(batcher.run()) for batcher in self.batchers.values()]
            self._decoded = asyncio.Semaphore(local_cpus() + 2 * max(segmenter.batch for segmenter in loaded))
        finally:
            self.ready.set()  # also after a failure, so that requests need not wait for their deadline

    def _load(self, preset: Preset) -> Segmenter:
        import numpy as np

        compute = self.compute
        segmenter = Segmenter.from_recipe(
            preset.recipe,
            self.files,
            device=compute.device,
            threads=compute.threads_per_actor,
            batch=compute.batch_size,
            engine=compute.engine,
        )
        segmenter.segment([np.zeros((64, 64, 3), np.uint8)], [None])
        if segmenter.recipe.detector is not None:
            segmenter.finder.load()
        return segmenter

    async def stop(self) -> None:
        """End the work. Requests that still wait are cancelled, and jobs are stopped."""
        if self.jobs is not None:
            await self.jobs.end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for executor in (self._each, self._model, self._fetches):
            executor.shutdown(wait=False, cancel_futures=True)

    @property
    def stuck_s(self) -> float:
        """Seconds that the current pass of a model has taken; 0 if there is none."""
        began = [one.working_since for one in self.batchers.values() if one.working_since is not None]
        return time.monotonic() - min(began) if began else 0.0

    @property
    def fault(self) -> RequestRefused | None:
        """Return what only a restart can mend: 503, the GPU is lost, a queue has ended, or a step exceeds ``limits.item_s``.

        A step is a pass of the model, or the decoding or encoding of one picture. No library can be interrupted in it, so it
        holds its thread for ever.
        """
        if any(one.is_broken for one in self.batchers.values()):
            return RequestRefused(503, "device", "the GPU is lost to this process; restart the service")
        if not self.draining and any(task.done() for task in self._tasks):
            return RequestRefused(503, "stuck", "the queue of a model has ended; restart the service")
        if self.stuck_s > self.limits.item_s:
            message = f"the model has worked on one batch for more than {self.limits.item_s:g} s (limits.item_s)"
            return RequestRefused(503, "stuck", message)
        if any(time.monotonic() - began > self.limits.item_s for began in list(self._steps.values())):
            message = f"a picture is being decoded or encoded for more than {self.limits.item_s:g} s (limits.item_s)"
            return RequestRefused(503, "stuck", message)
        return None

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places of the queue.

        Raises:
            RequestRefused: 503: all are taken, or the service is ending or must be restarted.
        """
        if (fault := self.fault) is not None:
            raise fault
        if self.draining or self.inside >= self.settings.queue:
            message = (
                "the service is ending" if self.draining else f"all {self.settings.queue} places are taken; try again later"
            )
            wait_s = math.ceil(min(60.0, max(1.0, self.inside * self._seconds)))
            raise RequestRefused(503, "busy", message, {"Retry-After": str(wait_s)})
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    async def cut(self, data: bytes | Callable[[], bytes], asked: Asked) -> Response:
        """Cut out a picture.

        Args:
            data: A picture's file, or what fetches it.
            asked: What to answer.

        Raises:
            ItemError: The picture failed.
            RequestRefused: 400 or 403: the picture may not be fetched. 422: there is no rendition of an empty mask. 504: the
                deadline has passed.
        """
        try:
            async with asyncio.timeout(self.settings.deadline_s):
                await self.ready.wait()
                if not isinstance(data, bytes):
                    data = await asyncio.get_running_loop().run_in_executor(self._fetches, data)
                arrived = time.monotonic()
                async with self._decoded:
                    response = await self._cut(data, asked)
                self.metrics.observe_answer(time.monotonic() - arrived)
                return response
        except TimeoutError:
            raise RequestRefused(504, "deadline", f"no answer within {self.settings.deadline_s:g} s; try again later") from None

    async def _cut(self, data: bytes, asked: Asked) -> Response:
        if asked.preset not in self.batchers:  # loading has failed
            raise RequestRefused(503, "not_ready", "the service is ending")
        batcher, began = self.batchers[asked.preset], time.monotonic()
        names = () if asked.point is not None else _names(asked, batcher.segmenter.recipe.detector)
        with batcher.expecting():
            pixels = await self.in_thread(decode, data, self.limits)
            result = _result(batcher.put(pixels, asked.box, names))
        decoded = time.monotonic()
        segment = await result
        if asked.point is not None:
            segment = await self._at(batcher, pixels, segment.mask, asked.point)
        segmented = time.monotonic()
        facts = segment.detection, segment.looks, segment.agreement
        cutout = Cutout(pixels, segment.mask, segment.score, batcher.segmenter.recipe, *facts)
        response = await self.in_thread(encode_answer, cutout, asked, self.backgrounds)
        encoded = time.monotonic()
        stages = {"decode": decoded - began, "wait": segmented - decoded, "encode": encoded - segmented}
        for stage, seconds in stages.items():
            self.metrics.observe_stage(stage, seconds)
        self.metrics.observe_quality(segment.score.quality)
        if self._answered_at is not None and self.inside > 1:
            self._seconds += 0.1 * (encoded - self._answered_at - self._seconds)
        self._answered_at = encoded
        response.headers["Server-Timing"] = ", ".join(f"{name};dur={1000 * took:.1f}" for name, took in stages.items())
        return response

    async def _at(self, batcher: Batcher, pixels: Pixels, whole: Mask, point: tuple[float, float]) -> Segment:
        """Return the object at a point, as ``Segmenter`` does; ``whole`` is the mask of all salient objects.

        Raises:
            PromptError: There is none.
        """
        box = await self.in_thread(box_at, whole, *point)
        segment = await _result(batcher.put(pixels, box))
        return replace(segment, mask=await self.in_thread(without_others, segment.mask, whole, *point))

    async def in_thread(self, step: Callable[..., T], *arguments: object) -> T:
        """Run a step on one of the threads for pictures."""
        return await asyncio.get_running_loop().run_in_executor(self._each, self._timed, step, *arguments)

    def _timed(self, step: Callable[..., T], *arguments: object) -> T:
        """Run a step in this thread, and remember since when."""
        thread = threading.get_ident()
        self._steps[thread] = time.monotonic()
        try:
            return step(*arguments)
        finally:
            del self._steps[thread]
