"""Run a job from its settings to its run record."""

from __future__ import annotations

import dataclasses
import gc
import secrets
import time
from collections.abc import Collection
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.config.job import Job
from pipeline.errors import ErrorBudgetExceeded, ItemsMissing, PipelineError, Stopped, StorageError, WriteError
from pipeline.log import RunCounters, facts_in_every_line, log
from pipeline.models.load import can_use_gpu
from pipeline.output.baseline import Baseline, baseline, drift
from pipeline.output.changes import changed as find_changed
from pipeline.output.derived import count_lacking
from pipeline.output.index import release_arrow_memory, tally
from pipeline.output.lease import Lease
from pipeline.output.progress import Progress
from pipeline.output.run_record import RunRecord
from pipeline.output.settings import read_settings, write_settings
from pipeline.run.cluster import actors_at_work, await_gpus, dashboard_url, ray_cluster, will_use_gpus, with_cpu_actors
from pipeline.run.derive import derive
from pipeline.run.graph import check_budget, execute
from pipeline.run.metrics import LEASE, LEFT, RUN_ITEMS, SPEED
from pipeline.run.notify import Notifier, notifying
from pipeline.run.pool import Cluster, fit_pool
from pipeline.run.preflight import Plan, make_plan, only_missing, without_done
from pipeline.run.prepare import is_settled, prepare_output, tidy_index
from pipeline.run.signals import SignalHandler
from pipeline.storage.files import Files

PASSES = 2
"""Passes over the manifest in one run. The second one does what the first has lost."""


@dataclass(frozen=True)
class _Run:
    """A run that holds the lease of its output."""

    plan: Plan
    record: RunRecord
    lease: Lease
    progress: Progress
    baseline: Baseline | None


def run_job(
    job: Job,
    *,
    accept_licence: bool = False,
    retry: Collection[str] = (),
    changed: bool = False,
    replace: bool = False,
    signals: SignalHandler | None = None,
) -> tuple[Plan, RunRecord]:
    """Run a job. Items that are in the index already are skipped.

    Args:
        job: All settings.
        accept_licence: Allow weights that may not be used commercially.
        retry: Error codes whose failed items are done again.
        changed: Reprocess items whose manifest row or image has changed.
        replace: Reprocess items of another recipe, instead of refusing the output.
        signals: What SIGTERM and SIGINT do; None keeps the caller's handlers.

    Raises:
        PipelineError: The run was refused, stopped, or had too many failures. The run record says the same, if the run had
            begun.
    """
    run_id, files = new_run_id(), Files(job.storage)
    with facts_in_every_line(run_id=run_id), notifying(job, run_id, files) as notifier:
        deadline = None if job.budget.deadline_s is None else time.time() + job.budget.deadline_s
        gpu = job.recipe.precision == "auto" and will_use_gpus(job.compute)
        plan = make_plan(job, files, accept_licence=accept_licence, gpu=gpu, replace=replace)
        accepted = baseline(job.drift, job.output.uri, files)
        others = find_changed(plan.manifest, plan.output, job) if changed else None
        plan = without_done(plan, retry, others)
        plan = dataclasses.replace(plan, job=with_cpu_actors(plan.job, plan.todo), deadline=deadline)
        recipe = plan.job.recipe
        record = notifier.record = RunRecord(
            run_id, plan.manifest.uri, recipe.fingerprint(), recipe.name, plan.rows, plan.rows - plan.todo
        )
        facts = {"items": plan.rows, "done_before": record.done_before, "output": plan.output.folder}
        log.info(f"{plan.todo} of {plan.rows} items to do", extra={"facts": facts})
        if not plan.todo and is_settled(plan):
            _check_index(plan)
            _write_record(plan, record, 0, None)
            return plan, record
        with Lease(plan.output, run_id) as lease:
            progress = Progress(
                record,
                plan.output,
                owner=lease.owner,
                every_s=job.compute.progress_s,
                beat=lambda facts: _set_gauges(facts, lease),
            )
            run = _Run(plan, record, lease, progress, accepted)
            with signals.on_exit(lambda reason: _stop(run, notifier, reason)) if signals is not None else nullcontext():
                prepare_output(plan)
                # The run that held the lease until now may have done some of the items.
                plan = without_done(plan, retry, others)
                record.done_before = plan.rows - plan.todo
                with progress:
                    _run_and_record(dataclasses.replace(run, plan=plan))
        return plan, record


def _stop(run: _Run, notifier: Notifier, reason: str) -> None:
    """Leave a consistent output within a second when a signal ends the process."""
    run.lease.release()
    _write_record(run.plan, run.record, Stopped.exit_code, reason)
    run.progress.close()
    notifier.send(Stopped.exit_code, reason, quick=True)


