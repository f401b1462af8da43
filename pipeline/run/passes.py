"""Execute a plan, in passes over the manifest, and then make what finished items lack.

Small runs work in one process on this machine (``local``), all others on Ray (``on_cluster``), which takes seconds to import.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import closing, suppress
from typing import Any

from pipeline.errors import ItemsMissing, StorageError
from pipeline.log import log
from pipeline.output.compaction import Compactor
from pipeline.output.counters import RunCounters
from pipeline.output.derived import count_lacking
from pipeline.output.lease import Lease
from pipeline.output.run_record import RunRecord
from pipeline.output.settings import read_settings, write_settings
from pipeline.run import local
from pipeline.run.budget import check_budget, deadline_passed, has_passed
from pipeline.run.callback import Reporter
from pipeline.run.gpus import is_small
from pipeline.run.preflight import Plan, by_kind, missing_items, only_missing, videos_to_do
from pipeline.run.prepare import tidy_index

PASSES = 2
"""Passes over the manifest in one run. The second one does what the first has lost."""


def run_passes(plan: Plan, record: RunRecord, lease: Lease, reporter: Reporter) -> None:
    """Process the items to do, and then those that are missing: Ray can lose rows of a block that it rebuilds.

    Args:
        plan: The job and its items to do.
        record: Counts the items.
        lease: The lease of the output.
        reporter: Told about every committed part.

    Raises:
        PipelineError: The run was stopped, a worker refused weights or settings, or items are still missing.
    """
    with RunCounters(plan.todo, videos_to_do(plan), bar=reporter.is_silent) as counters:
        _run_passes(plan, record, lease, counters, reporter)


def _run_passes(plan: Plan, record: RunRecord, lease: Lease, counters: RunCounters, reporter: Reporter) -> None:
    for _ in range(PASSES):
        try:
            if plan.todo:
                _run_pass(plan, record, lease, counters, reporter)
        except BaseException:
            # Without the lease, tidying the index is another run's job. Nothing may hide why this one ended.
            if lease.lost is None:
                with suppress(StorageError):
                    tidy_index(plan.output, plan.done)
            raise
        lease.check()
        tidy_index(plan.output, plan.done)
        plan = only_missing(plan, record.run_id)
        if not plan.todo:
            return
        if has_passed(plan.deadline):
            raise deadline_passed(plan.todo)
        log.warning(f"{plan.todo} items have no row yet", extra={"facts": {"missing": plan.todo}})
    raise ItemsMissing(missing_items(plan.todo, plan))


def _run_pass(plan: Plan, record: RunRecord, lease: Lease, counters: RunCounters, reporter: Reporter) -> None:
    budget = plan.job.budget
    try:
        # Closed at the latest here: no worker may go on without the lease.
        with Compactor(plan.output, lease.check) as compactor, closing(_segment_items(plan, record, lease, counters)) as parts:
            for part in parts:
                counters.add_part(part)
                record.count(counters)
                lease.check()
                compactor.part_added()
                reporter.update()
                if counters.done >= budget.judged_after:
                    check_budget(counters.counts, budget)
    finally:
        record.count(counters)


def _segment_items(plan: Plan, record: RunRecord, lease: Lease, counters: RunCounters) -> Generator[dict[str, Any], None, None]:
    for some in by_kind(plan):
        counters.is_on_videos = some.only == "videos"
        yield from _segment_kind(some, record, lease, counters)


def _segment_kind(plan: Plan, record: RunRecord, lease: Lease, counters: RunCounters) -> Generator[dict[str, Any], None, None]:
    if not is_small(plan.job.compute, plan.todo):
        from pipeline.run import on_cluster

        yield from on_cluster.segment_items(plan, record, counters, lease.check)
        return
    pool = local.local_pool(plan.job.compute, plan.job.recipe)
    record.actors, record.gpus_per_actor = pool.actors, pool.gpus
    with counters.working(pool.actors):
        yield from local.segment_items(plan, pool, record.run_id)


def run_derivation(plan: Plan, record: RunRecord, lease: Lease, reporter: Reporter) -> None:
    """Make the outputs and renditions that finished items lack, and record that none do. Arguments are as in ``run_passes``.

    Raises:
        ItemsMissing: Some items still lack something. The message names one.
        Stopped: The deadline passed before the last item.
        PipelineError: The run was stopped, or a worker refused.
    """
    settings = read_settings(plan.output)
    if settings is None or settings["complete"]:
        return
    failures: dict[str, str] = {}
    left = 0
    if items := count_lacking(plan.output, plan.job.recipe):
        try:
            sources = {part.uri for part in plan.output.parts()}  # workers read them until the end
            with (
                Compactor(plan.output, lease.check, keep=sources) as compactor,
                closing(_derive_items(plan, items, record.run_id)) as parts,
            ):
                for part in parts:
                    record.derived += part["done"]
                    failures |= json.loads(part["failures"])
                    left += part["left"]
                    lease.check()
                    compactor.part_added()
                    reporter.update()
        finally:
            if lease.lost is None:
                tidy_index(plan.output, plan.done)
        log.info("derived outputs of finished items", extra={"facts": {"items": record.derived, "failed": len(failures)}})
    if left:
        raise deadline_passed(left)
    if failures:
        item_id, why = next(iter(failures.items()))
        raise ItemsMissing(
            f"{len(failures)} items still lack an output or rendition of the recipe, for instance {item_id}: {why}"
        )
    write_settings(plan.output, settings | {"complete": True})


def _derive_items(plan: Plan, items: int, run_id: str) -> Generator[dict[str, Any], None, None]:
    if is_small(plan.job.compute, items):
        yield from local.derive_items(plan, run_id)
    else:
        from pipeline.run import on_cluster

        yield from on_cluster.derive_items(plan, run_id)
