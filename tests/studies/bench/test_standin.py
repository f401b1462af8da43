"""Stand-in weights: of the right shapes, sane, and with masks that look like masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.bench.dummy_weights import LAYOUT_OF, write_standin
from pipeline.bench.model import flop_per_item
from pipeline.config.presets import load_preset, preset_names
from pipeline.models.load import load_model
from pipeline.models.mvanet.checkpoint import LAYOUTS, recognise
from pipeline.paths import EXAMPLES


def test_they_cut_out_what_is_bright(tmp_path: Path) -> None:
    path = write_standin("finegrain-box", tmp_path)
    assert recognise(path) == LAYOUT_OF["finegrain-box"]
    recipe = load_preset("finegrain-box", {"weights": str(path), "frame_px": 256, "precision": "fp32"}).recipe
    model = load_model(recipe, path, device="cpu", threads=2, engine="torch")
    photo = np.asarray(Image.open(EXAMPLES / "astronaut.jpg").convert("RGB").resize((256, 256)))
    alpha = model(photo[None])[0].sigmoid().numpy()
    assert np.isfinite(alpha).all()
    soft = ((alpha > 1 / 255) & (alpha < 254 / 255)).mean()
    assert 0.05 < (alpha > 0.5).mean() < 0.6 and 0.02 < soft < 0.5
    bright = photo.mean(-1)
    assert bright[alpha > 0.5].mean() > 1.5 * bright[alpha < 0.5].mean()


def test_every_mvanet_preset_without_bundled_weights_has_its_layout() -> None:
    recipes = {name: load_preset(name).recipe for name in preset_names()}
    wanting = {name for name, recipe in recipes.items() if recipe.model == "mvanet" and not Path(recipe.weights).is_file()}
    assert set(LAYOUT_OF) == wanting
    assert set(LAYOUT_OF.values()) == {layout.name for layout in LAYOUTS}


def test_operations_are_counted() -> None:
    """1,936 GFLOP when the network was first counted; rewrites may only take away from it. A batch norm or two don't count."""
    assert 0.8e12 < flop_per_item(1024) < 2.0e12
    assert flop_per_item(512) < flop_per_item(1024) / 3.5
    assert torch.get_default_device() == torch.device("cpu")
