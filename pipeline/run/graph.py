"""The Ray Data graph of a run."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from math import ceil
from typing import Any

import ray.data
from ray.data import ActorPoolStrategy, Dataset
from ray.data.exceptions import ExecutionTimeoutError

from pipeline.errors import Stopped
from pipeline.log import RunCounters
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
from pipeline.run.stages.segment import SegmentBatch
from pipeline.run.stages.write import write_batch

CALLS_PER_GPU = 2
"""Batches in flight per actor on a GPU: one in the model, one on its way from or to the object store, which takes as long. Ray
calls the model from one thread of its process only, as deadlines need."""


SHARD_ITEMS = 2_000_000
"""Items per dataset, roughly. Ray Data keeps records of all blocks of a dataset in the driver until it ends. Between two
datasets the actors start anew, so a dataset is long: 64 GPUs with ten items per second each need 50 minutes for one."""


def graph(plan: Plan, pool: Pool, context: StageContext) -> Dataset:
    """Return the lazy dataset from manifest rows to one row per committed index part."""
    items: Any = read_items(plan, pool, context)  # Ray's types know no Arrow tables and no keyword arguments
    dataset: Dataset = (
        items.map_batches(decode_batch, **on_tasks(context, cpus=pool.task_cpus))
        .map_batches(SegmentBatch, **on_actors(context, pool))
        .map_batches(write_batch, **on_tasks(context, cpus=pool.task_cpus))
        .map_batches(commit_batch, **on_tasks(context, cpus=COMMIT_CPUS, rows=rows_per_part(plan)))
    )
    return dataset


def shards(plan: Plan) -> Iterator[Plan]:
    """Yield plans for parts of the manifest, in its order: each has some of its fragments and its share of the items to do."""
    fragments = plan.manifest.fragments
    count = max(1, min(len(fragments), ceil(plan.todo / SHARD_ITEMS)))
    for number in range(count):
        chosen = fragments[number * len(fragments) // count : (number + 1) * len(fragments) // count]
        yield replace(plan, manifest=replace(plan.manifest, fragments=chosen), todo=ceil(plan.todo / count))


def read_items(plan: Plan, pool: Pool, context: StageContext) -> Dataset:
    """Return the items to do, in blocks of the size that keeps all actors busy."""
    source = ManifestSource(plan.manifest, plan.done, plan.todo, context.files)
    dataset: Dataset = ray.data.read_datasource(source, override_num_blocks=len(plan.manifest.fragments))
    return dataset.repartition(target_num_rows_per_block=rows_per_block(plan, pool))


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


def on_actors(context: StageContext, pool: Pool) -> dict[str, Any]:
    """Return the options of the stage that runs in actors, which hold the model.

    The pool is full from the start, since Ray Data takes minutes to grow one. It only grows by machines that join later.
    """
    size: dict[str, Any] = (
        {"size": pool.actors} if pool.max_actors is None else {"min_size": pool.actors, "max_size": pool.max_actors}
    )
    calls = CALLS_PER_GPU if pool.device == "cuda" else 1
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
        with ray_data(no_progress_s=no_progress_s, block_mib=block_mib(plan)):
            context = context_of(plan, pool, run_id, RayCrashLedger.start())
            for shard in shards(plan):
                dataset = graph(shard, pool, context)
                yield from dataset.iter_rows()
                with suppress(AttributeError):  # a developer API of Ray; it must not fail a run that is complete
                    counters.store_bytes += sum(_stored_bytes(dataset.get_stats_summary()))
                del dataset
                gc.collect()  # the records of its blocks are in reference cycles
    except ExecutionTimeoutError as error:
        raise Stopped(no_progress(no_progress_s)) from error


def _stored_bytes(stats: Any) -> Iterator[int]:
    """Yield the bytes that each stage of a finished dataset put into the object store."""
    for stage in stats.operators_stats:
        yield stage.output_size_bytes.sum if stage.output_size_bytes else 0
    for parent in stats.parents:
        yield from _stored_bytes(parent)
