"""Choose how many items or bytes a task, a batch, a block and an index part have."""

from __future__ import annotations

from pipeline.run.pool import Pool
from pipeline.run.preflight import Plan

MIN_BATCHES_PER_ACTOR = 4
"""With fewer batches per actor, full batches would leave an actor idle at the end."""

GPU_ROWS = 64
"""Items per task in an ordinary run on GPUs, at most."""

DERIVED_ROWS = 64
"""Finished items per task, and per index part, when their missing files are made."""

BLOCK_MIB, CPU_BLOCK_MIB = 64, 8
"""Decoded pixels per block in an ordinary run, in MiB: with GPUs, and without. A worker holds two blocks: the one that it
decodes, and the one before, which Ray stores. A model on a CPU is slow, so small blocks do not delay it. With 8 MiB, two
photos of 2 megapixels are a block. Smaller ones would double the driver's records of blocks."""

BLOCKS, MAX_GROWTH = 8_000, 4
"""The driver keeps 60 KB per block until its dataset ends. Beyond this number of blocks they grow, up to this factor."""


def batch_size(plan: Plan, pool: Pool) -> int:
    """Return the images per forward pass. One batch is one entry in the crash ledger and has one deadline."""
    return plan.job.compute.batch_size_for(plan.job.recipe.frame_px, pool.device)


def rows_per_block(plan: Plan, pool: Pool) -> int:
    """Return the items per task: enough tasks to keep every actor busy, few enough to keep scheduling cheap. One video.

    A task has at least two items if the model takes both at once: they are finished beside each other. Without GPUs two batches
    are enough: nothing leaves a task before its block is done, and a model may take half a minute per image there. Where every
    actor gets several batches, a task has at least one.
    """
    if plan.only == "videos":
        return 1
    batch = batch_size(plan, pool)
    at_most = grow(GPU_ROWS if pool.gpus else 2 * batch, plan.todo)
    actors = pool.max_actors or pool.actors
    at_least = batch if plan.todo >= MIN_BATCHES_PER_ACTOR * actors * batch else 1
    return plan.job.compute.rows_per_block or max(at_least, min(at_most, max(min(2, batch), plan.todo // (8 * actors))))


def block_mib(plan: Plan, pool: Pool) -> int:
    """Return the decoded pixels per block in MiB. With large photos they decide the number of blocks, not the items."""
    return grow(BLOCK_MIB if pool.gpus else CPU_BLOCK_MIB, plan.todo)


def rows_per_part(plan: Plan) -> int:
    """Return the items per index part: a fortieth of the run, so that progress shows and little work is repeated. One video.

    A part is no larger than the number of items after which the error budget is first checked. Small parts are merged
    while the run goes on.
    """
    if plan.only == "videos":
        return 1
    return plan.job.compute.rows_per_part or max(1, min(256, plan.job.budget.judged_after, plan.todo // 40))


def grow(usual: int, items: int) -> int:
    """Return a block size for a run of this many items: the usual one, or more if the driver would hold too many blocks."""
    return min(MAX_GROWTH * usual, max(usual, items // BLOCKS))
