"""A preset with the settings of a long run on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.bench.dummy_weights import write_dummy_weights
from pipeline.bench.photos import Photos, write_manifest
from pipeline.config.job import Job, load_job
from pipeline.log import log
from pipeline.models.check import can_use_gpu
from pipeline.run.cluster import ray_cluster, with_cpu_actors
from pipeline.run.gpus import runs_on_gpus
from pipeline.run.pool import Pool, fit_pool
from pipeline.run.preflight import make_plan
from pipeline.segmenter import Segmenter
from pipeline.storage.files import Files
from pipeline.storage.weights_cache import is_cached

LONG_RUN = 10**6
"""Items by which the number of actors is chosen: as for a long run."""


@dataclass(frozen=True)
class Subject:
    """A preset to measure."""

    job: Job
    """Its recipe has pinned weights and a resolved precision."""
    pool: Pool
    weights: str
    """``own`` or ``dummy``."""

    @property
    def threads(self) -> int:
        """CPU threads of one replica of the model."""
        return self.pool.threads(self.job.compute)

    @property
    def batch(self) -> int:
        """Images per forward pass."""
        return self.job.compute.batch_size_for(self.job.recipe.frame_px, self.pool.device)

    def load(self) -> Segmenter:
        """Load the model as an actor of the job does.

        Raises:
            WeightsError, ConfigError: As ``load_model``.
        """
        recipe, files, compute = self.job.recipe, Files(self.job.storage), self.job.compute
        return Segmenter.from_recipe(
            recipe, files, device=self.pool.device, threads=self.threads, batch=self.batch, engine=compute.engine
        )


def open_subject(
    preset: str, settings: Sequence[str], photos: Photos, folder: Path, *, accept_licence: bool = False
) -> Subject:
    """Resolve a preset as a job over these photos would on this machine.

    MVANet weights that are not on this machine are replaced by dummy weights of the same shapes; nothing is downloaded.
    Manifest, output and dummy weights go to ``folder``, which must not exist.

    Raises:
        PipelineError: A setting or the weights are unusable, or their licence was not accepted.
    """
    folder.mkdir(parents=True)
    manifest = write_manifest(photos, len(photos.uris), folder / "manifest.parquet")
    job = load_job(
        manifest=str(manifest),
        output=str(folder / "out"),
        preset=preset,
        overrides=[*settings, f"run.accept_licence={accept_licence}"],
    )
    storage = job.storage.model_copy(update={"allow_roots": (*job.storage.allow_roots, *photos.allowlist)})
    recipe, weights = job.recipe, "own"
    if recipe.model == "mvanet" and not is_cached(recipe.weights, recipe.weights_sha256, Files(storage)):
        log.warning(f"the weights of {recipe.name} are not on this machine; measuring with dummy weights of the same shapes")
        recipe = recipe.model_copy(update={"weights": str(write_dummy_weights(recipe.name, folder)), "weights_sha256": None})
        weights = "dummy"
    chosen = job.preset.model_copy(update={"recipe": recipe})
    job = job.model_copy(update={"storage": storage, "preset": chosen})
    job = make_plan(job, Files(storage), gpu=runs_on_gpus(job.compute, job.recipe)).job
    job = with_cpu_actors(job, LONG_RUN)
    with ray_cluster(job.compute) as cluster:
        return Subject(job, fit_pool(job.compute, cluster, gpu_model=can_use_gpu(job.recipe)), weights)
