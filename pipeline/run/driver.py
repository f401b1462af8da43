"""A job from its settings to its run record."""

from __future__ import annotations

import gc
import json
import secrets
import time
from collections.abc import Collection
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pipeline.config.job import Job
from pipeline.errors import ItemsMissing, PipelineError, Stopped, StorageError, WriteError
from pipeline.log import RunCounters, facts_in_every_line, log
from pipeline.manifest.id_set import duplicate_ids
from pipeline.models.load import can_use_gpu
from pipeline.output.baseline import Baseline, baseline, drift
from pipeline.output.changes import changed as find_changed
from pipeline.output.index import compact, reconcile, release_arrow_memory, tally
from pipeline.output.layout import Layout
from pipeline.output.lease import Lease
from pipeline.output.progress import Progress
from pipeline.output.run_record import RunRecord
from pipeline.run.cluster import actors_at_work, await_gpus, dashboard_url, ray_cluster, will_use_gpus
from pipeline.run.graph import execute, judge, with_actors
from pipeline.run.metrics import LEASE, LEFT, RUN_ITEMS, SPEED
from pipeline.run.notify import Notifier, notifying
from pipeline.run.preflight import Cluster, Plan, fit_pool, make_plan, only_lost, without_done
from pipeline.run.signals import SignalHandler
from pipeline.storage.files import Files

PASSES = 2
"""Over the manifest in one run: the second, if there is one, is over what the first has lost."""


def run_job(
    job: Job,
    *,
    accept_licence: bool = False,
    retry: Collection[str] = (),
    changed: bool = False,
    signals: SignalHandler | None = None,
) -> tuple[Plan, RunRecord]:
    """Do what the job says; items that the index has already are left alone.

    Args:
        retry: error codes whose items are done again.
        changed: items whose manifest row or image is another than when they were done are done again.
        stopping: what a signal does; absent, the caller's handlers are left as they are.

    Raises:
        PipelineError: the run was refused, stopped, or had too many failures; the run record (where the run had begun)
            says the same.
    """
    run_id, files = new_run_id(), Files(job.storage)
    with facts_in_every_line(run_id=run_id), notifying(job, run_id, files) as notifier:
        return _run(job, files, notifier, accept_licence=accept_licence, retry=retry, changed=changed, signals=signals)


def _run(
    job: Job,
    files: Files,
    notifier: Notifier,
    *,
    accept_licence: bool,
    retry: Collection[str],
    changed: bool,
    signals: SignalHandler | None,
) -> tuple[Plan, RunRecord]:
    until = None if job.budget.deadline_s is None else time.time() + job.budget.deadline_s
    gpu = job.recipe.precision == "auto" and will_use_gpus(job.compute)
    plan = make_plan(job, files, accept_licence=accept_licence, gpu=gpu)
    accepted = baseline(job.drift, job.output, files)
    others = find_changed(plan.manifest, plan.layout, files, job) if changed else None
    plan = without_done(plan, files, retry, others)
    plan = replace(plan, job=with_actors(plan.job, plan.todo), until=until)
    recipe = plan.job.recipe
    record = notifier.record = RunRecord(
        notifier.run_id, plan.manifest.uri, recipe.fingerprint(), recipe.name, plan.rows, plan.rows - plan.todo
    )
    facts = {"items": plan.rows, "done_before": record.done_before, "output": plan.layout.folder}
    log.info(f"{plan.todo} of {plan.rows} items to do", extra={"facts": facts})
    if not plan.todo and not len(duplicate_ids(plan.done)):
        _judge_index(plan, files)
        return plan, record
    with Lease(plan.layout, record.run_id, files) as lease:
        progress = Progress(
            record,
            plan.layout,
            files,
            owner=lease.owner,
            every_s=job.compute.progress_s,
            beat=lambda facts: _measure(facts, lease),
        )

        def leave(reason: str) -> None:
            lease.release()
            _write_record(record, Stopped.exit_code, reason, plan.layout, files)
            progress.close()
            notifier.send(Stopped.exit_code, reason, quick=True)

        with signals.on_exit(leave) if signals is not None else nullcontext():
            # Whoever held the lease until now may have done some of it.
            plan = without_done(plan, files, retry, others)
            record.done_before = plan.rows - plan.todo
            with progress:
                _recorded(plan, record, files, lease, accepted, progress)
    return plan, record


def _recorded(plan: Plan, record: RunRecord, files: Files, lease: Lease, accepted: Baseline | None, progress: Progress) -> None:
    """Work, and say in the run record how it ended, however it did."""
    try:
        describe_recipe(plan, files)
        with RunCounters(plan.todo) as counters:
            _work_until_done(plan, record, files, lease, counters)
        if accepted is not None:
            record.drift = drift(accepted, plan.layout, files, plan.job.drift)
            _say_drift(record.drift)
        judge({"ok": record.ok, "review": record.review, "failed": record.failed}, plan.job.budget)
        _judge_index(plan, files)
    except PipelineError as error:
        _write_record(record, error.exit_code, str(error), plan.layout, files)
        raise
    except BaseException as error:
        _write_record(record, 1, type(error).__name__, plan.layout, files)
        raise
    else:
        _write_record(record, 0, None, plan.layout, files)
    finally:
        progress.close()


