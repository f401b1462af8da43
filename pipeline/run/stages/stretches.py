"""Find the masks of long videos ahead, in stretches, so that several actors share a video.

What goes wrong here goes wrong again, and is recorded, where the video itself is processed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.errors import ItemError
from pipeline.log import log
from pipeline.manifest.prompts import prompts_of
from pipeline.run.context import StageContext
from pipeline.run.stages.commit import nothing_committed
from pipeline.run.stages.segment import SegmentBatch
from pipeline.run.stages.videos import is_over, request_of

if TYPE_CHECKING:
    from pipeline.video.stretches import Stretch


STRETCH = "video_stretch"
"""Column between the stages: a stretch, and the version of its video."""

STRETCH_TYPE = pa.struct([("first", pa.int64()), ("warm_up", pa.int64()), ("pts", pa.int64()), ("version", pa.string())])


def divide_videos(items: pa.Table, *, context: StageContext) -> Iterator[pa.Table]:
    """Yield one row per stretch of each video that is long enough, with the stretch.

    A video with a box or a name is not divided: only its first frame says which object is meant.
    """
    prompts = prompts_of(items, context.recipe.detector)
    for number, row in enumerate(items.to_pylist()):
        if row["error_code"] is not None or row["box"] is not None or prompts[number] != ():
            continue
        isolated = context.isolated("divide", [row["item_id"]])
        try:
            version, stretches = isolated.run_one(0, partial(_divide, row, context, isolated.beat))
        except ItemError as error:
            log.debug(f"{row['item_id']}: it is not divided into stretches: {error}")
            stretches = []
        isolated.finish()
        for one in stretches:
            yield items.slice(number, 1).append_column(STRETCH, pa.array([{**one._asdict(), "version": version}], STRETCH_TYPE))


def _divide(row: dict[str, Any], context: StageContext, beat: Callable[[], None]) -> tuple[str, list[Stretch]]:
    """Return the version of a video, and its stretches. The file is read completely, with beats.

    Raises:
        ItemError: It cannot be read.
    """
    from pipeline.video.failures import as_item_errors
    from pipeline.video.reader import VideoReader
    from pipeline.video.segments import frames_per_segment
    from pipeline.video.source import Source
    from pipeline.video.span import span_of
    from pipeline.video.stretches import divide, frame_times

    request, limits = request_of(row, (), context), context.job.limits
    with Source(request.uri, context.files, limits) as source, as_item_errors():
        with VideoReader(source.open(), limits) as reader:
            facts = reader.facts
        version, times = source.version(), frame_times(source.open(), limits, beat)
    span, unit = span_of(request.part, facts), float(facts.time_base)
    return version, divide(times, frames_per_segment(facts.size), span, unit) if version else []


class FindMasks:
    """One actor with the model: created once, called for every stretch."""

    def __init__(self, context: StageContext) -> None:
        self.stage = SegmentBatch(context)

    def __call__(self, stretches: pa.Table) -> Iterator[pa.Table]:
        """Find and keep the masks of stretches. Yields rows as ``commit_batch`` does of items that it did not commit.

        The last row has the time of the work. Those before are signs of life. After ``context.deadline`` no stretch is begun.
        """
        if self.stage.refused is not None:
            raise self.stage.refused
        began, context = time.monotonic(), self.stage.context
        for row in stretches.to_pylist():
            if context.is_late():
                break
            with ThreadPoolExecutor(1) as pool:
                work = pool.submit(self._find, row, context)
                while not is_over(work):
                    yield nothing_committed()
            work.result()
        yield nothing_committed(time.monotonic() - began)

    def _find(self, row: dict[str, Any], context: StageContext) -> None:
        from pipeline.video.failures import as_item_errors
        from pipeline.video.process import segments_of
        from pipeline.video.reader import VideoReader
        from pipeline.video.source import Source
        from pipeline.video.span import span_of
        from pipeline.video.stretches import Stretch, find_masks

        fields = dict(row[STRETCH])
        version = fields.pop("version")
        stretch = Stretch(**fields)
        isolated = context.isolated("stretch", [f"{row['item_id']}/{stretch.first}"])

        def find() -> None:
            request, limits = request_of(row, (), context), context.job.limits
            with Source(request.uri, context.files, limits) as source, as_item_errors():
                with VideoReader(source.open(), limits) as reader:
                    facts = reader.facts
                store = segments_of(version, facts.size, request, context.recipe, context.files)
                span = span_of(request.part, facts)
                find_masks(source.open(), limits, stretch, span, self.stage.segmenter, store, isolated.beat, isolated.kept)

        try:
            isolated.run_one(0, find)
        except ItemError as error:
            log.debug(f"{row['item_id']}: the stretch from segment {stretch.first} was left out: {error}")
        isolated.finish()
