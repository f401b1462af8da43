from __future__ import annotations

import csv
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pipeline.training.refiner
from pipeline.models.refiners.cgm import Cgm
from pipeline.training.material import Material
from pipeline.training.refiner import Crop, Settings, crop_of, loss_of, random_crops, train, validate
from pipeline.training.scenes import Kind, make_scene

SMALL = Settings(crop_px=64, crops_per_scene=4, batch=4, buffer=32, steps=4, warm_steps=2)


def scene_of(material: Material, kind: Kind) -> Crop:
    return crop_of(make_scene(material, 1, kind, "sharp", 4, side=192))


def test_the_input_holds_the_image_the_base_and_guided(material: Material) -> None:
    scene, crop = make_scene(material, 1, "fur", "sharp", 4, side=192), scene_of(material, "fur")
    assert crop.inputs.shape == (7, 192, 192)
    assert torch.equal((crop.inputs[:3] * 255).round().to(torch.uint8), torch.from_numpy(scene.image).permute(2, 0, 1))
    errors = validate(Cgm(), [crop])
    assert errors["cgm"] == pytest.approx(errors["guided"])  # an untrained network adds nothing to guided
    assert errors["guided"] < 0.8 * errors["bilinear"]


def test_crops_hold_some_of_the_unknown_region(material: Material) -> None:
    found = list(random_crops(scene_of(material, "fur"), SMALL, np.random.default_rng(0)))
    assert len(found) == SMALL.crops_per_scene
    for one in found:
        assert one.inputs.shape == (7, 64, 64)
        assert one.truth.shape == one.weight.shape == (64, 64)
        assert one.weight.sum() > 0


def test_the_loss_counts_only_the_unknown_region() -> None:
    truth, weight = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    weight[:, 2:4, 2:4] = 1
    off = torch.zeros(1, 8, 8)
    off[:, 6, 6] = 1
    assert loss_of(off, truth, weight, SMALL) == 0
    assert loss_of(off.flip(1, 2), truth, weight, SMALL) == 0
    assert loss_of(truth + 0.1, truth, weight, SMALL) > 0


def test_the_network_learns_one_batch(material: Material) -> None:
    torch.manual_seed(0)
    batch = list(random_crops(scene_of(material, "hair"), SMALL, np.random.default_rng(0)))
    inputs, truth, weight = (torch.stack(parts) for parts in zip(*batch, strict=True))
    network = Cgm((16, 16, 16))
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(120):
        loss = loss_of(inputs[:, 5] + network(inputs), truth, weight, SMALL)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert min(losses[-5:]) < 0.7 * losses[0]


def test_a_training_resumes(material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_buffer(data: Path, settings: Settings, producers: int, first: int) -> Any:
        crops = random_crops(scene_of(material, "fur"), settings, np.random.default_rng(first))
        rows = torch.stack([torch.cat([one.inputs, one.truth[None], one.weight[None]]) for one in crops])

        class Full:
            filled = len(rows)

            def batch(self, rng: np.random.Generator) -> torch.Tensor:
                return rows

        return Full()

    monkeypatch.setattr(pipeline.training.refiner, "CropBuffer", full_buffer)
    monkeypatch.setattr(Material, "read", classmethod(lambda *args, **kwargs: material))
    for name, only in {"KINDS": "fur", "FINISHES": "sharp", "FACTORS": 2}.items():  # one small scene to validate on
        monkeypatch.setattr(pipeline.training.refiner, name, (only,))
    monkeypatch.setattr(pipeline.training.refiner, "make_scene", partial(make_scene, side=192))
    for settings in (SMALL, replace(SMALL, steps=6)):
        train(tmp_path, tmp_path / "out", settings, hours=1, producers=0)
    rows = list(csv.DictReader((tmp_path / "out" / "curve.csv").open(encoding="utf-8")))
    assert [row["step"] for row in rows] == ["4", "6"]
    assert (tmp_path / "out" / "cgm.safetensors").stat().st_size < 3e6
