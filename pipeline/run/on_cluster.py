"""Run jobs on Ray: join or start the cluster, fit the pool to it, and execute the graph."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.log import log
from pipeline.models.check import can_use_gpu
from pipeline.models.engines.conversions import making, needs_conversion, weights_bytes
from pipeline.output.counters import RunCounters
from pipeline.output.index import release_arrow_memory
from pipeline.output.run_record import RunRecord
from pipeline.run.cluster import actors_at_work, await_gpus, dashboard_url, ray_cluster, with_cpu_actors
from pipeline.run.derive import derive
from pipeline.run.graph import execute
from pipeline.run.pool import Cluster, Pool, fit_pool
from pipeline.run.preflight import Plan


def segment_items(plan: Plan, record: RunRecord, counters: RunCounters, check: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """Cut out the plan's items. Yields one row per committed index part, as ``stages.commit`` returns it.

    Args:
        plan: The job and its items to do.
        record: Gets the actors.
        counters: Gets their time at work.
        check: Called while the run waits for machines. What it raises ends the run.

    Raises:
        PipelineError: The run was stopped, or a worker refused.
    """
    compute = with_cpu_actors(plan.job, plan.todo).compute
    with ray_cluster(compute) as machines:
        cluster = await_gpus(compute, machines, check)
        record.dashboard = dashboard_url()
        _warn_about_local_paths(plan, cluster)
        pool = fit_pool(compute, cluster, gpu_model=can_use_gpu(plan.job.recipe))
        record.actors, record.gpus_per_actor = pool.actors, pool.gpus
        facts = {"actors": pool.actors, "gpus_per_actor": pool.gpus, "machines": len(cluster)}
        log.info("starting the actors", extra={"facts": facts})
        counters.until_the_first(_first_work(plan, pool))
        with counters.working(actors_at_work(pool)):
            for part in execute(plan, pool, record.run_id, counters):
                counters.actors = actors_at_work(pool)
                yield part
    # Ray Data's records of all blocks are in reference cycles, some 100 MiB per million rows. Tidying the index comes next.
    gc.collect()
    release_arrow_memory()


def _first_work(plan: Plan, pool: Pool) -> str:
    """Say what the actors do before the first item. What they log themselves does not reach the driver."""
    recipe, resolved = plan.job.recipe, plan.resolved
    looks = [(recipe, resolved.weights)]
    if recipe.second is not None and resolved.second is not None:
        looks.append((recipe.second.recipe, resolved.second.weights))
    for one, weights in looks:
        if pool.device == "cpu" and needs_conversion(one, plan.job.compute.engine):
            work = making(weights_bytes(weights))
            log.info(work)
            return f"loading the model, {work}"
    return "loading the model"


def derive_items(plan: Plan, run_id: str) -> Iterator[dict[str, Any]]:
    """Make the missing outputs and renditions of finished items.

    Yields one row per committed index part, as ``stages.derive`` returns it.

    Raises:
        PipelineError: An error that a worker raised.
    """
    with ray_cluster(plan.job.compute):
        yield from derive(plan, run_id)


def _warn_about_local_paths(plan: Plan, cluster: Cluster) -> None:
    """Warn that a local path is another disk on every machine. A shared mount looks the same, so it is not refused."""
    local = [where for where in (plan.output.folder, plan.manifest.uri) if "://" not in where]
    if len(cluster) > 1 and local:
        log.warning(f"{local[0]} is a local path; all {len(cluster)} machines of the cluster must mount it")
