"""The Ray Data graph of a run."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import product
from math import ceil
from typing import Any, NamedTuple

import ray.data
from ray.data import ActorPoolStrategy, Dataset
from ray.data.exceptions import ExecutionTimeoutError

from pipeline.manifest.manifest import Manifest
from pipeline.output.counters import RunCounters
from pipeline.run.block_sizes import block_mib, rows_per_block, rows_per_part
from pipeline.run.budget import no_progress
from pipeline.run.context import StageContext, context_of
from pipeline.run.ledger_actor import RayCrashLedger
from pipeline.run.pool import COMMIT_CPUS, Pool
from pipeline.run.preflight import Plan
from pipeline.run.ray_data import RETRY_FOREVER, ray_data
from pipeline.run.sources import ManifestSource
from pipeline.run.stages.commit import commit_batch
from pipeline.run.stages.decode import decode_batch
from pipeline.run.stages.read import Share
from pipeline.run.stages.segment import SegmentBatch
from pipeline.run.stages.stretches import FindMasks, divide_videos
from pipeline.run.stages.videos import CutVideos, commit_videos
from pipeline.run.stages.write import write_batch

CALLS_PER_GPU = 2
"""Batches in flight per actor on a GPU: one in the model, one on its way from or to the object store, which takes as long. Ray
calls the model from one thread of its process only, as deadlines need."""


MIN_SHARD_BLOCKS, SHARD_BLOCKS_PER_ACTOR = 1_000, 128
"""Blocks of items per dataset. Ray Data keeps 60 KB per block in the driver until its dataset ends: 60 MB for 1,000 blocks.
Between two datasets the actors start anew, so a dataset is long: 128 blocks of 256 items, at ten items per second, take an
actor 50 minutes."""


WRITE_ROWS = 8
"""Items per call of the write stage, at most. Ray divides what the model returns into blocks, of one item each if the photos
are large, and each block would be a task. Of ten blocks and more, Ray would copy the pixels."""

FEW_VIDEOS = 4
"""Videos per actor below which long ones are divided among the actors."""


class Shard(NamedTuple):
    """A part of the items to do, which one dataset processes."""

    plan: Plan
    """The complete run's."""
    manifest: Manifest
    """With the shard's fragments."""
    share: Share
    """The share of the items in these fragments."""
    items: int
    """Items of the shard, roughly."""


Graph = Callable[[Shard, Pool, StageContext], Dataset | None]


def graph(shard: Shard, pool: Pool, context: StageContext) -> Dataset:
    """Return the lazy dataset from manifest rows to one row per committed index part."""
    items: Any = read_items(shard, pool, context)  # Ray's types know no Arrow tables and no keyword arguments
    dataset: Dataset = (
        items.map_batches(decode_batch, **on_tasks(context, cpus=pool.task_cpus))
        .map_batches(SegmentBatch, **on_actors(context, pool))
        .map_batches(write_batch, **on_tasks(context, cpus=pool.task_cpus, rows=min(WRITE_ROWS, context.batch_size or 1)))
        .map_batches(commit_batch, **on_tasks(context, cpus=COMMIT_CPUS, rows=rows_per_part(shard.plan)))
    )
    return dataset


def graph_of_videos(shard: Shard, pool: Pool, context: StageContext) -> Dataset:
    """Return the lazy dataset from manifest rows of videos to one row per committed index part."""
    items: Any = read_items(shard, pool, context)
    dataset: Dataset = items.map_batches(CutVideos, **on_actors(context, pool, calls=1)).map_batches(
        commit_videos, **on_tasks(context, cpus=COMMIT_CPUS, rows=1)
    )
    return dataset


def graph_of_stretches(shard: Shard, pool: Pool, context: StageContext) -> Dataset | None:
    """Return the lazy dataset that finds masks of long videos, with one row per stretch; None if no video is long."""
    items: Any = read_items(shard, pool, context)
    divided = items.map_batches(divide_videos, **on_tasks(context, cpus=pool.task_cpus))
    stretches = [table for table in divided.iter_batches(batch_size=1, batch_format="pyarrow") if table.num_rows]
    if not stretches:
        return None
    rows: Any = ray.data.from_arrow(stretches)
    dataset: Dataset = rows.map_batches(FindMasks, **on_actors(context, pool, calls=1) | {"batch_size": 1})
    return dataset


def graphs(plan: Plan, pool: Pool) -> list[Graph]:
    """Return the graphs that a plan needs, one after the other.

    With few videos per actor, those that have done theirs would wait for the longest one.
    """
    if plan.only != "videos":
        return [graph]
    actors = pool.max_actors or pool.actors
    return [graph_of_stretches, graph_of_videos] if actors > 1 and plan.todo < FEW_VIDEOS * actors else [graph_of_videos]


