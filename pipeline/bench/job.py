"""The speed of a whole job in its steady state."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.bench.photos import Photos, write_manifest
from pipeline.bench.subject import Subject
from pipeline.concurrency import local_cpus
from pipeline.config.job import Destination, Limits
from pipeline.errors import ConfigError
from pipeline.imaging.decode import decode
from pipeline.output.index import read_index
from pipeline.output.output import Output
from pipeline.run.driver import run_job
from pipeline.storage.files import Files

LEFT_OUT = 0.15
"""Share of the items at the start, and at the end, that do not count: the stages fill and empty."""

SAMPLED = 16
"""Images whose reading is timed."""

SAME_BLOCK_S = 0.01
"""A process stamps a block's rows within this time; stamps further apart belong to two blocks."""


class Steady(NamedTuple):
    """Items that came out in the steady state, and the seconds between the first and the last of them."""

    items: int
    seconds: float
    ahead_s: float
    """Seconds of reading and decoding these items, divided by the number of cores."""

    @property
    def items_per_s(self) -> float:
        """A lower bound of the speed.

        Images are read ahead while the model loads: nearly all of them in a short run, a vanishing share in a long one. So
        reading and decoding of every counted item is added to the time, as if all of it had been done before.
        """
        return self.items / (self.seconds + self.ahead_s)


@dataclass(frozen=True)
class JobSpeed:
    """The speed of one job."""

    preset: str
    items: int
    total_s: float
    """Seconds from the call to the end, with start-up and cleanup."""
    counted: int
    """Items of the steady state."""
    items_per_s: float
    """In the steady state; see ``Steady``."""
    store_mib_per_item: float | None
    """MiB that the stages passed through Ray's object store."""
    actors: int
    model_items_per_s: float
    """Speed of the model alone on all actors together, at the job's batch size."""
    efficiency: float
    """``items_per_s`` ÷ ``model_items_per_s``."""


def measure_job(subject: Subject, photos: Photos, items: int, model_items_per_s: float) -> JobSpeed:
    """Run a job over ``items`` rows into a temporary output beside the subject's own.

    Raises:
        PipelineError: As ``run_job``.
        ConfigError: The job has too few items for a steady state.
    """
    with tempfile.TemporaryDirectory(dir=Path(subject.job.output.uri).parent) as output:
        job = subject.job.model_copy(update={"output": Destination(uri=f"{output}/out")})
        write_manifest(photos, items, Path(job.manifest))
        start = time.perf_counter()
        plan, record = run_job(job)
        total_s = time.perf_counter() - start
        counted = read_steady(plan.output, job.limits)
    return JobSpeed(
        preset=job.recipe.name,
        items=plan.rows,
        total_s=total_s,
        counted=counted.items,
        items_per_s=counted.items_per_s,
        store_mib_per_item=record.store_mib_per_item,
        actors=subject.pool.actors,
        model_items_per_s=model_items_per_s,
        efficiency=counted.items_per_s / model_items_per_s,
    )


def read_steady(output: Output, limits: Limits | None = None) -> Steady:
    """Read the steady state of a run from its index.

    Raises:
        ConfigError: The index has too few items for a steady state.
    """
    rows = pa.concat_tables(read_index(output, ["finished_at", "worker", "image_uri", "status"]))
    finished = rows["finished_at"].cast(pa.int64()).to_numpy() / 1e3
    workers = rows["worker"].dictionary_encode().combine_chunks().indices.to_numpy()
    uris = [row["image_uri"] for row in rows.select(["image_uri", "status"]).to_pylist() if row["status"] != "failed"]
    ahead_s = reading_s(uris[:: len(uris) // SAMPLED + 1], output.files, limits or Limits()) / local_cpus()
    return steady(finished, workers, ahead_s)


def reading_s(uris: Sequence[str], files: Files, limits: Limits) -> float:
    """Return the mean processor seconds of reading and decoding an image. The index's own times include waiting."""
    times = []
    for uri in (uris[0], *uris):  # the first one twice: the first time loads the libraries
        start = time.thread_time()
        decode(files.read(uri), limits)
        times.append(time.thread_time() - start)
    return float(np.mean(times[1:]))


def steady(finished: npt.NDArray[np.float64], workers: npt.NDArray[np.integer[Any]], ahead_s: float = 0.0) -> Steady:
    """Count the items and seconds without the first and last ``LEFT_OUT`` of the items, from one block's end to another's.

    Args:
        finished: Time at which each item was finished, in seconds.
        workers: Process that finished each item, as a number.
        ahead_s: Seconds of reading and decoding per item, divided by the number of cores.

    Raises:
        ConfigError: There are too few items.
    """
    order = np.lexsort((finished, workers))
    stamps, by = finished[order], workers[order]
    last_of_block = np.append(np.flatnonzero((np.diff(stamps) > SAME_BLOCK_S) | (np.diff(by) != 0)), len(stamps) - 1)
    sizes, ends = np.diff(last_of_block, prepend=-1), stamps[last_of_block]
    order = np.argsort(ends, kind="stable")
    done, ends = sizes[order].cumsum(), ends[order]
    first, last = math.ceil(LEFT_OUT * len(stamps)), math.floor((1 - LEFT_OUT) * len(stamps))
    (within,) = np.nonzero((done >= first) & (done <= last))
    if len(within) < 2 or ends[within[-1]] <= ends[within[0]]:
        raise ConfigError(f"{len(finished)} items are too few for a steady state; give more with --items")
    start, end = within[0], within[-1]
    items = int(done[end] - done[start])
    return Steady(items, float(ends[end] - ends[start]), items * ahead_s)
