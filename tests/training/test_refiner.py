from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pipeline.training.refiner
from pipeline.models.refiners.cgm import Cgm
from pipeline.training.material import Material
from pipeline.training.refiner import Settings, crops, loss_of, measure, train, whole
from pipeline.training.scenes import make_scene

SMALL = Settings(crop_px=64, crops_per_scene=4, batch=4, store=32, steps=4, warm_steps=2)


def test_a_scene_is_seen_as_it_will_be(material: Material) -> None:
    """Bilinear, band and guided are in it."""
    scene = make_scene(material, 1, "fur", "sharp", 4, side=192)
    crop = whole(scene)
    assert crop.seen.shape == (7, 192, 192)
    assert torch.equal((crop.seen[:3] * 255).round().to(torch.uint8), torch.from_numpy(scene.image).permute(2, 0, 1))
    found = measure(Cgm(), [crop])
    assert found["cgm"] == pytest.approx(found["guided"])  # it starts as guided
    assert found["guided"] < 0.8 * found["bilinear"]


def test_crops_have_some_band(material: Material) -> None:
    crop = whole(make_scene(material, 1, "fur", "sharp", 4, side=192))
    found = list(crops(crop, SMALL, np.random.default_rng(0)))
    assert len(found) == SMALL.crops_per_scene
    for one in found:
        assert one.seen.shape == (7, 64, 64)
        assert one.truth.shape == one.weight.shape == (64, 64)
        assert one.weight.sum() > 0


def test_the_loss_counts_in_the_band_alone() -> None:
    truth, weight = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    weight[:, 2:4, 2:4] = 1
    off = torch.zeros(1, 8, 8)
    off[:, 6, 6] = 1
    assert loss_of(off, truth, weight, SMALL) == 0
    assert loss_of(off.flip(1, 2), truth, weight, SMALL) == 0
    assert loss_of(truth + 0.1, truth, weight, SMALL) > 0


def test_it_learns(material: Material) -> None:
    """A batch that it sees again and again is learned: what is left of guided's error shrinks."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    batch = list(crops(whole(make_scene(material, 1, "hair", "sharp", 4, side=192)), SMALL, rng))
    seen, truth, weight = (torch.stack(parts) for parts in zip(*batch, strict=True))
    network = Cgm((16, 16, 16))
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(120):
        loss = loss_of(seen[:, 5] + network(seen), truth, weight, SMALL)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert min(losses[-5:]) < 0.7 * losses[0]


def test_training_goes_on_where_it_stopped(material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def producer(data: Path, settings: Settings, producers: int, first: int) -> Any:
        rng = np.random.default_rng(first)
        made = list(crops(whole(make_scene(material, 1, "fur", "sharp", 4, side=192)), settings, rng))
        rows = torch.stack([torch.cat([one.seen, one.truth[None], one.weight[None]]) for one in made])

        class Ready:
            filled = len(rows)

            def batch(self, rng: np.random.Generator) -> torch.Tensor:
                return rows

        return Ready()

    monkeypatch.setattr(pipeline.training.refiner, "Store", producer)
    monkeypatch.setattr(Material, "read", classmethod(lambda *args, **kwargs: material))
    monkeypatch.setattr(pipeline.training.refiner, "KINDS", ("fur",))
    train(tmp_path, tmp_path / "out", SMALL, hours=1, producers=0)
    more = Settings(**{**SMALL.__dict__, "steps": 6})
    train(tmp_path, tmp_path / "out", more, hours=1, producers=0)
    rows = list(csv.DictReader((tmp_path / "out" / "curve.csv").open(encoding="utf-8")))
    assert [row["step"] for row in rows] == ["4", "6"]
    assert (tmp_path / "out" / "cgm.safetensors").stat().st_size < 3e6