def shards(plan: Plan, pool: Pool) -> Iterator[Shard]:
    """Divide a plan into shards: by the manifest's fragments, in their order. If these are too few, also by the items' ids."""
    fragments, actors = plan.manifest.fragments, pool.max_actors or pool.actors
    items = max(MIN_SHARD_BLOCKS, SHARD_BLOCKS_PER_ACTOR * actors) * rows_per_block(plan, pool)
    count = max(1, ceil(plan.todo / items))
    groups = max(1, min(count, len(fragments)))
    per_group = ceil(count / groups)
    for number in range(groups):
        chosen = fragments[number * len(fragments) // groups : (number + 1) * len(fragments) // groups]
        manifest = replace(plan.manifest, fragments=chosen)
        for share in range(per_group):
            yield Shard(plan, manifest, (share, per_group), ceil(plan.todo / groups / per_group))


def read_items(shard: Shard, pool: Pool, context: StageContext) -> Dataset:
    """Return the items to do, in blocks of the size that keeps all actors busy."""
    source = ManifestSource(shard.manifest, shard.plan.done, shard.items, shard.share, context.files, shard.plan.only)
    dataset: Dataset = ray.data.read_datasource(source, override_num_blocks=len(shard.manifest.fragments))
    return dataset.repartition(target_num_rows_per_block=rows_per_block(shard.plan, pool))


def on_tasks(context: StageContext, *, cpus: float, rows: int | None = None) -> dict[str, Any]:
    """Return the options of a stage that runs as tasks.

    Args:
        context: Passed to every call.
        cpus: CPUs per task.
        rows: Rows per call; None for the complete block.
    """
    return {
        "fn_kwargs": {"context": context},
        "batch_format": "pyarrow",
        "batch_size": rows,
        "num_cpus": cpus,
        "max_retries": RETRY_FOREVER,
    }


def on_actors(context: StageContext, pool: Pool, calls: int = CALLS_PER_GPU) -> dict[str, Any]:
    """Return the options of the stage that runs in actors, which hold the model.

    The pool is full from the start, since Ray Data takes minutes to grow one. It only grows by machines that join later.
    """
    size: dict[str, Any] = (
        {"size": pool.actors} if pool.max_actors is None else {"min_size": pool.actors, "max_size": pool.max_actors}
    )
    calls = calls if pool.device == "cuda" else 1
    return {
        "fn_constructor_args": (context,),
        "batch_format": "pyarrow",
        "batch_size": context.batch_size,
        "compute": ActorPoolStrategy(**size, max_concurrent_calls_per_actor=calls),
        "num_gpus": pool.gpus,
        "num_cpus": pool.cpus,
        "max_restarts": RETRY_FOREVER,
        "max_task_retries": RETRY_FOREVER,
    }


def execute(plan: Plan, pool: Pool, run_id: str, counters: RunCounters) -> Iterator[dict[str, Any]]:
    """Run the graph of one shard after the other. Yields one row per committed index part, as ``stages.commit`` returns it.

    Args:
        plan: The job and its items to do.
        pool: Actors and their resources.
        run_id: Goes into every index row.
        counters: Gets the bytes in the object store.

    Raises:
        Stopped: Nothing was finished for ``compute.no_progress_s``.
        PipelineError: What a worker refused (weights, settings).
    """
    no_progress_s = plan.job.compute.no_progress_s
    try:
        # A block of one row: each stretch, and each sign of life of a video that takes hours, leaves its task at once.
        with ray_data(no_progress_s=no_progress_s, block_mib=0 if plan.only == "videos" else block_mib(plan, pool)):
            context = context_of(plan, pool, run_id, RayCrashLedger.start())
            for shard, make in product(shards(plan, pool), graphs(plan, pool)):
                dataset = make(shard, pool, context)
                if dataset is None:
                    continue
                yield from dataset.iter_rows()
                with suppress(AttributeError):  # a developer API of Ray; it must not fail a run that is complete
                    counters.store_bytes += sum(_stored_bytes(dataset.get_stats_summary()))
                del dataset
                gc.collect()  # the records of its blocks are in reference cycles
    except ExecutionTimeoutError as error:
        raise no_progress(no_progress_s) from error


def _stored_bytes(stats: Any) -> Iterator[int]:
    """Yield the bytes that each stage of a finished dataset put into the object store."""
    for stage in stats.operators_stats:
        yield stage.output_size_bytes.sum if stage.output_size_bytes else 0
    for parent in stats.parents:
        yield from _stored_bytes(parent)
