"""Fixtures of the tests of models: golden weights, small networks, frames."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from pipeline.config.recipe import Recipe
from pipeline.models.mvanet.network import MVANet, Variant
from pipeline.models.mvanet.swin import Swin

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"


class Golden(NamedTuple):
    """A file of golden weights in a published layout, and how its publisher makes a frame."""

    layout: str
    path: Path
    resize: Image.Resampling
    numbers: str


LAYOUTS = {
    "ben2": (".pth", Image.Resampling.LANCZOS, "ben2_base.npz"),
    "mvanet": (".pth", Image.Resampling.BILINEAR, "mvanet_official.npz"),
    "finegrain": (".safetensors", Image.Resampling.BILINEAR, "finegrain.npz"),
}


@pytest.fixture(scope="session", params=list(LAYOUTS))
def golden(
    request: pytest.FixtureRequest, golden_weights: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Golden]:
    """Provide one layout's weights file after the other; each has 380 MB, so only one exists at a time."""
    suffix, resize, numbers = LAYOUTS[request.param]
    path = golden_weights.write_weights(request.param, tmp_path_factory.mktemp("golden") / f"weights{suffix}")
    yield Golden(request.param, path, resize, numbers)
    path.unlink()


@pytest.fixture
def recipe() -> Any:
    """Provide a factory: ``recipe("mvanet", frame_px=256)``."""

    def make(model: str, **settings: Any) -> Recipe:
        return Recipe(name="test", model=model, **({"weights": "file"} | settings))

    return make


@pytest.fixture
def small_network() -> Any:
    """Provide a factory of MVANets with all parts of the real one but few parameters, seeded, in eval mode."""

    def make(variant: Variant) -> MVANet:
        torch.manual_seed(0)
        backbone = Swin(dim=16, depths=(2, 2, 2, 1), heads=(1, 2, 4, 4), window=4)
        network = MVANet(dataclasses.replace(variant, dim=16), backbone)
        for name, parameter in network.named_parameters():
            if name.endswith("relative_position_bias_table"):
                torch.nn.init.normal_(parameter, std=0.5)
        for name, buffer in network.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
            elif name.endswith("running_mean"):
                buffer.normal_(std=0.2)
        return network.eval()

    return make


@pytest.fixture(scope="session")
def plain_forward() -> Any:
    """Provide the network as published: ``plain_forward(network, frames)``."""
    spec = importlib.util.spec_from_file_location("reference", Path(__file__).with_name("reference.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.plain_forward


@pytest.fixture
def photo_frames() -> Any:
    """Provide a factory of frames (N, S, S, 3) uint8: different crops of the golden photos."""

    def make(count: int, side: int, resample: Image.Resampling = Image.Resampling.BILINEAR) -> npt.NDArray[np.uint8]:
        frames = []
        for number in range(count):
            photo = Image.open(GOLDENS / f"photo{number % 2 + 1}.png").convert("RGB")
            crop = (0, 0, photo.width - 100 * number, photo.height - 50 * number)
            frames.append(np.asarray(photo.resize((side, side), resample, box=crop)))
        return np.stack(frames)

    return make
