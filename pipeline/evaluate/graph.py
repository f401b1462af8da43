"""The order of an evaluation: index rows with truths in, parts of metrics out, over Ray Data as the main job is."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import DataContext
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from pipeline.config.job import Compute
from pipeline.evaluate.measure import Measuring, measure_batch, write_rows
from pipeline.output.layout import Layout
from pipeline.run.graph import FOR_EVER, grown, unwrap_ray_error
from pipeline.run.ledger_actor import RayCrashLedger
from pipeline.run.preflight import COMMIT_CPUS
from pipeline.storage.files import Files

ROWS, PART_ROWS = 64, 1024
"""Items a task at most (of very many, more), and items a part."""

TASKS = 64
"""A small evaluation is cut into so many, that all cores have work to its end."""


def measure_rows(rows: pa.Table, measuring: Measuring, layout: Layout, files: Files, compute: Compute) -> list[str]:
    """Measure rows as ``truths.joined`` gives them; gives the parts that hold the metrics.

    Raises:
        PipelineError: what a worker refused.
    """
    warnings.filterwarnings("ignore", category=RayDeprecationWarning)
    # As in the main job: rows without pixels never fill the object store, so they would all wait in the driver.
    os.environ.setdefault("RAY_DATA_DOWNSTREAM_CAPACITY_OBJECT_STORE_BUDGET_UTIL_THRESHOLD", "0")
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = compute.no_progress_s
    context.raise_original_map_exception = True  # else our own errors lose their type on the way to the driver
    each = max(1, min(grown(ROWS, rows.num_rows), rows.num_rows // TASKS))
    blocks = [rows.slice(start, each) for start in range(0, rows.num_rows, each)]
    asked: Any = ray.data.from_arrow(blocks)  # Ray's types know no Arrow tables
    try:
        made = asked.map_batches(
            measure_batch,
            batch_format="pyarrow",
            batch_size=None,
            fn_kwargs={"measuring": replace(measuring, ledger=RayCrashLedger.start())},
            num_cpus=1,
            max_retries=FOR_EVER,
        ).map_batches(
            write_rows,
            batch_format="pyarrow",
            batch_size=PART_ROWS,
            fn_kwargs={"layout": layout, "files": files},
            num_cpus=COMMIT_CPUS,
            max_retries=FOR_EVER,
        )
        return sorted(row["part"] for row in made.iter_rows())
    except RayError as error:
        raise unwrap_ray_error(error) or error from error
