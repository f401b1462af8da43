"""Pixels to masks and scores: the stage that holds the model."""

from __future__ import annotations

import time
from dataclasses import asdict

import pyarrow as pa

from pipeline.concurrency import local_cpus
from pipeline.config.job import Storage
from pipeline.config.recipe import Recipe
from pipeline.errors import ItemError, PipelineError
from pipeline.models.forward import BrokenDevice, device_memory
from pipeline.run.crash_ledger import CrashLedger, IsolatedBatch, end_process
from pipeline.run.metrics import BATCH, DEVICE_MEMORY, SECONDS
from pipeline.run.stages.columns import column, errors_of, pack, replace, unpack, with_errors
from pipeline.run.stages.process import tune_process
from pipeline.schema import SIGNALS
from pipeline.segmenter import Segment, Segmenter
from pipeline.storage.files import Files
from pipeline.types import Box


class SegmentBatch:
    """One copy of the model, as Ray Data's actor: made once, called for every batch."""

    def __init__(
        self,
        recipe: Recipe,
        storage: Storage,
        device: str,
        threads: int | None,
        actors_per_node: int,
        ledger: CrashLedger | None = None,
        item_s: float = 300.0,
        batch: int | None = None,
        engine: str = "auto",
    ) -> None:
        self.ledger, self.item_s = ledger, item_s
        threads = threads or max(1, local_cpus() // actors_per_node)  # of this node, which may not be like the driver's
        tune_process(threads)
        self.trimaps = "trimap" in recipe.outputs
        self.refused: PipelineError | None = None
        try:
            self.segmenter = Segmenter.from_recipe(
                recipe, Files(storage), device=device, threads=threads, batch=batch, engine=engine
            )
            self.device = self.segmenter.model.device
        except PipelineError as error:
            self.refused = error  # raised here, Ray would tell of a dead actor instead

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Adds ``mask`` and, where it is wanted, ``trimap`` (H·W bytes each), the score and ``segment_s``."""
        if self.refused is not None:
            raise self.refused
        start = time.perf_counter()
        errors = errors_of(batch)
        segments: list[Segment | None] = [None] * batch.num_rows
        todo = [row for row, error in enumerate(errors) if error is None]
        ids = batch["item_id"].to_pylist()
        attempts = IsolatedBatch(self.ledger, "segment", [ids[row] for row in todo], self.item_s)
        for row, segment in zip(todo, self._attempt(batch, todo, attempts), strict=True):
            if isinstance(segment, ItemError):
                errors[row] = segment
            else:
                segments[row] = segment
        attempts.over()
        scores = [None if segment is None else asdict(segment.score) for segment in segments]
        more = {"trimap": pack([None if segment is None else segment.trimap for segment in segments])} if self.trimaps else {}
        share_s = (time.perf_counter() - start) / max(1, len(todo))
        self._measure(share_s, len(todo))
        return replace(
            with_errors(batch, errors),
            mask=pack([None if segment is None else segment.mask for segment in segments]),
            quality=column([score and score["quality"] for score in scores], pa.float32()),
            quality_calibrated=column([score and score["calibrated"] for score in scores], pa.bool_()),
            reasons=column([score and score["reasons"] for score in scores], pa.list_(pa.string())),
            signals=column([score and score["signals"] for score in scores], SIGNALS),
            segment_s=column([share_s if error is None else None for error in errors], pa.float32()),
            **more,
        )

    def _measure(self, share_s: float, count: int) -> None:
        SECONDS.observe([share_s] * count, stage="model")
        BATCH.observe([count])
        for what, used in device_memory(self.device).items():
            DEVICE_MEMORY.set(used, what=what)

    def _attempt(self, batch: pa.Table, todo: list[int], attempts: IsolatedBatch) -> list[Segment | ItemError]:
        try:
            if not attempts.alone:
                return attempts.run_batch(lambda: self._segment(batch, todo))
            return [self._one(batch, row, attempts, number) for number, row in enumerate(todo)]
        except BrokenDevice:
            if self.ledger is None:
                raise
            end_process()  # nothing works on this GPU in this process any more; the next one finds the batch in the ledger

    def _one(self, batch: pa.Table, row: int, attempts: IsolatedBatch, number: int) -> Segment | ItemError:
        try:
            return attempts.one(number, lambda: self._segment(batch, [row])[0])
        except ItemError as error:
            return error

    def _segment(self, batch: pa.Table, rows: list[int]) -> list[Segment | ItemError]:
        heights, widths, boxes = (batch[name].to_pylist() for name in ("height", "width", "box"))
        images = [unpack(batch["pixels"], row, (heights[row], widths[row], 3)) for row in rows]
        parsed = [None if boxes[row] is None else Box(*boxes[row]) for row in rows]
        return self.segmenter.segment([image for image in images if image is not None], parsed)
