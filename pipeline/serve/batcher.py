"""Collect the pictures of concurrent requests into batches for one model.

The model works on one batch at a time, in a thread. Pictures that arrive meanwhile make the next batch. A batch that is not
full waits a few milliseconds, but only while pictures are being decoded that may join it, so a lone request never waits.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.errors import ItemError
from pipeline.models.cascade import Segment
from pipeline.models.failures import BrokenDevice
from pipeline.segmenter import Segmenter
from pipeline.serve.metrics import Metrics
from pipeline.types import Box, Pixels


@dataclass(eq=False)
class _Waiting:
    pixels: Pixels
    box: Box | None
    names: tuple[str, ...]
    done: asyncio.Future[Segment]


class Batcher:
    """Calls a model with batches. Used by one event loop only.

    Args:
        segmenter: The loaded model.
        thread: An executor of one thread, which models share so that their passes take turns.
        wait_s: Seconds that a batch waits for pictures that are being decoded.
        metrics: Counts batches.
    """

    def __init__(self, segmenter: Segmenter, thread: Executor, wait_s: float, metrics: Metrics) -> None:
        self.segmenter = segmenter
        self.working_since: float | None = None
        """Start of the current pass, by ``time.monotonic``; None if there is none."""
        self.is_broken = False
        """True once the GPU is lost: this process can run no further pass."""
        self._thread, self._wait_s, self._metrics = thread, wait_s, metrics
        self._waiting: deque[_Waiting] = deque()
        self._coming = 0
        self._changed = asyncio.Event()

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Announce a picture: it is being decoded inside this block."""
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1
            self._changed.set()

    def put(self, pixels: Pixels, box: Box | None, names: tuple[str, ...] = ()) -> asyncio.Future[Segment]:
        """Return the future mask of a picture, (H, W, 3) uint8. Cancelling it takes the picture out of the queue.

        The future raises ``ItemError`` if the picture fails. Without a box, an object of these names is looked for.
        """
        one = _Waiting(pixels, box, names, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        one.done.add_done_callback(lambda _: self._forget(one))
        self._changed.set()
        return one.done

    def _forget(self, one: _Waiting) -> None:
        """Free the pixels of a picture that was cancelled before its pass began."""
        if one in self._waiting:
            self._waiting.remove(one)

    async def run(self) -> None:
        """Work on batches until cancelled."""
        try:
            while True:
                await self._work(await self._collect())  # without a variable, which would keep the last batch's pixels
        finally:
            for one in self._waiting:
                one.done.cancel()

    async def _collect(self) -> list[_Waiting]:
        """Wait for a picture, and briefly for those that come with it."""
        until: float | None = None
        while True:
            self._changed.clear()
            while self._waiting and self._waiting[0].done.done():  # cancelled a moment ago
                self._waiting.popleft()
            if self._waiting:
                now = time.monotonic()
                until = until or now + self._wait_s
                if len(self._waiting) >= self.segmenter.batch or not self._coming or now >= until:
                    break
            try:
                async with asyncio.timeout(None if until is None else until - time.monotonic()):
                    await self._changed.wait()
            except TimeoutError:
                continue
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < self.segmenter.batch:
            one = self._waiting.popleft()
            if not one.done.done():
                batch.append(one)
        return batch

    def _segment(
        self, images: list[Pixels], boxes: list[Box | None], names: list[tuple[str, ...]]
    ) -> Sequence[Segment | ItemError]:
        """Run a pass in the thread. Its clock starts here: before, the thread may work for another model."""
        self.working_since = time.monotonic()
        try:
            return self.segmenter.segment(images, boxes, names)
        finally:
            self.working_since = None

    async def _results(
        self, images: list[Pixels], boxes: list[Box | None], names: list[tuple[str, ...]]
    ) -> Sequence[Segment | Exception]:
        """Return the results of a pass. An error leads to this frame, so no variable here leads to the error."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._segment, images, boxes, names)
        except Exception as error:  # noqa: BLE001  it belongs to the requests; the model goes on with the next ones
            self.is_broken = self.is_broken or isinstance(error, BrokenDevice)
            return [error] * len(images)

    async def _work(self, batch: list[_Waiting]) -> None:
        began = time.monotonic()
        images = [one.pixels for one in batch]
        results = await self._results(images, [one.box for one in batch], [one.names for one in batch])
        self._metrics.observe_batch(len(batch), time.monotonic() - began)
        _give(batch, results)
        # From Python 3.12 on, the traceback of an error leads to this frame, too.
        batch.clear()
        images.clear()
        del results


def _give(batch: list[_Waiting], results: Sequence[Segment | Exception]) -> None:
    """Give the results to those who wait for them and have not left."""
    for one, result in zip(batch, results, strict=True):
        if one.done.done():
            continue
        if isinstance(result, Segment):
            one.done.set_result(result)
        else:
            one.done.set_exception(result)
