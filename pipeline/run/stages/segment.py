"""Turn pixels into masks and scores. This stage holds the model."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import NamedTuple

import pyarrow as pa

from pipeline.errors import ItemError, PipelineError
from pipeline.manifest.points import Point, points_of
from pipeline.manifest.prompts import prompts_of
from pipeline.models.cascade import Segment, as_rows
from pipeline.run.context import StageContext
from pipeline.run.metrics import BATCH, DEVICE_MEMORY, SECONDS
from pipeline.run.stages.columns import column, errors_of, pack, replace, unpack, with_errors
from pipeline.run.stages.process import tune_process
from pipeline.schema import INDEX, SIGNALS
from pipeline.segmenter import Segmenter
from pipeline.types import Box


class _Rows(NamedTuple):
    """A batch with the names that are looked for in each row's image, and the point in it."""

    table: pa.Table
    names: list[tuple[str, ...]]
    points: list[Point | None]


class SegmentBatch:
    """One actor with the model: created once, called for every batch."""

    def __init__(self, context: StageContext) -> None:
        self.context, compute, pool = context, context.job.compute, context.pool
        threads = pool.threads(compute)
        tune_process(threads)
        self.refused: PipelineError | None = None
        try:
            self.segmenter = Segmenter.from_recipe(
                context.recipe.without_files(),  # other stages make them
                context.files,
                device=pool.device,
                threads=threads,
                batch=context.batch_size,
                engine=compute.engine,
            )
            if context.recipe.detector is not None:
                self.segmenter.finder.load()
        except PipelineError as error:
            self.refused = error  # raised here, Ray would report a dead actor instead

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Add ``mask`` (H·W bytes), the score, and ``segment_s``."""
        if self.refused is not None:
            raise self.refused
        start = time.perf_counter()
        errors = errors_of(batch)
        prompts = prompts_of(batch, self.context.recipe.detector)
        names = [() if isinstance(one, ItemError) else one for one in prompts]
        for row, one in enumerate(prompts):
            if errors[row] is None and isinstance(one, ItemError):
                errors[row] = one
        segments: list[Segment | None] = [None] * batch.num_rows
        todo = [row for row, error in enumerate(errors) if error is None]
        ids = batch["item_id"].to_pylist()
        isolated, rows = self.context.isolated("segment", [ids[row] for row in todo]), _Rows(batch, names, points_of(batch))
        found = isolated.run_items(lambda numbers: self._segment(rows, [todo[number] for number in numbers]))
        for row, segment in zip(todo, found, strict=True):
            if isinstance(segment, ItemError):
                errors[row] = segment
            else:
                segments[row] = segment
        isolated.finish()
        scores = [None if segment is None else asdict(segment.score) for segment in segments]
        detections = [None if segment is None else segment.detection for segment in segments]
        seconds = (time.perf_counter() - start) / max(1, len(todo))
        self._measure(seconds, len(todo))
        return replace(
            with_errors(batch, errors),
            mask=pack([None if segment is None else segment.mask for segment in segments]),
            prompt=column([list(one) or None for one in names], pa.list_(pa.string())),
            detected_box=column([one and list(one.box) for one in detections], pa.list_(pa.float64())),
            detected_label=column([one and one.label for one in detections], pa.string()),
            detector_score=column([one and one.score for one in detections], pa.float32()),
            quality=column([score and score["quality"] for score in scores], pa.float32()),
            quality_calibrated=column([score and score["calibrated"] for score in scores], pa.bool_()),
            reasons=column([score and score["reasons"] for score in scores], pa.list_(pa.string())),
            signals=column([score and score["signals"] for score in scores], SIGNALS),
            models=column([segment and as_rows(segment.looks) for segment in segments], INDEX.field("models").type),
            agreement=column([segment and segment.agreement for segment in segments], pa.float32()),
            segment_s=column([seconds if error is None else None for error in errors], pa.float32()),
        )

    def _measure(self, seconds: float, count: int) -> None:
        SECONDS.observe([seconds] * count, stage="model")
        BATCH.observe([count])
        for what, used in self.segmenter.run_pass.memory().items():
            DEVICE_MEMORY.set(used, what=what)

    def _segment(self, batch: _Rows, rows: list[int]) -> list[Segment | ItemError]:
        heights, widths, boxes = (batch.table[name].to_pylist() for name in ("height", "width", "box"))
        images = [unpack(batch.table["pixels"], row, (heights[row], widths[row], 3)) for row in rows]
        parsed = [None if boxes[row] is None else Box(*boxes[row]) for row in rows]
        names, points = [batch.names[row] for row in rows], [batch.points[row] for row in rows]
        return self.segmenter.segment([image for image in images if image is not None], parsed, names, points)
