"""Run a job from its settings to its run record."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from pipeline.config.job import Job
from pipeline.errors import ErrorBudgetExceeded, ItemsMissing, PipelineError, Stopped, WriteError
from pipeline.log import facts_in_every_line, log, waiting_for
from pipeline.manifest.id_set import IdSet
from pipeline.manifest.prompts import unused_names
from pipeline.manifest.snapshot import Snapshot
from pipeline.output.baseline import Baseline, baseline, drift
from pipeline.output.changes import changed as find_changed
from pipeline.output.index import tally
from pipeline.output.lease import Lease, new_run_id, run_id_after
from pipeline.output.progress import Progress
from pipeline.output.run_record import ROUND_MARK, RunRecord
from pipeline.run.budget import check_budget
from pipeline.run.callback import Callback, Reporter
from pipeline.run.gpus import is_small, runs_on_gpus
from pipeline.run.local import load_model
from pipeline.run.metrics import LEASE, LEFT, RUN_ITEMS, SPEED
from pipeline.run.notify import Notifier, When, notifying
from pipeline.run.passes import run_derivation, run_passes
from pipeline.run.preflight import Plan, check_model, make_plan, missing_items, without_done
from pipeline.run.prepare import is_settled, needs_derivation, prepare_output
from pipeline.run.signals import SignalHandler
from pipeline.run.worker_process import end_unused
from pipeline.storage.files import Files

INTERRUPTED = "stopped by Ctrl-C; run the same job again to continue"


@dataclass(frozen=True)
class _Run:
    """A run that holds the lease of its output."""

    plan: Plan
    record: RunRecord
    lease: Lease
    progress: Progress
    baseline: Baseline | None
    reporter: Reporter


def run_job(
    job: Job,
    *,
    signals: SignalHandler | None = None,
    callback: Callback | None = None,
    ready: Snapshot | None = None,
    notify: When = "always",
    run_id: str | None = None,
) -> tuple[Plan, RunRecord]:
    """Run a job. Items that are in the index already are skipped.

    Args:
        job: All settings. Its section ``run`` says which items are done again.
        signals: What SIGTERM and SIGINT do; None keeps the caller's handlers.
        callback: Called with the progress of the run; see ``run.callback``.
        ready: The run is a round of a watch (``run.watch``): leave out files that are not in this snapshot, repeat failed items
            whose row or image has changed, and leave no trace if there is nothing to do. None: an ordinary run.
        notify: The ends of the run that are told to ``notify.to``.
        run_id: The run's id, from ``lease.new_run_id``; None: a new one.

    Raises:
        PipelineError: The run was refused, stopped, or had too many failures. The run record says the same, if the run had
            begun.
    """
    run_id, files = run_id or new_run_id("" if ready is None else ROUND_MARK), Files(job.storage)
    with facts_in_every_line(run_id=run_id), notifying(job, run_id, files, notify) as notifier:
        deadline = None if job.budget.deadline_s is None else time.time() + job.budget.deadline_s
        gpu = may_use_gpus(job)
        plan = make_plan(job, files, gpu=gpu, ready=ready)
        run_id = run_id_after(run_id, plan.output)
        accepted = baseline(job.drift, job.output.uri, files)
        others = _find_changed(plan, ready)
        plan = dataclasses.replace(without_done(plan, job.run.retry, others), deadline=deadline)
        recipe = plan.job.recipe
        record = notifier.record = RunRecord(
            run_id,
            plan.manifest.uri,
            recipe.fingerprint(),
            recipe.name,
            plan.rows,
            plan.rows - plan.todo,
            columns=job.columns.model_dump(exclude_none=True),
        )
        reporter = Reporter(callback, record)
        if plan.todo and (said := unused_names(recipe.detector, plan.manifest.carried, job.columns)) is not None:
            log.log(logging.DEBUG if plan.manifest.is_watched else logging.WARNING, said)
        facts = {"items": plan.rows, "done_before": record.done_before, "output": plan.output.folder}
        log.log(_level(plan), f"{plan.todo} of {plan.rows} items to do", extra={"facts": facts})
        if ready is not None and not plan.todo and (not plan.rows or is_settled(plan)):
            return plan, record
        if not plan.todo and is_settled(plan):
            _check_index(plan)
            _write_record(plan, record, 0, None)
            reporter.finish()
            return plan, record
        reporter.update()
        if plan.todo:
            handled = _on_signal(signals, lambda reason: notifier.send(Stopped.exit_code, reason, quick=True))
            # In this order: a signal may come after the first line.
            what = "loading the model" if is_small(job.compute, plan.todo) else "checking the model"
            with handled, waiting_for(what, at_once=ready is None):
                load_or_check_model(plan, run_id)
        with Lease(plan.output, run_id) as lease:
            progress = Progress(
                record,
                plan.output,
                owner=lease.owner,
                every_s=job.compute.progress_s,
                beat=lambda facts: _set_gauges(facts, lease),
            )
            run = _Run(plan, record, lease, progress, accepted, reporter)
            with _on_signal(signals, lambda reason: _stop(run, notifier, reason)):
                with waiting_for("checking the output's index", at_once=False):
                    prepare_output(plan)
                # The run that held the lease until now may have done some of the items.
                plan = without_done(plan, job.run.retry, others)
                record.done_before = plan.rows - plan.todo
                with progress:
                    _run_and_record(dataclasses.replace(run, plan=plan))
        return plan, record


def _on_signal(signals: SignalHandler | None, cleanup: Callable[[str], None]) -> AbstractContextManager[None]:
    return nullcontext() if signals is None else signals.on_exit(cleanup)


def may_use_gpus(job: Job) -> bool:
    """Return whether a precision of the recipe depends on GPUs, and its models will run on them."""
    return job.recipe.has_open_precision and runs_on_gpus(job.compute, job.recipe)


def _find_changed(plan: Plan, ready: Snapshot | None) -> IdSet | None:
    """Return the changed items: of an ordinary run only if it asks for them, of a watch at least those that have failed."""
    changed = plan.job.run.changed
    if ready is None:
        return find_changed(plan.manifest, plan.output, plan.job) if changed else None
    return find_changed(plan.manifest, plan.output, plan.job, failed_only=not changed, ready=ready)


def _level(plan: Plan) -> int:
    """Return the level of the lines that every run logs. A watch has a line of its own about each round."""
    return logging.DEBUG if plan.manifest.is_watched else logging.INFO


def load_or_check_model(plan: Plan, run_id: str) -> None:
    """Refuse a model that cannot be used, before the output changes.

    Raises:
        ConfigError: Recipe and engine do not fit together.
        WeightsError: A file is not of the layout that the recipe names.
    """
    if is_small(plan.job.compute, plan.todo):
        check_model(plan, headers_only=True)  # in this process, before the worker imports what the model needs
        load_model(plan, run_id)
    else:
        end_unused()
        check_model(plan)


def _stop(run: _Run, notifier: Notifier, reason: str) -> None:
    """Leave a consistent output within a second when a signal ends the process.

    Its index is not compacted, which may take longer: the run did that while it went on, so few small parts are left.
    """
    run.lease.release()  # from now on, a compaction in progress neither writes nor deletes
    _write_record(run.plan, run.record, Stopped.exit_code, reason)
    run.progress.close()
    notifier.send(Stopped.exit_code, reason, quick=True)


def _run_and_record(run: _Run) -> None:
    """Do the work, and write the run record however it ends."""
    plan, record = run.plan, run.record
    try:
        if plan.todo or needs_derivation(plan):
            run_passes(plan, record, run.lease, run.reporter)
            run_derivation(plan, record, run.lease, run.reporter)
        if run.baseline is not None:
            record.drift = drift(run.baseline, plan.output, plan.job.drift)
            _log_drift(record.drift)
        check_budget({"ok": record.ok, "review": record.review, "failed": record.failed}, plan.job.budget)
        _check_index(plan)
    except PipelineError as error:
        _write_record(plan, record, error.exit_code, str(error))
        error.record = record
        raise
    except KeyboardInterrupt:  # a Python caller's Ctrl-C: the command has a SignalHandler
        _write_record(plan, record, Stopped.exit_code, INTERRUPTED)
        raise
    except BaseException as error:
        _write_record(plan, record, 1, type(error).__name__)
        raise
    else:
        _write_record(plan, record, 0, None)
    finally:
        run.progress.close()
        run.reporter.finish()


def _check_index(plan: Plan) -> None:
    """Check that every item of the manifest has a row, whatever runs wrote it.

    Raises:
        ItemsMissing: The index has fewer rows than the manifest has items.
        ErrorBudgetExceeded: All of them failed. The next round of a watch may have one that does not.
    """
    counts = tally(plan.output, plan.ids)
    if counts["missing"]:
        raise ItemsMissing(missing_items(counts["missing"], plan))
    if counts.get("failed") == plan.rows and not plan.manifest.is_watched:
        raise ErrorBudgetExceeded(f"all {plan.rows} items failed, so there is no result; see the reasons with matteline show")
    if counts.get("failed"):
        log.log(
            _level(plan), f"{counts['failed']} of {plan.rows} items have failed", extra={"facts": {"failed": counts["failed"]}}
        )


def _write_record(plan: Plan, record: RunRecord, exit_code: int, error: str | None) -> None:
    record.close(exit_code, error)
    facts = {"exit_code": exit_code, "ok": record.ok, "review": record.review, "failed": record.failed, "error": error}
    log.log(_level(plan), f"run finished: {record.outcome}", extra={"facts": facts | {"seconds": record.seconds}})
    try:
        record.write(plan.output)
    except WriteError as failure:
        # The index decides how the run ended. A record that cannot be written must not hide that.
        log.error(f"cannot write the run record: {failure}")


def _log_drift(found: dict[str, Any]) -> None:
    """Log one line about drift, with the same event in every run."""
    if found["drifted"]:
        log.warning(f"drift: {found['said']}; compared with {found['against']}", extra={"facts": {"drift": found}})
    else:
        log.info(f"no drift compared with {found['against']}", extra={"facts": {"drift": found}})


def _set_gauges(facts: dict[str, Any], lease: Lease) -> None:
    """Export what only the driver knows."""
    for status in ("ok", "review"):
        RUN_ITEMS.set(facts[status], status=status, code="")
    for code, entry in facts["failures"].items():
        RUN_ITEMS.set(entry["count"], status="failed", code=code)
    LEFT.set(facts["left"])
    SPEED.set(facts["recent_items_per_s"] or 0.0)
    LEASE.set(lease.renewed_at)
