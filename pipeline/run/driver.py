"""Run a job from its settings to its run record."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
from pipeline.output.run_record import ROUND_MARK, RunRecord, ending_of
from pipeline.run.budget import check_budget, deadline_of
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


@dataclass(frozen=True)
class _Run:
    """A run that has something to do."""

    plan: Plan
    record: RunRecord
    redone: IdSet | None
    """Items to do again; see ``changed_items``."""
    baseline: Baseline | None
    reporter: Reporter
    notifier: Notifier
    signals: SignalHandler | None


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
        deadline = deadline_of(job.budget)
        plan = make_plan(job, files, gpu=may_use_gpus(job), ready=ready)
        run_id = run_id_after(run_id, plan.output)
        accepted = baseline(job.drift, job.output.uri, files)
        redone = changed_items(plan, ready)
        plan = dataclasses.replace(without_done(plan, job.run.retry, redone), deadline=deadline)
        record = notifier.record = _new_record(plan, run_id)
        _say_what_is_to_do(plan, record)
        is_empty_round = ready is not None and not plan.rows
        is_over = is_empty_round or (not plan.todo and is_settled(plan))
        if is_over and ready is not None:
            return plan, record
        reporter = Reporter(callback, record)
        with _telling_the_end(reporter, record):
            if is_over:
                _check_index(plan)
                _write_record(plan, record, 0, None)
                return plan, record
            return _do(_Run(plan, record, redone, accepted, reporter, notifier, signals)), record


def _new_record(plan: Plan, run_id: str) -> RunRecord:
    job, done = plan.job, plan.rows - plan.todo
    record = RunRecord(run_id, plan.manifest.uri, job.recipe.fingerprint(), job.recipe.name, plan.rows, done)
    record.columns, record.allow_roots = job.columns.model_dump(exclude_none=True), list(job.storage.allow_roots)
    return record


def _say_what_is_to_do(plan: Plan, record: RunRecord) -> None:
    if plan.todo and (said := unused_names(plan.job.recipe.detector, plan.manifest.carried, plan.job.columns)) is not None:
        log.log(logging.DEBUG if plan.manifest.is_watched else logging.WARNING, said)
    facts = {"items": plan.rows, "done_before": record.done_before, "output": plan.output.folder}
    log.log(_level(plan), f"{plan.todo} of {plan.rows} items to do", extra={"facts": facts})


@contextmanager
def _telling_the_end(reporter: Reporter, record: RunRecord) -> Iterator[None]:
    """Tell the reporter how the run ended, whatever has ended it."""
    try:
        yield
    except BaseException as error:
        if record.outcome is None:  # it did not get as far as a record in its output
            record.close(*ending_of(error))
        raise
    finally:
        reporter.finish()


def _do(run: _Run) -> Plan:
    """Load the model, take the lease, and do the work. Returns the plan as it was when the lease was taken."""
    plan, notifier = run.plan, run.notifier
    run.reporter.update()
    if plan.todo:
        handled = _on_signal(run.signals, lambda reason: notifier.send(Stopped.exit_code, reason, quick=True))
        # In this order: a signal may come after the first line.
        what = "loading the model" if is_small(plan.job.compute, plan.todo) else "checking the model"
        with handled, waiting_for(what, at_once=not plan.manifest.is_watched):
            load_or_check_model(plan, run.record.run_id)
    with Lease(plan.output, run.record.run_id) as lease:
        progress = Progress(
            run.record,
            plan.output,
            owner=lease.owner,
            every_s=plan.job.compute.progress_s,
            beat=lambda facts: _set_gauges(facts, lease),
        )
        with _on_signal(run.signals, lambda reason: _stop(run, lease, progress, reason)):
            return _work_and_record(run, lease, progress)


def _on_signal(signals: SignalHandler | None, cleanup: Callable[[str], None]) -> AbstractContextManager[None]:
    return nullcontext() if signals is None else signals.on_exit(cleanup)


def may_use_gpus(job: Job) -> bool:
    """Return whether a precision of the recipe depends on GPUs, and its models will run on them."""
    return job.recipe.has_open_precision and runs_on_gpus(job.compute, job.recipe)


def changed_items(plan: Plan, ready: Snapshot | None = None) -> IdSet | None:
    """Return the changed items: of an ordinary run only if it asks for them, of a watch at least those that have failed.

    Raises:
        StorageError: As ``output.changes.changed``.
    """
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


def _stop(run: _Run, lease: Lease, progress: Progress, reason: str) -> None:
    """Leave a consistent output within a second when a signal ends the process.

    Its index is not compacted, which may take longer: the run did that while it went on, so few small parts are left.
    """
    lease.release()  # from now on, a compaction in progress neither writes nor deletes
    _write_record(run.plan, run.record, Stopped.exit_code, reason)
    progress.close()
    run.notifier.send(Stopped.exit_code, reason, quick=True)


def _work_and_record(run: _Run, lease: Lease, progress: Progress) -> Plan:
    """Do the work, and write the run record however it ends."""
    try:
        try:
            plan = _work(run, lease, progress)
        finally:
            if run.signals is not None:
                run.signals.wait_if_leaving()  # ``_stop`` has released the lease, and writes the record
    except BaseException as error:
        _write_record(run.plan, run.record, *ending_of(error))
        if isinstance(error, PipelineError):
            error.record = run.record
        raise
    else:
        _write_record(run.plan, run.record, 0, None)
        return plan
    finally:
        progress.close()


def _work(run: _Run, lease: Lease, progress: Progress) -> Plan:
    with waiting_for("checking the output's index", at_once=False):
        prepare_output(run.plan)
    # The run that held the lease until now may have done some of the items.
    plan, record = without_done(run.plan, run.plan.job.run.retry, run.redone), run.record
    record.done_before = plan.rows - plan.todo
    with progress:
        if plan.todo or needs_derivation(plan):
            run_passes(plan, record, lease, run.reporter)
            run_derivation(plan, record, lease, run.reporter)
        if run.baseline is not None:
            record.drift = drift(run.baseline, plan.output, plan.job.drift)
            _log_drift(record.drift)
        check_budget({"ok": record.ok, "review": record.review, "failed": record.failed}, plan.job.budget)
        _check_index(plan)
    return plan


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
