from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import pipeline.models.refiners.prepare
from pipeline.config.recipe import CGM_SHA256
from pipeline.errors import WeightsError
from pipeline.imaging.frame import Placement
from pipeline.models.refiners.cgm import BUNDLED, HALO_PX, STEP_PX, Cgm, ConfidenceGuided, check_cgm, load_cgm, stack_inputs
from pipeline.models.refiners.guided import Guided
from pipeline.models.refiners.prepare import prepare_refinements
from pipeline.models.refiners.refine_tiles import Refiner
from pipeline.types import Alpha, Pixels, Region, Size

CPU = torch.device("cpu")


def random_head(seed: int = 0) -> Cgm:
    """Return a network whose head is not zero."""
    torch.manual_seed(seed)
    network = Cgm().eval()
    torch.nn.init.normal_(network.head.weight, std=0.05)
    return network


def test_the_network_is_small() -> None:
    assert sum(value.numel() for value in Cgm().parameters()) <= 2_000_000


def test_the_untrained_network_predicts_zero() -> None:
    assert Cgm()(torch.rand(2, 7, 32, 48)).abs().max() == 0


def test_a_batch_is_its_items() -> None:
    network, x = random_head(), torch.rand(3, 7, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), torch.cat([network(one[None]) for one in x]), atol=1e-5, rtol=0)


def test_pixels_beyond_the_halo_have_hardly_any_effect() -> None:
    network = random_head()
    x = torch.rand(1, 7, 256, 256)
    other = x.clone()
    other[..., : 128 - HALO_PX - STEP_PX, :] = torch.rand(1, 7, 128 - HALO_PX - STEP_PX, 256)
    with torch.inference_mode():
        change = (network(x) - network(other)).abs()[:, 128:]
    assert float(change.max()) < 1e-3


def test_the_input_has_seven_channels() -> None:
    image, p, weight, guided = torch.rand(2, 3, 16, 16), torch.rand(2, 16, 16), torch.rand(2, 16, 16), torch.rand(2, 16, 16)
    x = stack_inputs(image, p, weight, guided, torch.tensor([2.0, 8.0]))
    assert x.shape == (2, 7, 16, 16)
    np.testing.assert_allclose(x[:, 6].mean((1, 2)).numpy(), [1 / 3, 1], atol=1e-6)
    assert torch.equal(x[:, 5], guided)


@pytest.mark.parametrize("size", [(8, 8), (16, 24)])
def test_the_smallest_tiles(size: tuple[int, int]) -> None:
    assert random_head()(torch.rand(1, 7, *size)).shape == (1, *size)


def refine(refiner: Refiner, image: Pixels, p: Tensor, base: Alpha, region: Region | None = None) -> Alpha:
    """Return the base's enlarged alpha after a refiner, for an image, or a part of it, that fills the frame."""
    height, width = image.shape[:2]
    placed = Placement(Size(height, width), region or (0, 0, width, height))
    x0, y0, x1, y1 = placed.region
    frame = cv2.resize(image[y0:y1, x0:x1], tuple(p.shape[1:]), interpolation=cv2.INTER_AREA)
    (refinement,) = prepare_refinements(refiner, [image], [placed], frame[None], p)
    assert refinement is not None
    alpha = base.copy()
    refinement.refine_all(alpha)
    return alpha


@pytest.mark.parametrize("region", [None, (13, 21, 190, 203)])
def test_tiles_do_not_change_the_result(region: Region | None, monkeypatch: pytest.MonkeyPatch) -> None:
    image, p = np.random.default_rng(0).integers(0, 256, (230, 200, 3), np.uint8), torch.rand(1, 48, 48)
    base = np.full((230, 200) if region is None else (182, 177), 0.5, np.float32)
    masks = []
    for side in (10_000, 72, 33):
        monkeypatch.setitem(pipeline.models.refiners.prepare.TILE_PX, "cpu", side)
        masks.append(refine(ConfidenceGuided(random_head()), image, p, base, region))
    assert np.abs(masks[0] - 0.5).max() > 0.2
    assert max(np.abs(mask - masks[0]).max() for mask in masks) < 2 / 255


def test_the_untrained_refiner_equals_guided() -> None:
    image, p = np.random.default_rng(0).integers(0, 256, (150, 190, 3), np.uint8), torch.rand(1, 48, 48)
    base = np.zeros((150, 190), np.float32)
    guided, untrained = (refine(refiner, image, p, base) for refiner in (Guided(), ConfidenceGuided(Cgm())))
    np.testing.assert_allclose(untrained, guided, atol=1e-5)


def test_the_bundled_weights_are_the_pinned_ones_and_small() -> None:
    assert hashlib.sha256(BUNDLED.read_bytes()).hexdigest() == CGM_SHA256
    assert BUNDLED.stat().st_size < 4_000_000
    check_cgm(BUNDLED)


@pytest.mark.parametrize("soft_px", [0.0, 1.5])
def test_the_bundled_weights_recover_thin_parts(soft_px: float) -> None:
    """The object is a row of bars on a textured ground; the base has blurred them."""
    rng = np.random.default_rng(3)
    alpha = np.zeros((384, 384), np.float32)
    for at in range(40, 384, 48):
        cv2.line(alpha, (at, 20), (at + 30, 360), 1.0, 7, cv2.LINE_AA)
    if soft_px:
        alpha = cv2.GaussianBlur(alpha, (0, 0), soft_px)
    ground = cv2.resize(rng.uniform(60, 200, (24, 24, 3)).astype(np.float32), (384, 384), interpolation=cv2.INTER_CUBIC)
    image = alpha[..., None] * np.array([170, 60, 40]) + (1 - alpha[..., None]) * ground
    image = np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
    p = cv2.GaussianBlur(cv2.resize(alpha, (96, 96), interpolation=cv2.INTER_AREA), (0, 0), 0.8)
    plain = cv2.resize(p, (384, 384), interpolation=cv2.INTER_LINEAR)
    refiners = Guided(), ConfidenceGuided(load_cgm(BUNDLED, device=CPU, dtype=torch.float32))
    refined = [refine(refiner, image, torch.from_numpy(p)[None], plain) for refiner in refiners]
    bilinear, guided, cgm = (float(np.square(one - alpha).mean()) for one in (plain, *refined))
    assert cgm < 0.5 * guided < 0.5 * bilinear


def damaged(change: str, tensors: dict[str, Any]) -> dict[str, Any]:
    name = "head.weight"
    changed = {
        "a key too few": {key: value for key, value in tensors.items() if key != name},
        "a key too many": tensors | {"more": torch.zeros(1)},
        "another shape": tensors | {name: torch.zeros(4, 16, 3, 3)},
        "not finite": tensors | {name: torch.full_like(tensors[name], float("nan"))},
    }
    return changed[change]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("a key too few", r"head\.weight is absent, but should be \(4, 32, 3, 3\)"),
        ("a key too many", "more is .* but should be absent"),
        ("another shape", r"head\.weight is \(4, 16, 3, 3\)"),
        ("not finite", "not finite"),
    ],
)
def test_other_weights_are_refused(change: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    save_file(damaged(change, load_file(BUNDLED)), path)
    with pytest.raises(WeightsError, match=message):
        load_cgm(path, device=CPU, dtype=torch.float32)
    path.write_bytes(b"<html>")
    with pytest.raises(WeightsError, match="web page"):
        check_cgm(path)
