"""A preset as this machine would run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.bench.dummy_weights import write_standin
from pipeline.bench.photos import Photos, write_manifest
from pipeline.concurrency import local_cpus
from pipeline.config.job import Job, load_job
from pipeline.log import log
from pipeline.models.load import can_use_gpu
from pipeline.run.cluster import ray_cluster, will_use_gpus
from pipeline.run.graph import with_actors
from pipeline.run.preflight import Pool, fit_pool, make_plan
from pipeline.storage.files import Files
from pipeline.storage.weights_cache import at_hand

LONG_RUN = 10**6
"""A job here would have so many items: what only a long run pays for is worth it."""


@dataclass(frozen=True)
class Subject:
    """A preset as a job here would run it."""

    job: Job
    """Its recipe is pinned and settled."""
    pool: Pool
    weights: str
    """``own`` or ``stand-in``."""

    @property
    def threads(self) -> int:
        """Of one copy of the model."""
        return self.job.compute.threads_per_actor or max(1, local_cpus() // self.pool.actors_per_node)

    @property
    def batch(self) -> int:
        return self.job.compute.batch_size_for(self.job.recipe.frame_px, self.pool.device)


def open_subject(
    preset: str, settings: Sequence[str], photos: Photos, folder: Path, *, accept_licence: bool = False
) -> Subject:
    """A job over these photos, and the way this machine would run it.

    Args:
        folder: for its manifest, its output and stand-in weights.

    Raises:
        PipelineError: a setting or weights can't be used, or their licence wasn't accepted.
    """
    folder.mkdir(parents=True)
    manifest = write_manifest(photos, len(photos.uris), folder / "manifest.parquet")
    job = load_job(manifest=str(manifest), output=str(folder / "out"), preset=preset, overrides=settings)
    storage = job.storage.model_copy(update={"allow_roots": (*job.storage.allow_roots, *photos.allowlist)})
    recipe, weights = job.recipe, "own"
    if recipe.model == "mvanet" and not at_hand(recipe.weights, recipe.weights_sha256, Files(storage)):
        log.warning(f"the weights of {recipe.name} aren't on this machine; stand-ins of the same shapes are measured")
        recipe = recipe.model_copy(update={"weights": str(write_standin(recipe.name, folder)), "weights_sha256": None})
        weights = "stand-in"
    chosen = job.preset.model_copy(update={"recipe": recipe})
    job = job.model_copy(update={"storage": storage, "preset": chosen})
    job = make_plan(job, Files(storage), accept_licence=accept_licence, gpu=will_use_gpus(job.compute)).job
    job = with_actors(job, LONG_RUN)
    with ray_cluster(job.compute) as cluster:
        return Subject(job, fit_pool(job.compute, cluster, gpu_model=can_use_gpu(job.recipe)), weights)
