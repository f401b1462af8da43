"""One ``matteline bench``: all of it on this machine, in one run."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pipeline.bench.job import Whole, run_whole
from pipeline.bench.machine import Machine, Rate, describe, matrix_rate
from pipeline.bench.model import Alone, models_alone, powers_of_two
from pipeline.bench.peers import SideBySide, side_by_side
from pipeline.bench.photos import Photos, copy_photos, find_photos
from pipeline.bench.stages import Stages, stages_alone
from pipeline.bench.subject import Subject, open_subject
from pipeline.concurrency import local_cpus
from pipeline.config.job import Storage, parse_overrides
from pipeline.config.sections import build
from pipeline.log import log
from pipeline.models.engines.openvino import has_bf16
from pipeline.storage.files import Files

SCHEMA = 1
"""Of the JSON; raised when a name changes its meaning."""

PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16")}
"""In which a machine's rate is of interest, by device."""

MAX_BATCH_SIZE = {"cpu": 4, "cuda": 32}
"""Images a forward pass that are tried, memory allowing; and as many as the job takes."""


@dataclass(frozen=True)
class Effort:
    """How much time things get."""

    rate_s: float
    """Every candidate of the machine's rate, and every stage on every photo."""
    model_s: float
    """The model at one batch size."""
    batches: bool
    """At 1, 2, 4 … images a pass; or at one, and at as many as the job takes."""
    job_s: float
    """The job, by the model's own speed; between ``least`` and ``most`` items."""
    least: int
    most: int
    photos: int
    """That the stages are measured on."""
    peers: int
    """Photos for the comparison with peers."""


FULL = Effort(rate_s=1.0, model_s=10.0, batches=True, job_s=60.0, least=24, most=500, photos=4, peers=100)
QUICK = Effort(rate_s=0.1, model_s=0.5, batches=False, job_s=3.0, least=24, most=24, photos=1, peers=12)


@dataclass(frozen=True)
class Efficiency:
    """What the pipeline makes of its model."""

    whole: Whole
    actors: int
    """Of the model, at once."""
    model_items_per_s: float
    """Of all copies, alone, at the job's batch size."""
    efficiency: float
    """Whole job ÷ model alone, both in items a second."""


@dataclass
class Bench:
    """Everything measured; field by field the JSON of ``matteline bench --json``."""

    machine: Machine
    photos: int
    schema: int = SCHEMA
    made_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    rates: dict[str, Rate] = field(default_factory=dict)
    """By precision."""
    models: list[Alone] = field(default_factory=list)
    stages: list[Stages] = field(default_factory=list)
    jobs: list[Efficiency] = field(default_factory=list)
    peers: list[SideBySide] = field(default_factory=list)


def run_bench(
    presets: Sequence[str],
    settings: Sequence[str],
    images: str,
    *,
    items: int | None = None,
    effort: Effort = FULL,
    rembg: str | None = None,
    accept_licence: bool = False,
) -> Bench:
    """Measure these presets one after the other.

    Args:
        settings: ``section.key=value`` pairs, for all of them.
        images: a manifest or a folder of images.
        items: of a job; absent, as ``effort`` has it.
        rembg: the command of that name, if there is one.

    Raises:
        PipelineError: a setting, weights or images can't be used, or a job failed.
    """
    files = Files(build(Storage, parse_overrides(settings).get("storage", {}), "--set"))
    photos = find_photos(images, files)
    bench = Bench(describe(), len(photos.uris))
    with tempfile.TemporaryDirectory(prefix="matteline-bench-") as name:
        folder = Path(name)
        for preset in presets:
            place = folder / Path(preset).stem
            subject = open_subject(preset, settings, photos, place, accept_licence=accept_licence)
            _add_preset(bench, subject, photos, items, effort)
        if rembg:
            log.info("rembg beside ours")
            bench.peers.append(
                side_by_side(rembg, copy_photos(photos, effort.peers, folder / "photos", files), folder / "peers")
            )
    return bench


def _add_preset(bench: Bench, subject: Subject, photos: Photos, items: int | None, effort: Effort) -> None:
    job, name = subject.job, subject.job.recipe.name
    for precision in PRECISIONS[subject.pool.device]:
        if precision not in bench.rates and (precision != "bf16" or subject.pool.device == "cuda" or has_bf16()):
            log.info(f"the machine's rate in {precision}")
            rate = matrix_rate(precision, device=subject.pool.device, threads=local_cpus(), for_s=effort.rate_s)
            bench.rates[precision] = rate
    log.info(f"{name}: the model alone")
    most = MAX_BATCH_SIZE[subject.pool.device] if effort.batches else 1
    alone = list(models_alone(subject, bench.rates, sorted({*powers_of_two(most), subject.batch}), effort.model_s))
    bench.models += alone
    log.info(f"{name}: each stage alone")
    with tempfile.TemporaryDirectory(prefix="matteline-bench-") as folder:
        bench.stages.append(
            stages_alone(job.recipe, photos.uris[: effort.photos], job.limits, job.storage, Path(folder), effort.rate_s)
        )
    one = max((one for one in alone if one.batch <= subject.batch), key=lambda one: one.batch)
    model_items_per_s = one.items_per_s * subject.pool.actors
    items = items or min(effort.most, max(effort.least, round(effort.job_s * model_items_per_s)))
    log.info(f"{name}: the whole job, {items} items")
    whole = run_whole(subject, photos, items)
    bench.jobs.append(Efficiency(whole, subject.pool.actors, model_items_per_s, whole.items_per_s / model_items_per_s))
