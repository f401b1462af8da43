"""The Ray Data graph that derives outputs and renditions for finished items. It has no model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ray.data

from pipeline.run.block_sizes import DERIVED_ROWS
from pipeline.run.context import context_of
from pipeline.run.ledger_actor import RayCrashLedger
from pipeline.run.pool import NO_MODEL
from pipeline.run.preflight import Plan
from pipeline.run.ray_data import RETRY_FOREVER, ray_data
from pipeline.run.sources import LackingItems
from pipeline.run.stages.derive import derive_batch


def derive(plan: Plan, run_id: str) -> Iterator[dict[str, Any]]:
    """Make what finished items lack. Yields one row per committed index part, as ``stages.derive`` returns it.

    Args:
        plan: The job. Its manifest is not read.
        run_id: Goes into every index row.

    Raises:
        PipelineError: What a worker refused.
    """
    context = context_of(plan, NO_MODEL, run_id, RayCrashLedger.start())
    with ray_data(no_progress_s=plan.job.compute.no_progress_s):
        rows: Any = ray.data.read_datasource(LackingItems(plan.output, plan.job.recipe))
        dataset = rows.repartition(target_num_rows_per_block=DERIVED_ROWS).map_batches(
            derive_batch,
            fn_kwargs={"context": context},
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=1,
            max_retries=RETRY_FOREVER,
        )
        yield from dataset.iter_rows()
