"""Do a step for each unit of work as a Ray Data job."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray.data

from pipeline.config.job import Compute
from pipeline.run.ray_data import RETRY_FOREVER, ray_data

T = TypeVar("T")


class OnRay:
    """Implements ``pipeline.concurrency.Each``. One unit is one task."""

    def __init__(self, compute: Compute) -> None:
        self.compute = compute

    def __call__(self, step: Callable[[T], Iterator[Any]], units: Sequence[T]) -> Iterator[Any]:
        """Yield the tables of all units.

        Raises:
            PipelineError: A worker raised it.
        """
        if not units:
            return
        with ray_data(no_progress_s=self.compute.no_progress_s):
            rows: Any = ray.data.from_items([{"unit": pickle.dumps(unit)} for unit in units], override_num_blocks=len(units))
            tables = rows.map_batches(
                _do, batch_format="pyarrow", batch_size=1, fn_kwargs={"step": step}, num_cpus=1, max_retries=RETRY_FOREVER
            )
            yield from tables.iter_batches(batch_size=None, batch_format="pyarrow")


def _do(rows: Any, *, step: Callable[[Any], Iterator[Any]]) -> Iterator[Any]:
    for unit in rows["unit"].to_pylist():
        yield from step(pickle.loads(unit))
