"""One training from its command to its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.errors import ConfigError
from pipeline.log import log
from pipeline.storage.files import Files
from pipeline.storage.weights_cache import fetch_weights
from pipeline.training.distributed import Processes
from pipeline.training.loop import Course, Training
from pipeline.training.material import Material
from pipeline.training.photos import read_photos
from pipeline.training.recipe import TrainRecipe

LICENCES = ("MIT",)
"""Of the objects in composites: what is shipped is trained on these alone."""


@dataclass(frozen=True)
class Asked:
    """The command line."""

    manifest: str
    truth: str
    output: Path
    composites: Path | None
    hours: float
    device: str
    threads: int | None
    workers: int


def train_all(asked: Asked, recipe: TrainRecipe, files: Files) -> None:
    """Train, or go on training.

    Raises:
        ConfigError: settings, manifest, material or device can't be used.
        WeightsError: the weights to start from, or a checkpoint.
    """
    if asked.threads:
        torch.set_num_threads(asked.threads)
    learned, held = read_photos(files.absolute(asked.manifest), asked.truth, files, recipe.held_out_of)
    material = Material.read(asked.composites, licences=LICENCES) if asked.composites else None
    start = fetch_weights(recipe.start, recipe.start_sha256, files)[0] if recipe.start else None
    processes = Processes.join(asked.device)
    try:
        for stage in recipe.stages:
            if stage.batch % processes.count:
                raise ConfigError(
                    f"a batch of {stage.batch} can't be shared by {processes.count} processes; change the recipe's stages"
                )
        asked.output.mkdir(parents=True, exist_ok=True)
        log.info(f"{len(learned.items)} photos to learn from, {len(held.items)} to measure on")
        course = Course(asked.output, asked.hours, workers=asked.workers)
        progress = Training(recipe, course, learned, held, material, start, processes).run()
        log.info(f"{progress.step} of {recipe.steps} steps in {progress.spent_s / 3600:.1f} hours: {asked.output}")
    finally:
        processes.leave()