def _work_until_done(plan: Plan, record: RunRecord, files: Files, lease: Lease, counters: RunCounters) -> None:
    """Ray can lose rows of a block that it makes again after a machine was lost: they are found missing and done then."""
    for _ in range(PASSES):
        try:
            if plan.todo:
                _work(plan, record, files, lease, counters)
        except BaseException:
            # Without the lease the index is another run's to tidy; and nothing may hide why this one ended.
            if lease.lost is None:
                with suppress(StorageError):
                    _tidy_index(plan, files)
            raise
        lease.check()
        _tidy_index(plan, files)
        plan = only_lost(plan, record.run_id, files)
        if not plan.todo:
            return
        if plan.until is not None and time.time() >= plan.until:
            raise Stopped(f"the deadline came with {plan.todo} items still to do; the same command continues")
        log.warning(f"{plan.todo} items have no row yet", extra={"facts": {"missing": plan.todo}})


def _measure(facts: dict[str, Any], lease: Lease) -> None:
    """What the driver alone knows, for whoever gathers metrics."""
    for status in ("ok", "review"):
        RUN_ITEMS.set(facts[status], status=status, code="")
    for code, entry in facts["failures"].items():
        RUN_ITEMS.set(entry["count"], status="failed", code=code)
    LEFT.set(facts["left"])
    SPEED.set(facts["recent_items_per_s"] or 0.0)
    LEASE.set(lease.renewed_at)


def _say_drift(found: dict[str, Any]) -> None:
    """One line of the log, with the same event every night."""
    if found["drifted"]:
        log.warning(f"drift: {found['said']}; against {found['against']}", extra={"facts": {"drift": found}})
    else:
        log.info(f"no drift against {found['against']}", extra={"facts": {"drift": found}})


def _write_record(record: RunRecord, exit_code: int, error: str | None, layout: Layout, files: Files) -> None:
    record.close(exit_code, error)
    facts = {"exit_code": exit_code, "ok": record.ok, "review": record.review, "failed": record.failed, "error": error}
    log.info(f"the run is over: {record.outcome}", extra={"facts": facts | {"seconds": record.seconds}})
    try:
        record.write(layout, files)
    except WriteError as fault:
        # The index decides how the run ended; a record that can't be written must not hide that.
        log.error(f"the run record can't be written: {fault}")


def _check_reach(plan: Plan, cluster: Cluster) -> None:
    """A local path is another disk on every machine; a shared mount looks the same, so it is a warning and no refusal."""
    local = [where for where in (plan.layout.root, plan.manifest.uri) if "://" not in where]
    if len(cluster) > 1 and local:
        log.warning(f"{local[0]} is a local path; all {len(cluster)} machines of the cluster must mount it as a share")


def _tidy_index(plan: Plan, files: Files) -> None:
    """One row an item, and no more parts than are good for its readers."""
    superseded = reconcile(plan.layout, files)
    if superseded:
        log.info("rows of repeated tasks moved out of the index", extra={"facts": {"rows": superseded}})
    compact(plan.layout, files)


def _work(plan: Plan, record: RunRecord, files: Files, lease: Lease, counters: RunCounters) -> None:
    with ray_cluster(plan.job.compute) as there:
        cluster = await_gpus(plan.job.compute, there, lease.check)
        record.dashboard = dashboard_url()
        _check_reach(plan, cluster)
        pool = fit_pool(plan.job.compute, cluster, gpu_model=can_use_gpu(plan.job.recipe))
        record.actors, record.gpus_per_actor = pool.actors, pool.gpus
        facts = {"actors": pool.actors, "gpus_per_actor": pool.gpus, "machines": len(cluster)}
        log.info("model is loading", extra={"facts": facts})

        def check() -> None:
            counters.actors = actors_at_work(pool)
            record.count(counters)
            lease.check()

        try:
            with counters.working(actors_at_work(pool)):
                execute(plan, pool, record.run_id, files, counters, check)
        finally:
            record.count(counters)
    # Ray Data's account of every block is a ring of references, some 100 MiB of a million rows; the index's tidying comes next.
    gc.collect()
    release_arrow_memory()


def _judge_index(plan: Plan, files: Files) -> None:
    """The exit code comes from the index: what it has of this manifest. A rerun over old failures is no success either.

    Raises:
        ItemsMissing: it has fewer rows than the manifest has items.
        ErrorBudgetExceeded: too many of them failed.
    """
    counts = tally(plan.layout, files, plan.ids)
    missing = counts.pop("missing")
    if missing:
        raise ItemsMissing(
            f"{missing} of {plan.rows} items have no row in {plan.layout.index}; run the same command again, and see that all "
            "workers reach the same storage and the manifest isn't changed during the run"
        )
    judge({status: counts.get(status, 0) for status in ("ok", "review", "failed")}, plan.job.budget)


def describe_recipe(plan: Plan, files: Files) -> None:
    """Leave the recipe beside its results, once."""
    recipe = plan.job.recipe
    facts = {"name": recipe.name} | recipe.facts() | {"fingerprint": recipe.fingerprint()}
    files.create(plan.layout.recipe, json.dumps(facts, indent=2).encode())


def new_run_id() -> str:
    """Sorts by time, and is unique: ``20261122T101500Z-3fa9c1``."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
