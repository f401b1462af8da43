"""Execute a plan on Ray, in passes over the manifest, and then make what finished items lack.

Apart from ``driver``: importing Ray and PyTorch takes seconds, which a run without anything to do does not need.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from contextlib import suppress

from pipeline.errors import ItemsMissing, Stopped, StorageError
from pipeline.log import RunCounters, log
from pipeline.models.load import can_use_gpu
from pipeline.output.derived import count_lacking
from pipeline.output.index import release_arrow_memory
from pipeline.output.lease import Lease
from pipeline.output.run_record import RunRecord
from pipeline.output.settings import read_settings, write_settings
from pipeline.run.cluster import actors_at_work, await_gpus, dashboard_url, ray_cluster, with_cpu_actors
from pipeline.run.derive import derive
from pipeline.run.graph import execute
from pipeline.run.pool import Cluster, fit_pool
from pipeline.run.preflight import Plan, missing_items, only_missing
from pipeline.run.prepare import tidy_index

PASSES = 2
"""Passes over the manifest in one run. The second one does what the first has lost."""


def run_passes(plan: Plan, record: RunRecord, lease: Lease) -> None:
    """Process the items to do, and then those that are missing: Ray can lose rows of a block that it rebuilds.

    Args:
        plan: The job and its items to do.
        record: Counts the items.
        lease: The lease of the output.

    Raises:
        PipelineError: The run was stopped, a worker refused, or items are still missing.
    """
    plan = dataclasses.replace(plan, job=with_cpu_actors(plan.job, plan.todo))
    with RunCounters(plan.todo) as counters:
        _run_passes(plan, record, lease, counters)


def _run_passes(plan: Plan, record: RunRecord, lease: Lease, counters: RunCounters) -> None:
    for _ in range(PASSES):
        try:
            if plan.todo:
                _run_pass(plan, record, lease, counters)
        except BaseException:
            # Without the lease, tidying the index is another run's job. Nothing may hide why this one ended.
            if lease.lost is None:
                with suppress(StorageError):
                    tidy_index(plan.output)
            raise
        lease.check()
        tidy_index(plan.output)
        plan = only_missing(plan, record.run_id)
        if not plan.todo:
            return
        if plan.deadline is not None and time.time() >= plan.deadline:
            raise Stopped(f"the deadline passed with {plan.todo} items left; run the same command again to continue")
        log.warning(f"{plan.todo} items have no row yet", extra={"facts": {"missing": plan.todo}})
    raise ItemsMissing(missing_items(plan.todo, plan))


def _run_pass(plan: Plan, record: RunRecord, lease: Lease, counters: RunCounters) -> None:
    compute = plan.job.compute
    with ray_cluster(compute) as machines:
        cluster = await_gpus(compute, machines, lease.check)
        record.dashboard = dashboard_url()
        _warn_about_local_paths(plan, cluster)
        pool = fit_pool(compute, cluster, gpu_model=can_use_gpu(plan.job.recipe))
        record.actors, record.gpus_per_actor = pool.actors, pool.gpus
        facts = {"actors": pool.actors, "gpus_per_actor": pool.gpus, "machines": len(cluster)}
        log.info("loading the model", extra={"facts": facts})

        def check() -> None:
            counters.actors = actors_at_work(pool)
            record.count(counters)
            lease.check()

        try:
            with counters.working(actors_at_work(pool)):
                execute(plan, pool, record.run_id, counters, check)
        finally:
            record.count(counters)
    # Ray Data's records of all blocks are in reference cycles, some 100 MiB per million rows. Tidying the index comes next.
    gc.collect()
    release_arrow_memory()


def run_derivation(plan: Plan, record: RunRecord, lease: Lease) -> None:
    """Make the outputs and renditions that finished items lack, and record that none do.

    Raises:
        ItemsMissing: Some items still lack something.
    """
    settings = read_settings(plan.output)
    if settings is None or settings["complete"]:
        return
    if count_lacking(plan.output, plan.job.recipe):
        with ray_cluster(plan.job.compute):
            try:
                derive(plan, record, lease.check)
            finally:
                if lease.lost is None:
                    tidy_index(plan.output)
    write_settings(plan.output, settings | {"complete": True})


def _warn_about_local_paths(plan: Plan, cluster: Cluster) -> None:
    """Warn that a local path is another disk on every machine. A shared mount looks the same, so it is not refused."""
    local = [where for where in (plan.output.folder, plan.manifest.uri) if "://" not in where]
    if len(cluster) > 1 and local:
        log.warning(f"{local[0]} is a local path; all {len(cluster)} machines of the cluster must mount it")