def _run_and_record(run: _Run) -> None:
    """Do the work, and write the run record however it ends."""
    plan, record = run.plan, run.record
    try:
        with RunCounters(plan.todo) as counters:
            _run_passes(run, counters)
        _derive(run)
        if run.baseline is not None:
            record.drift = drift(run.baseline, plan.output, plan.job.drift)
            _log_drift(record.drift)
        check_budget({"ok": record.ok, "review": record.review, "failed": record.failed}, plan.job.budget)
        _check_index(plan)
    except PipelineError as error:
        _write_record(plan, record, error.exit_code, str(error))
        raise
    except BaseException as error:
        _write_record(plan, record, 1, type(error).__name__)
        raise
    else:
        _write_record(plan, record, 0, None)
    finally:
        run.progress.close()


def _run_passes(run: _Run, counters: RunCounters) -> None:
    """Run the plan, and then what is missing: Ray can lose rows of a block that it rebuilds after a machine was lost."""
    plan, lease = run.plan, run.lease
    for _ in range(PASSES):
        try:
            if plan.todo:
                _run_pass(dataclasses.replace(run, plan=plan), counters)
        except BaseException:
            # Without the lease, tidying the index is another run's job. Nothing may hide why this one ended.
            if lease.lost is None:
                with suppress(StorageError):
                    tidy_index(plan.output)
            raise
        lease.check()
        tidy_index(plan.output)
        plan = only_missing(plan, run.record.run_id)
        if not plan.todo:
            return
        if plan.deadline is not None and time.time() >= plan.deadline:
            raise Stopped(f"the deadline came with {plan.todo} items still to do; run the same command again to continue")
        log.warning(f"{plan.todo} items have no row yet", extra={"facts": {"missing": plan.todo}})
    raise ItemsMissing(_missing(plan.todo, plan))


def _run_pass(run: _Run, counters: RunCounters) -> None:
    plan, record, lease, compute = run.plan, run.record, run.lease, run.plan.job.compute
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


def _derive(run: _Run) -> None:
    """Make the outputs and renditions that finished items lack, and note in the output that none do."""
    plan, settings = run.plan, read_settings(run.plan.output)
    if settings is None or settings["complete"]:
        return
    if count_lacking(plan.output, plan.job.recipe):
        with ray_cluster(plan.job.compute):
            try:
                derive(plan, run.record, run.lease.check)
            finally:
                if run.lease.lost is None:
                    tidy_index(plan.output)
    write_settings(plan.output, settings | {"complete": True})


def _check_index(plan: Plan) -> None:
    """Check that every item of the manifest has a row, whatever runs wrote it.

    Raises:
        ItemsMissing: The index has fewer rows than the manifest has items.
        ErrorBudgetExceeded: All of them failed.
    """
    counts = tally(plan.output, plan.ids)
    if counts["missing"]:
        raise ItemsMissing(_missing(counts["missing"], plan))
    if counts.get("failed") == plan.rows:
        raise ErrorBudgetExceeded(f"all {plan.rows} items failed, so there is no result; see the reasons with matteline show")
    if counts.get("failed"):
        log.info(f"{counts['failed']} of {plan.rows} items have failed", extra={"facts": {"failed": counts["failed"]}})


def _missing(count: int, plan: Plan) -> str:
    return (
        f"{count} of {plan.rows} items have no row of it in {plan.output.layout.index}; run the same command again, and "
        "check that all workers reach the same storage and that the manifest does not change during the run"
    )


def _write_record(plan: Plan, record: RunRecord, exit_code: int, error: str | None) -> None:
    record.close(exit_code, error)
    facts = {"exit_code": exit_code, "ok": record.ok, "review": record.review, "failed": record.failed, "error": error}
    log.info(f"run finished: {record.outcome}", extra={"facts": facts | {"seconds": record.seconds}})
    try:
        record.write(plan.output)
    except WriteError as failure:
        # The index decides how the run ended. A record that cannot be written must not hide that.
        log.error(f"cannot write the run record: {failure}")


def _set_gauges(facts: dict[str, Any], lease: Lease) -> None:
    """Export what only the driver knows."""
    for status in ("ok", "review"):
        RUN_ITEMS.set(facts[status], status=status, code="")
    for code, entry in facts["failures"].items():
        RUN_ITEMS.set(entry["count"], status="failed", code=code)
    LEFT.set(facts["left"])
    SPEED.set(facts["recent_items_per_s"] or 0.0)
    LEASE.set(lease.renewed_at)


def _log_drift(found: dict[str, Any]) -> None:
    """Log one line about drift, with the same event in every run."""
    if found["drifted"]:
        log.warning(f"drift: {found['said']}; compared with {found['against']}", extra={"facts": {"drift": found}})
    else:
        log.info(f"no drift compared with {found['against']}", extra={"facts": {"drift": found}})


def _warn_about_local_paths(plan: Plan, cluster: Cluster) -> None:
    """Warn that a local path is another disk on every machine. A shared mount looks the same, so it is not refused."""
    local = [where for where in (plan.output.folder, plan.manifest.uri) if "://" not in where]
    if len(cluster) > 1 and local:
        log.warning(f"{local[0]} is a local path; all {len(cluster)} machines of the cluster must mount it")


def new_run_id() -> str:
    """Return a unique id that sorts by time: ``20261122T101500Z-3fa9c1``."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
