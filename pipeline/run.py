"""A job from its settings to its run record."""

from __future__ import annotations

import json
import secrets
import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType

from pipeline.config import Job
from pipeline.errors import ItemsMissing, PipelineError, Stopped, WriteError
from pipeline.flow import execute, judge, ray_cluster
from pipeline.log import Meter, log
from pipeline.models.load import can_use_gpu
from pipeline.preflight import Cluster, Plan, fit_pool, make_plan, without_done
from pipeline.report import RunRecord
from pipeline.storage.digests import repeated
from pipeline.storage.files import Files
from pipeline.storage.index import reconcile, tally
from pipeline.storage.lease import Lease


def run_job(job: Job, *, accept_licence: bool = False, retry: Collection[str] = ()) -> tuple[Plan, RunRecord]:
    """Do what the job says; items that the index has already are left alone.

    Args:
        retry: error codes whose items are done again.

    Raises:
        PipelineError: the run was refused, stopped, or had too many failures; the run record (where the run had begun)
            says the same.
    """
    files = Files(job.storage)
    with stop_on_signals():
        plan = without_done(make_plan(job, files, accept_licence=accept_licence), files, retry)
        recipe = plan.job.recipe
        record = RunRecord(new_run_id(), plan.manifest.uri, recipe.fingerprint(), recipe.name, plan.rows, plan.rows - plan.todo)
        facts = {"items": plan.rows, "done_before": record.done_before, "run_id": record.run_id, "output": plan.layout.folder}
        log.info(f"{plan.todo} of {plan.rows} items to do", extra={"facts": facts})
        if plan.todo or len(repeated(plan.done)):
            with Lease(plan.layout, record.run_id, files) as lease:
                # Whoever held the lease until now may have done some of it.
                plan = without_done(plan, files, retry)
                record.done_before = plan.rows - plan.todo
                _recorded(plan, record, files, lease)
        else:
            _judge_index(plan, files)
    return plan, record


def _recorded(plan: Plan, record: RunRecord, files: Files, lease: Lease) -> None:
    """Work, and say in the run record how it ended, however it did."""
    try:
        describe_recipe(plan, files)
        try:
            if plan.todo:
                _work(plan, record, files, lease)
        finally:
            _one_row_an_item(plan, files)
        judge({"ok": record.ok, "review": record.review, "failed": record.failed}, plan.job.budget)
        _judge_index(plan, files)
    except PipelineError as error:
        record.close(error.exit_code, str(error))
        raise
    except BaseException as error:
        record.close(1, f"{type(error).__name__}: {error}"[:2000])
        raise
    else:
        record.close(0)
    finally:
        try:
            record.write(plan.layout, files)
        except WriteError as error:
            # The index decides how the run ended; a record that can't be written must not hide that.
            log.error(f"the run record can't be written: {error}")


def _check_reach(plan: Plan, cluster: Cluster) -> None:
    """A local path is another disk on every machine; a shared mount looks the same, so it is a warning and no refusal."""
    local = [where for where in (plan.layout.root, plan.manifest.uri) if "://" not in where]
    if len(cluster) > 1 and local:
        log.warning(f"{local[0]} is a local path; all {len(cluster)} machines of the cluster must mount it as a share")


def _one_row_an_item(plan: Plan, files: Files) -> None:
    superseded = reconcile(plan.layout, files)
    if superseded:
        log.info("rows of repeated tasks moved out of the index", extra={"facts": {"rows": superseded}})


def _work(plan: Plan, record: RunRecord, files: Files, lease: Lease) -> None:
    # Ray puts a handler of its own on SIGTERM when it starts; ours goes on top again.
    with ray_cluster(plan.job.compute) as cluster, stop_on_signals(), Meter(plan.todo) as meter:
        _check_reach(plan, cluster)
        pool = fit_pool(plan.job.compute, cluster, gpu_model=can_use_gpu(plan.job.recipe))
        facts = {"actors": pool.actors, "gpus_each": pool.gpus, "machines": len(cluster)}
        log.info("model is loading", extra={"facts": facts})
        try:
            record.failures = execute(plan, pool, record.run_id, files, meter, lease.check)
        finally:
            record.ok, record.review, record.failed = (meter.counts[status] for status in ("ok", "review", "failed"))
            record.items_per_s = round(meter.items_per_s, 3)


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
    recipe = plan.job.recipe.model_dump(mode="json", exclude={"weights"}) | {"fingerprint": plan.job.recipe.fingerprint()}
    files.create(plan.layout.recipe, json.dumps(recipe, indent=2).encode())


def new_run_id() -> str:
    """Sorts by time, and is unique: ``20261122T101500Z-3fa9c1``."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """SIGTERM and Ctrl-C end the run as ``Stopped``: resumable, exit 4."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped(f"stopped by {signal.Signals(number).name}; the same command continues")

    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
