"""The whole job: how fast items come out once it is under way."""

from __future__ import annotations

import math
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
from pipeline.config.job import Limits
from pipeline.errors import ConfigError
from pipeline.imaging.decode import decode
from pipeline.output.index import read_index
from pipeline.output.layout import Layout
from pipeline.run.driver import run_job
from pipeline.storage.files import Files

LEFT_OUT = 0.15
"""Share of the items that come out first, and of those that come out last, which don't count: the stages fill and empty."""

SOME = 16
"""Images whose reading is measured."""

TOGETHER_S = 0.01
"""A process stamps a block's rows one right after the other; what is further apart is of two blocks."""


class Steady(NamedTuple):
    """So many items came out in so many seconds while the run was under way."""

    items: int
    seconds: float
    ahead_s: float
    """What reading and decoding these items takes, shared over the cores."""

    @property
    def items_per_s(self) -> float:
        """A lower bound: images are read ahead while the model loads, in a short run nearly all of them, in a long one a
        vanishing share. So the items are charged with their reading and decoding again, as if it had all been done before.
        """
        return self.items / (self.seconds + self.ahead_s)


@dataclass(frozen=True)
class Whole:
    """One run of a job."""

    preset: str
    items: int
    whole_s: float
    """From the call to the end, start-up and tidying included."""
    counted: int
    """Items of the steady state."""
    seconds: float
    """In which they came out."""
    items_per_s: float
    """In the steady state; see ``Steady``."""
    stage_s: dict[str, float]
    """What an item's stages took on average, beside everything else that ran."""
    store_mib_per_item: float | None
    """What the stages handed one another through Ray's object store."""


def run_whole(subject: Subject, photos: Photos, items: int) -> Whole:
    """Send so many items of these photos through the job, into its output, which must not have them yet.

    Raises:
        PipelineError: as ``run_job``.
        ConfigError: too few items for a steady state.
    """
    job = subject.job
    write_manifest(photos, items, Path(job.manifest))
    start = time.perf_counter()
    plan, record = run_job(job, accept_licence=True)  # as the subject was opened
    whole_s = time.perf_counter() - start
    found, stage_s = read_index_times(plan.layout, Files(job.storage), job.limits)
    return Whole(
        preset=job.recipe.name,
        items=plan.rows,
        whole_s=whole_s,
        counted=found.items,
        seconds=found.seconds,
        items_per_s=found.items_per_s,
        stage_s=stage_s,
        store_mib_per_item=record.store_mib_per_item,
    )


def read_index_times(layout: Layout, files: Files, limits: Limits | None = None) -> tuple[Steady, dict[str, float]]:
    """The steady state of the run that made this index, and the mean seconds of each stage.

    Raises:
        ConfigError: too few items for a steady state.
    """
    rows = pa.concat_tables(read_index(layout, files, ["finished_at", "worker", "seconds", "image_uri", "status"]))
    finished = rows["finished_at"].cast(pa.int64()).to_numpy() / 1e3
    stages: list[dict[str, Any]] = rows["seconds"].to_pylist()
    means = {stage: float(np.mean([one[stage] or 0.0 for one in stages])) for stage in stages[0]}
    workers = rows["worker"].dictionary_encode().combine_chunks().indices.to_numpy()
    read = [row["image_uri"] for row in rows.select(["image_uri", "status"]).to_pylist() if row["status"] != "failed"]
    ahead_s = reading_s(read[:: len(read) // SOME + 1], files, limits or Limits()) / local_cpus()
    return steady(finished, workers, ahead_s), means


def reading_s(uris: Sequence[str], files: Files, limits: Limits) -> float:
    """Processor seconds of reading and decoding one of these images, on average. What a run says of it includes waiting."""
    times = []
    for uri in (uris[0], *uris):  # the first one twice: once for the libraries
        start = time.thread_time()
        decode(files.read(uri), limits)
        times.append(time.thread_time() - start)
    return float(np.mean(times[1:]))


def steady(finished: npt.NDArray[np.float64], workers: npt.NDArray[np.integer[Any]], ahead_s: float = 0.0) -> Steady:
    """The items between the first ones and the last ones; from the end of a block to the end of a block.

    Args:
        finished: when each item was, in seconds.
        workers: by which process, a number for each.
        ahead_s: of an item.

    Raises:
        ConfigError: too few came out one after the other.
    """
    order = np.lexsort((finished, workers))
    stamps, by = finished[order], workers[order]
    last_of_block = np.append(np.flatnonzero((np.diff(stamps) > TOGETHER_S) | (np.diff(by) != 0)), len(stamps) - 1)
    sizes, ends = np.diff(last_of_block, prepend=-1), stamps[last_of_block]
    order = np.argsort(ends, kind="stable")
    done, ends = sizes[order].cumsum(), ends[order]
    first, last = math.ceil(LEFT_OUT * len(stamps)), math.floor((1 - LEFT_OUT) * len(stamps))
    (within,) = np.nonzero((done >= first) & (done <= last))
    if len(within) < 2 or ends[within[-1]] <= ends[within[0]]:
        raise ConfigError(f"{len(finished)} items are too few to see a steady state; raise their number")
    one, other = within[0], within[-1]
    return Steady(int(done[other] - done[one]), float(ends[other] - ends[one]), float(done[other] - done[one]) * ahead_s)
