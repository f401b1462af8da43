"""Choose where the work of ``gc`` and ``verify`` is done: in this process, or on Ray for a large output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipeline.concurrency import Each, in_this_process
from pipeline.config.job import Compute
from pipeline.output.output import Output
from pipeline.run.gpus import is_small

ROW_BYTES = 350
"""Bytes of an index row, about."""

READ_ITEMS, PASSED_ROWS = 20, 10_000
"""Items whose objects are read, and rows that are compared with a listing, in about the time of one item of a run."""


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
    from pipeline.run.each_on_ray import OnRay  # before Ray starts, which silences the logs of Ray Data

    with ray_cluster(compute):
        yield OnRay(compute)
