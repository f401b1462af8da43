"""Our numbers against the published code's, through the whole door: weights file, recognition, loading, forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.models.checkpoints import recognise
from pipeline.models.load import MvanetModel, load_model

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"


@pytest.fixture(scope="session")
def loaded(golden: Any) -> dict[tuple[int, str], MvanetModel]:
    """Models of the current layout by frame and precision, so that each is loaded once."""
    return {}


def model_of(golden: Any, recipe: Any, loaded: dict[tuple[int, str], MvanetModel], side: int, precision: str) -> MvanetModel:
    if (side, precision) not in loaded:
        loaded.clear()
        loaded[side, precision] = load_model(recipe("mvanet", frame_px=side, precision=precision), golden.path, device="cpu")
    return loaded[side, precision]


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def test_a_batch_equals_its_images(golden: Any, recipe: Any, loaded: Any, photo_frames: Any, bars: Any) -> None:
    model = model_of(golden, recipe, loaded, 256, "fp32")
    frames = photo_frames(3, 256)
    alone = torch.cat([model(frame[None]) for frame in frames])
    assert alone.shape == (3, 256, 256) and alone.dtype == torch.float32
    assert (alone[0] - alone[1]).abs().mean() > 0.01
    bars.at_most(
        f"{golden.layout}: batch of 3 against single runs, 256 px, max logit", (model(frames) - alone).abs().max(), 1e-4
    )


def test_full_size(golden: Any, recipe: Any, loaded: Any, bars: Any) -> None:
    """Alpha within 1e-3 of BEN2's, mean 1e-5; logits within 5e-3 of the others', mean 1e-4. Features of every view as well."""
    assert recognise(golden.path) == golden.layout
    model = model_of(golden, recipe, loaded, 1024, "fp32")
    photo = Image.open(GOLDENS / "photo1.png").convert("RGB").resize((1024, 1024), golden.resize)
    features: list[torch.Tensor] = []
    hook = model.network.backbone.register_forward_hook(lambda _module, _inputs, outputs: features.extend(outputs))
    logits = model(np.asarray(photo)[None])[0, ::4, ::4].numpy()
    hook.remove()

    with np.load(GOLDENS / golden.numbers) as published:
        if "alpha" in published:
            difference = np.abs(sigmoid(logits) - published["alpha"])
            bars.at_most(f"{golden.layout}: alpha at 1024 px, fp32, max", difference.max(), 1e-3)
            bars.at_most(f"{golden.layout}: alpha at 1024 px, fp32, mean", difference.mean(), 1e-5)
            for level, feature in enumerate(features):
                np.testing.assert_allclose(feature.mean((2, 3)), published[f"feature{level}_mean"], atol=1e-5, rtol=0)
                np.testing.assert_allclose(feature.std((2, 3)), published[f"feature{level}_std"], atol=1e-5, rtol=0)
        else:
            difference = np.abs(logits - published["logits"])
            bars.at_most(f"{golden.layout}: logits at 1024 px, fp32, max", difference.max(), 5e-3)
            bars.at_most(f"{golden.layout}: logits at 1024 px, fp32, mean", difference.mean(), 1e-4)


@pytest.mark.parity
def test_full_size_in_bf16(golden: Any, recipe: Any, loaded: Any, bars: Any) -> None:
    model = model_of(golden, recipe, loaded, 1024, "bf16")
    photo = Image.open(GOLDENS / "photo1.png").convert("RGB").resize((1024, 1024), golden.resize)
    alpha = sigmoid(model(np.asarray(photo)[None])[0, ::4, ::4].numpy())
    with np.load(GOLDENS / golden.numbers) as published:
        wanted = published["alpha"] if "alpha" in published else sigmoid(published["logits"])
    bars.at_most(f"{golden.layout}: alpha at 1024 px, bf16, mean", np.abs(alpha - wanted).mean(), 0.015)


@pytest.mark.parity
def test_a_larger_batch_equals_its_images(golden: Any, recipe: Any, loaded: Any, photo_frames: Any, bars: Any) -> None:
    model = model_of(golden, recipe, loaded, 512, "fp32")
    frames = photo_frames(3, 512)
    alone = torch.cat([model(frame[None]) for frame in frames])
    bars.at_most(
        f"{golden.layout}: batch of 3 against single runs, 512 px, max logit", (model(frames) - alone).abs().max(), 1e-4
    )
