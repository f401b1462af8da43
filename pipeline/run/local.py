"""Run small jobs in one worker process on this machine, without Ray: starting Ray would take longer than such a job.

The stages, their crash ledger and their deadlines are the same as in ``run/graph.py``. A worker that dies is started again. It
then takes its unfinished blocks through one stage at a time, so that only the item that killed it is blamed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from pipeline.concurrency import local_cpus
from pipeline.config.job import Compute
from pipeline.config.recipe import Recipe
from pipeline.errors import Stopped
from pipeline.log import log
from pipeline.run.block_sizes import DERIVED_ROWS, rows_per_block
from pipeline.run.context import context_of
from pipeline.run.crash_ledger import InMemoryLedger
from pipeline.run.gpus import runs_on_gpus
from pipeline.run.pool import NO_MODEL, Pool
from pipeline.run.preflight import Plan
from pipeline.run.stages.read import read_lacking, read_todo
from pipeline.run.work import DeriveWork, Part, SegmentWork, VideoWork, Work, in_batches
from pipeline.run.worker_process import Worker, WorkerDied, give_back, idle_s, take_worker

WAITING_BLOCKS = 2
"""Blocks that wait in the worker, so that it never waits for the driver."""

MAX_STARTS = 3
"""Workers that may die one after the other before they begin anything."""


def local_pool(compute: Compute, recipe: Recipe | None) -> Pool:
    """Return one actor with all cores, or one GPU. Arguments are as in ``runs_on_gpus``."""
    on_gpu = runs_on_gpus(compute, recipe)
    return Pool(1, float(on_gpu), float(local_cpus()), 1, "cuda" if on_gpu else "cpu")


def load_model(plan: Plan, run_id: str) -> None:
    """Start the worker and load the plan's model there. A model that cannot be used is refused before the output changes.

    Raises:
        PipelineError: The model or its weights cannot be used.
    """
    compute = plan.job.compute
    context = context_of(plan, local_pool(compute, plan.job.recipe), run_id)
    for _ in run_in_worker(SegmentWork(context), [], compute.no_progress_s):
        pass


def segment_items(plan: Plan, pool: Pool, run_id: str) -> Iterator[dict[str, Any]]:
    """Cut out the plan's items. Yields the facts of each committed index part, as ``stages.commit`` returns them.

    Raises:
        Stopped: Nothing was finished for ``compute.no_progress_s``, or no worker could be started.
        PipelineError: A worker raised it.
    """
    work = VideoWork if plan.only == "videos" else SegmentWork
    return run_in_worker(work(context_of(plan, pool, run_id)), blocks_to_do(plan, pool), plan.job.compute.no_progress_s)


def blocks_to_do(plan: Plan, pool: Pool) -> Iterator[pa.Table]:
    """Yield the manifest rows of the items to do, in blocks of ``rows_per_block``."""
    rows = rows_per_block(plan, pool)
    for fragment in plan.manifest.fragments:
        for block in read_todo(plan.manifest, fragment, plan.done, plan.output.files, only=plan.only):
            yield from in_batches(block, rows)


def derive_items(plan: Plan, run_id: str) -> Iterator[dict[str, Any]]:
    """Make the missing renditions and other files of finished items. Yields the facts of each committed index part.

    Raises:
        Stopped: As ``segment_items``.
        PipelineError: A worker raised it.
    """
    context = context_of(plan, NO_MODEL, run_id)
    lacking = [read_lacking(part, plan.output, plan.job.recipe) for part in plan.output.parts()]
    rows = pa.concat_tables(lacking, promote_options="default").combine_chunks()
    return run_in_worker(DeriveWork(context), in_batches(rows, DERIVED_ROWS), plan.job.compute.no_progress_s)


def run_in_worker(work: Work, blocks: Iterable[pa.Table], no_progress_s: float) -> Iterator[dict[str, Any]]:
    """Do work on all blocks, however often the worker dies. Yields the facts of each part.

    Raises:
        Stopped: Nothing was finished for ``no_progress_s``, or no worker could be started.
        PipelineError: A worker raised it.
    """
    ledger, waiting = InMemoryLedger(), iter(blocks)
    suspects: list[pa.Table] = []
    starts = 0
    while True:
        session = _Session(work, ledger, iter(suspects) if suspects else waiting, overlap=not suspects)
        try:
            yield from session.parts(no_progress_s)
        except WorkerDied as death:
            starts = 0 if session.has_begun else starts + 1
            if starts == MAX_STARTS:
                raise Stopped(
                    f"the worker process ended {starts} times before it began ({death}); if a module is missing, "
                    "install matteline again; if it ran out of memory, lower compute.batch_size or choose a smaller model"
                ) from None
            again = "; its items are repeated one by one" if session.has_begun else ", and is started again"
            log.warning(f"the worker process {death}{again}")
            suspects = [*session.in_hand, *session.source] if not session.overlap else list(session.in_hand)
            continue
        if session.overlap:
            return
        suspects = []


class _Session:
    """The blocks sent to one worker process, up to its end."""

    def __init__(self, work: Work, ledger: InMemoryLedger, source: Iterator[pa.Table], *, overlap: bool) -> None:
        self.work, self.ledger, self.source, self.overlap = work, ledger, source, overlap
        self.in_hand: deque[pa.Table] = deque()
        self.has_begun = False
        self._is_over = False
        self._committed = 0  # items of the first block in hand

    def parts(self, no_progress_s: float) -> Iterator[dict[str, Any]]:
        """Yield the facts of each committed part.

        Raises:
            WorkerDied: The worker ended; ``in_hand`` has the blocks to repeat.
            Stopped: It finished nothing for ``no_progress_s``.
            PipelineError: The worker raised it.
        """
        worker = take_worker(self.ledger)
        finished = False
        try:
            worker.send((self.work, dict(self.ledger.started), self.overlap, log.getEffectiveLevel(), idle_s()))
            for _ in range(WAITING_BLOCKS):
                self._send_block(worker)
            while not finished:
                kind, content = worker.receive(no_progress_s)
                finished = kind == "end"
                if kind == "taken":
                    self._send_block(worker)
                elif kind == "part":
                    self._count(content)
                    yield content.facts
        finally:
            self.has_begun = worker.has_begun
            if finished:
                give_back(worker)
            else:  # it still has blocks of this run
                worker.close()

    def _send_block(self, worker: Worker) -> None:
        """Send the next block; None marks the end of the blocks."""
        if not self._is_over:
            block = next(self.source, None)
            worker.send(block)
            self._is_over = block is None
            if block is not None:
                self.in_hand.append(block)

    def _count(self, part: Part) -> None:
        """Remove finished blocks from ``in_hand``. Parts come in the order of the blocks."""
        self._committed += part.items
        while self.in_hand and self._committed >= self.in_hand[0].num_rows:
            self._committed -= self.in_hand.popleft().num_rows
