"""Several processes that train together, started by torch's launcher."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from pipeline.storage.files import Files
from pipeline.training.distributed import Processes
from pipeline.training.loop import Trainer, TrainOptions
from pipeline.training.photos import read_photos
from pipeline.training.recipe import load_training

RECIPE = {
    "variant": "mvanet-lite",
    "dim": 8,
    "stages": [{"frame_px": 128, "batch": 2, "steps": 4}],
    "warm_steps": 1,
    "decay_steps": 1,
    "held_out_of": 3,
    "precision": "fp32",
}


def test_two_processes_train_one_network_and_validate_each_photo_once(
    disc_manifest: Callable[[int], Path], tmp_path: Path
) -> None:
    manifest, settings, out = disc_manifest(9), tmp_path / "tiny.yaml", tmp_path / "out"
    settings.write_text(yaml.safe_dump(RECIPE))
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "jobs.main")
    command = ("train", "-m", str(manifest), "-t", str(settings), "-o", str(out), "--device", "cpu", "--threads", "1")
    here = ("--workers", "0")  # a worker process would start anew, and import PyTorch, for every validation
    done = subprocess.run([*launcher, *command, *here], check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    with (out / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"], "the second process writes nothing"
    row = rows[-1]
    recipe = load_training(str(settings))
    photos, held_out = read_photos(str(manifest), "truth_uri", Files(), recipe.held_out_of)
    assert len(held_out.items) > 1
    alone = Processes(0, 1, torch.device("cpu"))
    trainer = Trainer(recipe, TrainOptions(out, 1, workers=0), photos, held_out, None, None, alone)
    assert trainer.progress.step == 4
    validation, _ = trainer.validate()
    found = [float(row[name]) for name in ("mae", "iou", "dice")]
    assert found == pytest.approx([validation.mae, validation.iou, validation.dice], rel=1e-4)
