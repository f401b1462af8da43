"""A job from its settings to its run record."""

from __future__ import annotations

import json
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType

from pipeline.config import Job
from pipeline.errors import PipelineError, Stopped
from pipeline.flow import execute, judge, ray_cluster
from pipeline.log import Meter, log
from pipeline.preflight import Plan, fit_pool, make_plan
from pipeline.report import RunRecord
from pipeline.storage.files import Files
from pipeline.storage.index import reconcile, summarise


def run_job(job: Job, *, accept_licence: bool = False) -> tuple[Plan, RunRecord]:
    """Do what the job says; items that the index has already are left alone.

    Raises:
        PipelineError: the run was refused, stopped, or had too many failures; the run record (where the run had begun)
            says the same.
    """
    files = Files(job.storage)
    with stop_on_signals():
        plan = make_plan(job, files, accept_licence=accept_licence)
        job = plan.job
        record = RunRecord(
            new_run_id(), plan.manifest.uri, job.recipe.fingerprint(), job.recipe.name, plan.rows, plan.rows - plan.todo
        )
        facts = {"items": plan.rows, "done_before": record.done_before, "run_id": record.run_id, "output": plan.layout.folder}
        log.info(f"{plan.todo} of {plan.rows} items to do", extra={"facts": facts})
        try:
            if plan.todo:
                describe_recipe(plan, files)
                _work(plan, record, files)
            _judge_index(plan, files)
        except PipelineError as error:
            record.close(error.exit_code, str(error))
            record.write(plan.layout, files)
            raise
        except BaseException as error:
            record.close(1, f"{type(error).__name__}: {error}"[:2000])
            record.write(plan.layout, files)
            raise
        record.close(0)
        if plan.todo:
            record.write(plan.layout, files)
    return plan, record


def _work(plan: Plan, record: RunRecord, files: Files) -> None:
    with ray_cluster(plan.job.compute) as cluster, Meter(plan.todo) as meter:
        pool = fit_pool(plan.job.compute, cluster)
        facts = {"actors": pool.actors, "gpus_each": pool.gpus, "cluster_cpus": cluster.cpus}
        log.info("model is loading", extra={"facts": facts})
        try:
            record.failures = execute(plan, pool, record.run_id, files, meter)
        finally:
            record.ok, record.review, record.failed = (meter.counts[status] for status in ("ok", "review", "failed"))
            record.items_per_s = round(meter.items_per_s, 3)
    superseded = reconcile(plan.layout, files)
    if superseded:
        log.info("rows of repeated tasks moved out of the index", extra={"facts": {"rows": superseded}})


def _judge_index(plan: Plan, files: Files) -> None:
    """The exit code comes from the index: a rerun over old failures is no success either."""
    counts = summarise(plan.layout, files).counts
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
