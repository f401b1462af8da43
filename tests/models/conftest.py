"""Golden weights and small networks for the tests of models."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from pipeline.config.recipe import Recipe
from pipeline.models.mvanet.network import MVANet, Variant
from pipeline.models.mvanet.swin import Swin
from pipeline.models.refiners.refine_tiles import Refinement, Refiner, View
from pipeline.models.refiners.unknown_region import find_unknown
from pipeline.types import Alpha, Region

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"


class Golden(NamedTuple):
    """A published layout's stand-in weights on disk, and how its publisher makes a frame."""

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
    """One layout's weights file after the other; 380 MB each, so only one exists at a time."""
    suffix, resize, numbers = LAYOUTS[request.param]
    path = golden_weights.write_weights(request.param, tmp_path_factory.mktemp("golden") / f"weights{suffix}")
    yield Golden(request.param, path, resize, numbers)
    path.unlink()


@pytest.fixture
def recipe() -> Any:
    """A factory: ``recipe("mvanet", frame_px=256)``."""

    def make(model: str, **settings: Any) -> Recipe:
        return Recipe(name="test", model=model, **({"weights": "file"} | settings))

    return make


@pytest.fixture
def small_network() -> Any:
    """A factory of MVANets with every part of the real one but few numbers, seeded, in eval mode."""

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
    """The network in its plain form: ``plain_forward(network, frames)``."""
    spec = importlib.util.spec_from_file_location("plain", Path(__file__).with_name("plain.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.plain_forward


@pytest.fixture
def photo_frames() -> Any:
    """A factory of frames (N, S, S, 3) uint8: different crops of the golden photos."""

    def make(count: int, side: int, resample: Image.Resampling = Image.Resampling.BILINEAR) -> npt.NDArray[np.uint8]:
        frames = []
        for number in range(count):
            photo = Image.open(GOLDENS / f"photo{number % 2 + 1}.png").convert("RGB")
            crop = (0, 0, photo.width - 100 * number, photo.height - 50 * number)
            frames.append(np.asarray(photo.resize((side, side), resample, box=crop)))
        return np.stack(frames)

    return make


class Star(NamedTuple):
    """A made photo of an object with fine spikes, what a base made of it, and the truth."""

    view: View
    alpha: Alpha
    """(h, w) float32 of what lies in ``view.inside``: the truth."""
    base: Alpha
    """(h, w) float32 likewise: the base's alpha, enlarged."""

    def refinements(self, refiner: Refiner) -> tuple[Alpha, str | None]:
        """The base's alpha after a refiner, and its note."""
        drawing = refiner.start(self.view)
        drawn = self.base.copy()
        Refinement(self.view, drawing, np.ones((999, 999), bool), refiner.halo_cells).whole(drawn)
        return drawn, drawing.note

    def error(self, alpha: Alpha) -> float:
        """Mean squared error in the band."""
        inside = self.weight() > 0
        return float(((alpha - self.alpha)[inside] ** 2).mean())

    def weight(self) -> Alpha:
        """(h, w): how much a refiner counts in each pixel."""
        (x0, y0, x1, y1), (left, top, right, bottom) = self.view.region, self.view.inside
        weight = cv2.resize(self.view.unknown.numpy(), (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
        return np.asarray(weight[top - y0 : bottom - y0, left - x0 : right - x0])


@pytest.fixture(scope="session")
def star() -> Any:
    """A factory: ``star(300, 420, cells=64)``."""

    def make(height: int, width: int, cells: int, region: Region | None = None, grain: float = 0) -> Star:
        rng = np.random.default_rng(0)
        y, x = np.mgrid[:height, :width].astype(np.float64)
        across, down = x - 0.52 * width, y - 0.47 * height
        reach = min(height, width) * (0.3 + 0.08 * np.sin(17 * np.arctan2(down, across)))
        truth = np.clip((reach - np.hypot(across, down)) / 3 + 0.5, 0, 1)[..., None]
        colours = [220, 140, 60] + 20 * np.sin(x / 31)[..., None]
        ground = [50, 90, 150] + 30 * np.sin(y / 43)[..., None]
        image = truth * colours + (1 - truth) * ground + grain * rng.standard_normal((height, width, 3))
        image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        x0, y0, x1, y1 = region = region or (0, 0, width, height)
        left, top, right, bottom = inside = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        around = ((top - y0, y1 - bottom), (left - x0, x1 - right), (0, 0))
        seen, photo = (np.pad(plane[top:bottom, left:right], around) for plane in (truth, image))
        p = cv2.GaussianBlur(cv2.resize(seen, (cells, cells), interpolation=cv2.INTER_AREA), (0, 0), 0.5).astype(np.float32)
        frame = cv2.resize(photo, (cells, cells), interpolation=cv2.INTER_AREA)
        unknown = find_unknown(torch.from_numpy(p)[None])[0]
        base = cv2.resize(p, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)[top - y0 : bottom - y0, left - x0 : right - x0]
        view = View(image, region, inside, torch.from_numpy(p), torch.from_numpy(frame), unknown)
        return Star(view, truth[top:bottom, left:right, 0].astype(np.float32), base)

    return make
