"""Fine-tuning of the large network, with golden weights on twenty photos: a minute or two, and gigabytes of memory."""

from __future__ import annotations

import csv
import resource
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from pipeline.models.mvanet.checkpoint import recognise
from pipeline.storage.files import Files
from pipeline.training.distributed import Processes
from pipeline.training.loop import WEIGHTS, Trainer, TrainOptions
from pipeline.training.photos import read_photos
from pipeline.training.recipe import TrainRecipe

pytestmark = [pytest.mark.study, pytest.mark.timeout(1800)]

RECIPE = {
    "name": "finetune",
    "variant": "mvanet",
    "start": "golden",
    "stages": [{"frame_px": 256, "batch": 2, "steps": 12}],
    "warm_steps": 2,
    "rate": 3e-4,
    "average": 0.8,
    "held_out_of": 5,
}


@pytest.mark.parametrize("how", [{"backbone_rate": 0}, {"lora_rank": 4, "backbone_rate": 1}], ids=["frozen", "lora"])
def test_the_loss_of_the_large_network_falls(
    how: dict[str, Any], golden_weights: ModuleType, disc_manifest: Any, tmp_path: Path
) -> None:
    start = golden_weights.write_weights("finegrain", tmp_path / "start.safetensors")
    recipe = TrainRecipe.model_validate(RECIPE | how)
    photos, held_out = read_photos(str(disc_manifest(20)), "truth_uri", Files(), recipe.held_out_of)
    options = TrainOptions(tmp_path, hours=1, validate_every=4, checkpoint_every_s=1e9, workers=0)
    trainer = Trainer(recipe, options, photos, held_out, None, start, Processes(0, 1, torch.device("cpu")))
    before = {key: value.clone() for key, value in trainer.network.weights().items() if key.startswith("backbone.")}
    trainer.run()
    with (tmp_path / "curve.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{how}: loss {losses}, peak memory of the process so far {peak_gib:.1f} GiB")
    assert losses[-1] < 0.8 * losses[0]
    changed = {key for key, value in trainer.network.weights().items() if key in before and not torch.equal(value, before[key])}
    assert bool(changed) == ("lora_rank" in how)
    assert all(key.endswith("weight") for key in changed)
    assert recognise(tmp_path / WEIGHTS) == "trained-mvanet"
