"""Run ``matteline bench``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from pipeline.bench.job import JobSpeed, measure_job
from pipeline.bench.machine import Machine, describe, matrix_rate, precisions
from pipeline.bench.model import MODES, ModelSpeed, measure_model
from pipeline.bench.peers import Comparison, compare_with_rembg
from pipeline.bench.photos import Photos, copy_photos, find_photos
from pipeline.bench.stages import StageTimes, measure_stages
from pipeline.bench.subject import Subject, open_subject
from pipeline.bench.transfers import Transfers, measure_transfers
from pipeline.concurrency import local_cpus
from pipeline.config.job import Storage, parse_overrides
from pipeline.config.sections import build
from pipeline.errors import ConfigError
from pipeline.log import log
from pipeline.storage.files import Files

SCHEMA = 2
"""Version of the JSON; raised when a name changes its meaning."""


RATE_S = 1.0
"""Seconds per data type of the matrix multiplications, and per stage and photo."""

MODEL_S = 10.0
"""Seconds per batch size of the model."""

JOB_S = 60.0
"""Seconds of the complete job."""

QUICKLY = 0.05
"""Share of these times in a quick measurement."""

MAX_BATCH_SIZE = {"cpu": 4, "cuda": 16}
"""The model is measured at the powers of two up to this number, and at the job's batch size."""

MIN_ITEMS, MAX_ITEMS = 24, 500
"""Items of the job."""

STAGE_PHOTOS, PEER_PHOTOS = 4, 100
"""Photos on which the stages are measured, and on which rembg is; a quick measurement has 1 and 12."""


@dataclass
class Bench:
    """Everything measured; its fields are those of ``matteline bench --json``."""

    machine: Machine
    photos: int
    schema: int = SCHEMA
    made_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    rates: dict[str, float] = field(default_factory=dict)
    """The machine's rate by precision, in GFLOP/s."""
    models: list[ModelSpeed] = field(default_factory=list)
    transfers: list[Transfers] = field(default_factory=list)
    stages: list[StageTimes] = field(default_factory=list)
    jobs: list[JobSpeed] = field(default_factory=list)
    peers: list[Comparison] = field(default_factory=list)


def run_bench(
    presets: Sequence[str],
    settings: Sequence[str],
    images: str,
    *,
    items: int | None = None,
    quick: bool = False,
    gpu: bool = False,
    accept_licence: bool = False,
) -> Bench:
    """Measure these presets one after the other, then rembg if it is on the PATH.

    Args:
        presets: Names or YAML files.
        settings: ``section.key=value`` pairs for all of them.
        images: A manifest or a folder of images.
        items: Items of a job; None for as many as take ``JOB_S``, within limits.
        quick: Measure roughly.
        gpu: Measure the models on this machine's GPU in every precision and mode, and the transfers, and nothing else.
        accept_licence: Use weights whose licence restricts commercial use.

    Raises:
        PipelineError: A setting, weights or images are unusable, or a job failed.
        ConfigError: ``gpu`` on a machine without one.
    """
    if gpu and not torch.cuda.is_available():
        raise ConfigError("PyTorch finds no CUDA GPU on this machine; run the command without --gpu to measure the CPU")
    files = Files(build(Storage, parse_overrides(settings).get("storage", {}), "--set"))
    photos = find_photos(images, files)
    bench = Bench(describe(), len(photos.uris))
    rembg = None if gpu else shutil.which("rembg")
    with tempfile.TemporaryDirectory(prefix="matteline-bench-") as name:
        folder = Path(name)
        for preset in presets:
            subject = open_subject(preset, settings, photos, folder / Path(preset).stem, accept_licence=accept_licence)
            for precision in precisions(subject.pool.device):
                if precision not in bench.rates:
                    log.info(f"measuring the machine's rate in {precision}")
                    rate = matrix_rate(
                        precision, device=subject.pool.device, threads=local_cpus(), for_s=RATE_S * (QUICKLY if quick else 1)
                    )
                    bench.rates[precision] = round(rate, 1)
            if gpu:
                _measure_on_gpu(bench, subject, quick)
            else:
                _measure_preset(bench, subject, photos, items, quick)
        if rembg:
            log.info("measuring rembg and matteline run")
            copies = copy_photos(photos, 12 if quick else PEER_PHOTOS, folder / "photos", files)
            bench.peers.append(compare_with_rembg(rembg, copies, folder / "peers"))
    return bench


def _measure_preset(bench: Bench, subject: Subject, photos: Photos, items: int | None, quick: bool) -> None:
    job, name, share = subject.job, subject.job.recipe.name, QUICKLY if quick else 1.0
    log.info(f"measuring {name}: the model alone")
    speeds = list(measure_model(subject, bench.rates, _batches(subject, quick), share * MODEL_S))
    bench.models += speeds
    log.info(f"measuring {name}: each stage alone")
    with tempfile.TemporaryDirectory(prefix="matteline-bench-") as folder:
        uris = photos.uris[: 1 if quick else STAGE_PHOTOS]
        bench.stages.append(measure_stages(job.recipe, uris, job.limits, job.storage, Path(folder), share * RATE_S))
    of_job = max((one for one in speeds if one.batch <= subject.batch), key=lambda one: one.batch)
    model_items_per_s = of_job.items_per_s * subject.pool.actors
    items = items or min(MAX_ITEMS, max(MIN_ITEMS, round(share * JOB_S * model_items_per_s)))
    log.info(f"measuring {name}: the whole job, {items} items")
    bench.jobs.append(measure_job(subject, photos, items, model_items_per_s))


def _measure_on_gpu(bench: Bench, subject: Subject, quick: bool) -> None:
    recipe, for_s = subject.job.recipe, (QUICKLY if quick else 0.2) * MODEL_S  # a call takes milliseconds
    modes = list(MODES) if recipe.model == "mvanet" else ["eager"]  # the others need a PyTorch network
    for precision in precisions("cuda") if recipe.model == "mvanet" else [recipe.precision]:
        log.info(f"measuring {recipe.name} in {precision}: the model alone ({', '.join(modes)}) and the transfers")
        changed = replace(subject, job=subject.job.with_recipe(recipe.model_copy(update={"precision": precision})))
        bench.models += measure_model(changed, bench.rates, _batches(changed, quick), for_s, modes)
        bench.transfers.append(measure_transfers(changed.load(), for_s))


def _batches(subject: Subject, quick: bool) -> list[int]:
    largest = 1 if quick else MAX_BATCH_SIZE[subject.pool.device]
    return sorted({2**power for power in range(largest.bit_length())} | {subject.batch})
