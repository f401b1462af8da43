"""Run an evaluation from its jobs to its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.job import Compute, Destination, Job
from pipeline.errors import ConfigError
from pipeline.evaluate.ground_truth import join_index, read_ground_truth
from pipeline.evaluate.measure import MeasureContext, MeasureWork, read_rows
from pipeline.evaluate.summary import Summary, differences, summarise
from pipeline.evaluate.tables import as_json, markdown
from pipeline.log import log
from pipeline.manifest.ground_truth import check_truth
from pipeline.manifest.manifest import open_manifest
from pipeline.output.index import read_index
from pipeline.quality.metrics import METRICS, check_library
from pipeline.run.driver import run_job
from pipeline.run.gpus import is_small
from pipeline.run.local import run_in_worker
from pipeline.run.preflight import Plan
from pipeline.run.signals import SignalHandler
from pipeline.storage.files import Files
from pipeline.storage.uris import join

PAIRED = ["item_id", "error_code", *(metric.name for metric in METRICS)]
"""Columns of the first model that the others are compared with."""

ROWS_PER_BLOCK = 16
"""Items per block, and per part, of an evaluation in one process."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of an evaluation besides the jobs."""

    truth: str = "truth_uri"
    """Manifest column of ground truth."""
    tags: str | None = None
    """Manifest column of tags; None for none."""
    hce: bool = False
    """True to compute human correction efforts, which is slow."""


def evaluate(jobs: Sequence[Job], options: EvaluateOptions, *, signals: SignalHandler | None = None) -> list[Summary]:
    """Run jobs that share a manifest and an output, one per model, and measure their masks.

    Each model gets an output of its own, ``<output>/<name of the recipe>``, with its metrics in place of those of an earlier
    evaluation. ``evaluation.json`` and ``evaluation.md`` are written into ``<output>``. All rows, 5 KB per item, are held in
    memory.

    Raises:
        PipelineError: A job was refused or stopped, or the manifest has no such column.
        StorageError: Something cannot be written.
    """
    check_library()
    files = Files(jobs[0].storage)
    check_truth(open_manifest(jobs[0].manifest, files, chosen=jobs[0].columns), options.truth, options.tags)
    for job in jobs:
        if "mask" not in job.recipe.outputs:
            raise ConfigError(f"the recipe {job.recipe.name} writes no masks to evaluate; add mask to recipe.outputs")
    root = files.absolute(jobs[0].output.uri)
    names = _model_names(jobs)
    destinations = [Destination(uri=join(root, name), name=job.output.name) for job, name in zip(jobs, names, strict=True)]
    own = [job.model_copy(update={"output": one}) for job, one in zip(jobs, destinations, strict=True)]
    plans = [run_job(job, signals=signals)[0] for job in own]
    truth = read_ground_truth(plans[0].manifest, files, options.truth, options.tags)
    summaries: list[Summary] = []
    first: pa.Table | None = None
    with _cluster(jobs[0].compute, plans[0].rows):
        for name, plan in zip(names, plans, strict=True):
            rows = _measure(plan, truth, options)
            summary = summarise(name, plan.job.recipe.label(), rows, calibrated=_is_calibrated(plan))
            if first is None:
                first = rows.select(PAIRED)
            else:
                difference, by_tag = differences(rows, first)
                summary = replace(summary, difference=difference, tag_differences=by_tag)
            summaries.append(summary)
    output = plans[0].output
    output.write(join(root, "evaluation.json"), as_json(summaries))
    output.write(join(root, "evaluation.md"), markdown(summaries).encode())
    return summaries


def _model_names(jobs: Sequence[Job]) -> list[str]:
    """Return the names of the jobs' recipes; one that occurs again gets a number: ``u2netp``, ``u2netp-2``."""
    seen: Counter[str] = Counter()
    names = []
    for job in jobs:
        seen[job.recipe.name] += 1
        names.append(job.recipe.name + (f"-{seen[job.recipe.name]}" if seen[job.recipe.name] > 1 else ""))
    return names


def _measure(plan: Plan, truth: pa.Table, options: EvaluateOptions) -> pa.Table:
    """Measure one model's masks, write the rows, and delete those of an earlier evaluation."""
    job, output = plan.job, plan.output
    rows = join_index(truth, output)
    log.info(f"measuring {rows.num_rows} masks of {job.recipe.name}", extra={"facts": {"items": rows.num_rows}})
    context = MeasureContext(output, plan.manifest.allowlist, job.limits, job.compute.fetch_threads, options.hce)
    parts = {part["part"] for part in _measure_rows(rows, context, job.compute)}
    for old in list(output.files.list(output.layout.evaluation, suffixes=(".parquet",))):
        if old.uri not in parts:
            output.files.delete(old.uri)
    return pa.concat_tables(read_rows(part, output.files) for part in sorted(parts)).sort_by("item_id")


def _cluster(compute: Compute, items: int) -> AbstractContextManager[Any]:
    """Return the cluster that measures all models, so that Ray starts once; nothing for a small evaluation."""
    if is_small(compute, items):
        return nullcontext()
    from pipeline.run.cluster import ray_cluster  # imports Ray

    return ray_cluster(compute)


def _measure_rows(rows: pa.Table, context: MeasureContext, compute: Compute) -> Iterator[dict[str, Any]]:
    """Measure in one process or on Ray, as a run of so many items would work."""
    if is_small(compute, rows.num_rows):
        blocks = (rows.slice(start, ROWS_PER_BLOCK) for start in range(0, rows.num_rows, ROWS_PER_BLOCK))
        yield from run_in_worker(MeasureWork(context), blocks, compute.no_progress_s)
        return
    from pipeline.evaluate.graph import measure_rows  # imports Ray

    with _cluster(compute, rows.num_rows):
        yield from measure_rows(rows, context, compute)


def _is_calibrated(plan: Plan) -> bool:
    """Return whether all quality scores are calibrated probabilities."""
    parts = [part["quality_calibrated"] for part in read_index(plan.output, ["quality_calibrated"])]
    return all(pc.all(part, min_count=0).as_py() is not False for part in parts)
