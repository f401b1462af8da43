"""Run the derivation of outputs and renditions for finished items: a graph without a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import ray.data

from pipeline.errors import ItemsMissing
from pipeline.log import log
from pipeline.output.run_record import RunRecord
from pipeline.run.context import StageContext
from pipeline.run.ledger_actor import RayCrashLedger
from pipeline.run.preflight import Plan
from pipeline.run.ray_data import RETRY_FOREVER, ray_data
from pipeline.run.stages.derive import LackingItems, derive_batch

ROWS_PER_TASK = 64
"""Items per task and per index part."""


def derive(plan: Plan, record: RunRecord, check: Callable[[], None]) -> None:
    """Make what finished items lack.

    Args:
        plan: The job. Its manifest is not read.
        record: Its ``derived`` counts the items.
        check: Called for every part. What it raises ends the run.

    Raises:
        ItemsMissing: Some items still lack something. The message names one.
    """
    context = StageContext(
        plan.job,
        plan.output,
        record.run_id,
        plan.manifest.allowlist,
        backgrounds=plan.resolved.backgrounds,
        replaces=plan.replaces,
        ledger=RayCrashLedger.start(),
    )
    failures: dict[str, str] = {}
    with ray_data(no_progress_s=plan.job.compute.no_progress_s):
        rows: Any = ray.data.read_datasource(LackingItems(plan.output, plan.job.recipe))
        dataset = rows.repartition(target_num_rows_per_block=ROWS_PER_TASK).map_batches(
            derive_batch,
            fn_kwargs={"context": context},
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=1,
            max_retries=RETRY_FOREVER,
        )
        for part in dataset.iter_rows():
            record.derived += part["done"]
            failures |= json.loads(part["failures"])
            check()
    log.info("derived outputs of finished items", extra={"facts": {"items": record.derived, "failed": len(failures)}})
    if failures:
        item_id, why = next(iter(failures.items()))
        raise ItemsMissing(
            f"{len(failures)} items still lack an output or rendition of the recipe, for instance {item_id}: {why}"
        )
