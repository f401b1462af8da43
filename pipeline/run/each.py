"""Choose where the work of ``gc`` and ``verify`` is done: in this process, or on Ray for a large output."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from pipeline.concurrency import Each, in_this_process
from pipeline.config.job import Compute
from pipeline.output.output import Output
from pipeline.run.local import is_small

ROW_BYTES = 350
"""Bytes of an index row, about."""

READ_ITEMS, PASSED_ROWS = 20, 10_000
"""Items whose objects are read, and rows that are compared with a listing, in about the time of one item of a run."""

T = TypeVar("T")


@contextmanager
def workers(compute: Compute, outputs: Sequence[Output], sample: float) -> Iterator[Each]:
    """Return what does the work: this process if it takes no longer than a run of ``compute.local_items``, else Ray.

    Args:
        compute: Where Ray is, and from which size on it is used.
        outputs: The outputs.
        sample: Share of the items whose objects are read.

    Raises:
        StorageError: An index cannot be listed.
        ConfigError: No cluster answers at the address.
    """
    rows = sum(part.size for output in outputs for part in output.parts()) / ROW_BYTES
    if is_small(compute, int(rows * sample / READ_ITEMS + rows / PASSED_ROWS)):
        yield in_this_process
        return
    from pipeline.run.cluster import ray_cluster  # imports Ray

    with ray_cluster(compute):
        yield OnRay(compute)


class OnRay:
    """Do a step for each unit of work as a Ray Data job (``Each``)."""

    def __init__(self, compute: Compute) -> None:
        self.compute = compute

    def __call__(self, step: Callable[[T], Iterator[Any]], units: Sequence[T]) -> Iterator[Any]:
        """Yield the tables of all units.

        Raises:
            PipelineError: What a worker raised.
        """
        if not units:
            return
        import ray.data

        from pipeline.run.ray_data import RETRY_FOREVER, ray_data

        with ray_data(no_progress_s=self.compute.no_progress_s):
            rows: Any = ray.data.from_items([{"unit": pickle.dumps(unit)} for unit in units], override_num_blocks=len(units))
            tables = rows.map_batches(
                _do, batch_format="pyarrow", batch_size=1, fn_kwargs={"step": step}, num_cpus=1, max_retries=RETRY_FOREVER
            )
            yield from tables.iter_batches(batch_size=None, batch_format="pyarrow")


def _do(rows: Any, *, step: Callable[[Any], Iterator[Any]]) -> Iterator[Any]:
    for unit in rows["unit"].to_pylist():
        yield from step(pickle.loads(unit))
