"""An evaluation from its jobs to its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.job import Job
from pipeline.errors import ConfigError
from pipeline.evaluate.graph import measure_rows
from pipeline.evaluate.ground_truth import check_columns, joined, read_ground_truth
from pipeline.evaluate.measure import Measuring, read_rows
from pipeline.evaluate.summary import Summary, summarise
from pipeline.evaluate.tables import as_json, markdown
from pipeline.log import log
from pipeline.manifest.manifest import open_manifest
from pipeline.output.index import put, read_index
from pipeline.quality.metrics import check_library
from pipeline.run.cluster import ray_cluster
from pipeline.run.driver import run_job
from pipeline.run.preflight import Plan
from pipeline.run.signals import SignalHandler
from pipeline.storage.files import Files
from pipeline.storage.uris import join


@dataclass(frozen=True)
class Asked:
    """What is evaluated besides the models."""

    truth: str = "truth_uri"
    """The manifest's column of true masks."""
    tags: str | None = None
    """Its column of tags, if there is one."""
    hce: bool = False


def evaluate(
    jobs: Sequence[Job], asked: Asked, *, accept_licence: bool = False, signals: SignalHandler | None = None
) -> list[Summary]:
    """Do the jobs (of one manifest and output, each with a model of its own), then measure what they made.

    Writes per item ``<recipe folder>/evaluation/part-….parquet``, in the place of what an earlier evaluation left there, and
    ``evaluation.json`` and ``evaluation.md`` into the output. Rows, some 5 KB an item, are held in memory.

    Raises:
        PipelineError: a job was refused or stopped; the manifest has no such truth.
        StorageError: something can't be written.
    """
    check_library()
    files = Files(jobs[0].storage)
    check_columns(open_manifest(jobs[0].manifest, files), asked.truth, asked.tags)
    for job in jobs:
        if "mask" not in job.recipe.outputs:
            raise ConfigError(f"the recipe {job.recipe.name} makes no masks to evaluate; its outputs must have mask")
    plans = [run_job(job, accept_licence=accept_licence, signals=signals)[0] for job in jobs]
    names = Counter(plan.job.recipe.name for plan in plans)
    truths = read_ground_truth(plans[0].manifest, files, asked.truth, asked.tags)
    summaries = []
    with ray_cluster(jobs[0].compute):
        for plan in plans:
            recipe = plan.job.recipe
            rows = _measured(plan, truths, asked, files)
            name = recipe.name if names[recipe.name] == 1 else recipe.folder()
            summaries.append(summarise(name, recipe.folder(), rows, calibrated=_calibrated(plan, files)))
    root = plans[0].layout.root
    put(join(root, "evaluation.json"), as_json(summaries), files)
    put(join(root, "evaluation.md"), markdown(summaries).encode(), files)
    return summaries


def _measured(plan: Plan, truths: pa.Table, asked: Asked, files: Files) -> pa.Table:
    """One model's rows, measured and published."""
    job, layout = plan.job, plan.layout
    rows = joined(truths, layout, files)
    log.info(f"measuring {rows.num_rows} masks of {job.recipe.name}", extra={"facts": {"items": rows.num_rows}})
    measuring = Measuring(files, plan.manifest.allowlist, job.limits, job.compute.fetch_threads, asked.hce)
    parts = measure_rows(rows, measuring, layout, files, job.compute)
    for old in list(files.list(layout.evaluation, suffixes=(".parquet",))):
        if old.uri not in parts:
            files.delete(old.uri)
    return pa.concat_tables(read_rows(part, files) for part in parts).sort_by("item_id")


def _calibrated(plan: Plan, files: Files) -> bool:
    """Every quality says of itself that it is a probability."""
    parts = [part["quality_calibrated"] for part in read_index(plan.layout, files, ["quality_calibrated"])]
    return all(pc.all(part, min_count=0).as_py() is not False for part in parts)
