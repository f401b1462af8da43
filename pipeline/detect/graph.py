"""The Ray Data graph of a detection: from manifest rows to parts with boxes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.detect.stages import DetectBatch, model_of, write_part
from pipeline.models.check import can_use_gpu
from pipeline.run.block_sizes import block_mib, rows_per_part
from pipeline.run.cluster import ray_cluster
from pipeline.run.context import context_of
from pipeline.run.graph import on_actors, on_tasks, read_items, shards
from pipeline.run.ledger_actor import RayCrashLedger
from pipeline.run.pool import COMMIT_CPUS, fit_pool
from pipeline.run.preflight import Plan
from pipeline.run.ray_data import ray_data
from pipeline.run.stages.decode import decode_batch


def detect_items(plan: Plan, run_id: str) -> Iterator[dict[str, Any]]:
    """Find the boxes of the plan's items. Yields one row per part, as ``stages.write_part`` returns it.

    Raises:
        PipelineError: What a worker refused.
    """
    compute = plan.job.compute
    with ray_cluster(compute) as cluster:
        model = model_of(plan.job.recipe)
        pool = fit_pool(compute, cluster, gpu_model=model is None or can_use_gpu(model))
        with ray_data(no_progress_s=compute.no_progress_s, block_mib=block_mib(plan, pool)):
            context = context_of(plan, pool, run_id, RayCrashLedger.start())
            for shard in shards(plan, pool):
                items: Any = read_items(shard, pool, context)  # Ray's types know no Arrow tables
                parts = (
                    items.map_batches(decode_batch, **on_tasks(context, cpus=pool.task_cpus))
                    .map_batches(DetectBatch, **on_actors(context, pool))
                    .map_batches(write_part, **on_tasks(context, cpus=COMMIT_CPUS, rows=rows_per_part(plan)))
                )
                yield from parts.iter_rows()
