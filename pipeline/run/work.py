"""The chains of stages that a worker process runs without Ray: from items to committed index parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from pipeline.concurrency import ahead
from pipeline.run.context import StageContext
from pipeline.run.crash_ledger import CrashLedger

Rows = Iterator[pa.Table]


class Part(NamedTuple):
    """A committed index part."""

    items: int
    """Items of the blocks that are finished with it; 0 if it only says that work goes on."""
    facts: dict[str, Any]
    """The row that the last stage returns about it."""


class Work(Protocol):
    """Work on blocks of rows. It is pickled on its way to the worker."""

    def __call__(self, blocks: Rows, ledger: CrashLedger, *, overlap: bool) -> Iterator[Part]:
        """Do the work.

        Args:
            blocks: The items, in order.
            ledger: Survives the process.
            overlap: Run the stages beside each other, in threads. Without it, one block passes all stages before the next one
                begins, so that a crash has a single suspect.
        """


@dataclass(frozen=True)
class SegmentWork:
    """Cut items out: the stages of ``graph.graph``."""

    context: StageContext

    def __call__(self, blocks: Rows, ledger: CrashLedger, *, overlap: bool) -> Iterator[Part]:
        """See ``Work``.

        Raises:
            PipelineError: The model or its weights cannot be used.
        """
        from pipeline.run.stages.commit import commit_batch
        from pipeline.run.stages.decode import decode_batch
        from pipeline.run.stages.write import write_batch

        context = replace(self.context, ledger=ledger)
        segment: Callable[[pa.Table], pa.Table] = _loaded(context)
        beside: Callable[[Iterable[pa.Table]], Rows] = ahead if overlap else iter
        decoded = beside(table for block in blocks for table in decode_batch(block, context=context))
        segmented = beside(segment(batch) for table in decoded for batch in in_batches(table, context.batch_size))
        for batch in segmented:
            part = commit_batch(write_batch(batch, context=context), context=context)
            yield Part(batch.num_rows, part.to_pylist()[0])


@dataclass(frozen=True)
class VideoWork:
    """Cut out videos: the stages of ``graph.graph_of_videos``. A video's own steps overlap."""

    context: StageContext

    def __call__(self, blocks: Rows, ledger: CrashLedger, *, overlap: bool) -> Iterator[Part]:
        """See ``Work``.

        Raises:
            PipelineError: The model or its weights cannot be used.
        """
        from pipeline.run.stages.videos import commit_videos, cut_videos, is_sign_of_life

        context = replace(self.context, ledger=ledger)
        stage = _loaded(context)
        for block in blocks:
            for rows in cut_videos(block, stage.segmenter, context):
                items = 0 if is_sign_of_life(rows) else rows.num_rows
                yield Part(items, commit_videos(rows, context=context).to_pylist()[0])


@dataclass(frozen=True)
class DeriveWork:
    """Make what finished items lack."""

    context: StageContext

    def __call__(self, blocks: Rows, ledger: CrashLedger, *, overlap: bool) -> Iterator[Part]:
        """See ``Work``. There is a single stage, so nothing overlaps."""
        from pipeline.run.stages.derive import derive_batch

        context = replace(self.context, ledger=ledger)
        for block in blocks:
            yield Part(block.num_rows, derive_batch(block, context=context).to_pylist()[0])


_models: dict[str, Any] = {}


def _loaded(context: StageContext) -> Any:
    """Return the stage that holds the model. The last model is kept for the next run of this process.

    Raises:
        PipelineError: The model or its weights cannot be used.
    """
    from pipeline.run.stages.segment import SegmentBatch

    key = f"{context.recipe.model_dump_json()} {context.job.compute.model_dump_json()} {context.pool} {context.batch_size}"
    if key not in _models:
        _models.clear()
        _models[key] = SegmentBatch(context)
    segment: SegmentBatch = _models[key]
    segment.context = context
    if segment.refused is not None:
        del _models[key]
        raise segment.refused
    return segment


def in_batches(table: pa.Table, rows: int | None) -> Rows:
    """Yield slices of at most this many rows; None: the whole table at once."""
    for start in range(0, table.num_rows, rows or max(1, table.num_rows)):
        yield table.slice(start, rows)
