"""The Ray Data graph of an evaluation: from index rows with ground truth to parts of metrics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import ray.data

from pipeline.config.job import Compute
from pipeline.evaluate.measure import MeasureContext, measure_batch, write_rows
from pipeline.run.block_sizes import grow
from pipeline.run.ledger_actor import RayCrashLedger
from pipeline.run.pool import COMMIT_CPUS
from pipeline.run.ray_data import RETRY_FOREVER, ray_data

ROWS_PER_TASK, ROWS_PER_PART = 64, 1024
"""Items per task, at most (more in very large evaluations), and items per part."""

MIN_TASKS = 64
"""A small evaluation is cut into this many tasks, so that all cores have work until its end."""


def measure_rows(rows: pa.Table, context: MeasureContext, compute: Compute) -> Iterator[dict[str, Any]]:
    """Measure rows as ``ground_truth.join_index`` returns them. Yields the URI of each part that holds metrics.

    Raises:
        PipelineError: What a worker refused.
    """
    per_task = max(1, min(grow(ROWS_PER_TASK, rows.num_rows), rows.num_rows // MIN_TASKS))
    blocks = [rows.slice(start, per_task) for start in range(0, rows.num_rows, per_task)]
    # Rows without pixels need the same backpressure as in the main job.
    with ray_data(no_progress_s=compute.no_progress_s):
        dataset: Any = ray.data.from_arrow(blocks)  # Ray's types know no Arrow tables
        parts = dataset.map_batches(
            measure_batch,
            batch_format="pyarrow",
            batch_size=None,
            fn_kwargs={"context": replace(context, ledger=RayCrashLedger.start())},
            num_cpus=1,
            max_retries=RETRY_FOREVER,
        ).map_batches(
            write_rows,
            batch_format="pyarrow",
            batch_size=ROWS_PER_PART,
            fn_kwargs={"output": context.output},
            num_cpus=COMMIT_CPUS,
            max_retries=RETRY_FOREVER,
        )
        yield from parts.iter_rows()
