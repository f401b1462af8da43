from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import pipeline.models.refiners.refine_tiles
from pipeline.config.recipe import CGM_SHA256
from pipeline.errors import WeightsError
from pipeline.models.refiners.cgm import BUNDLED, HALO_PX, STEP_PX, Cgm, ConfidenceGuided, check_cgm, inputs, load_cgm
from pipeline.models.refiners.guided import Guided
from pipeline.models.refiners.refine_tiles import prepare_refinements


def lively(seed: int = 0) -> Cgm:
    """With a head that says something."""
    torch.manual_seed(seed)
    network = Cgm().eval()
    torch.nn.init.normal_(network.head.weight, std=0.05)
    return network


def test_it_is_small() -> None:
    assert sum(value.numel() for value in Cgm().parameters()) <= 2_000_000


def test_untrained_it_adds_nothing() -> None:
    assert Cgm()(torch.rand(2, 7, 32, 48)).abs().max() == 0


def test_a_batch_is_its_items() -> None:
    network, seen = lively(), torch.rand(3, 7, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network(seen), torch.cat([network(one[None]) for one in seen]), atol=1e-5, rtol=0)


def test_beyond_its_halo_it_sees_next_to_nothing() -> None:
    """So tiles leave no trace: a pixel's answer changes little with what lies further away."""
    network = lively()
    seen = torch.rand(1, 7, 256, 256)
    other = seen.clone()
    other[..., : 128 - HALO_PX - STEP_PX, :] = torch.rand(1, 7, 128 - HALO_PX - STEP_PX, 256)
    with torch.inference_mode():
        change = (network(seen) - network(other)).abs()[:, 128:]
    assert float(change.max()) < 1e-3


def test_what_it_sees() -> None:
    image, p, weight, guided = torch.rand(2, 3, 16, 16), torch.rand(2, 16, 16), torch.rand(2, 16, 16), torch.rand(2, 16, 16)
    seen = inputs(image, p, weight, guided, torch.tensor([2.0, 8.0]))
    assert seen.shape == (2, 7, 16, 16)
    np.testing.assert_allclose(seen[:, 6].mean((1, 2)).numpy(), [1 / 3, 1], atol=1e-6)
    assert torch.equal(seen[:, 5], guided)


@pytest.mark.parametrize("size", [(8, 8), (16, 24)])
def test_the_smallest_tiles(size: tuple[int, int]) -> None:
    assert lively()(torch.rand(1, 7, *size)).shape == (1, *size)


class Whole:
    """All of an image fills the frame, or a part of it."""

    def __init__(self, size: tuple[int, int], region: tuple[int, int, int, int] | None = None) -> None:
        self.size = size
        self.region = self.inside = region or (0, 0, size[1], size[0])


@pytest.mark.parametrize("region", [None, (13, 21, 190, 203)])
def test_tiles_leave_no_trace(region: tuple[int, int, int, int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (230, 200, 3), np.uint8)
    p = torch.rand(1, 48, 48)
    frame = rng.integers(0, 256, (1, 48, 48, 3), np.uint8)
    placed = Whole((230, 200), region)
    (refinement,) = prepare_refinements(ConfidenceGuided(lively()), [image], [placed], frame, p)  # type: ignore[list-item]
    assert refinement is not None
    x0, y0, x1, y1 = placed.region
    masks = []
    for side in (10_000, 72, 33):
        monkeypatch.setitem(pipeline.models.refiners.refine_tiles.TILE_PX, "cpu", side)
        alpha = np.full((y1 - y0, x1 - x0), 0.5, np.float32)
        refinement.whole(alpha)
        masks.append(alpha)
    assert np.abs(masks[0] - 0.5).max() > 0.2
    assert max(np.abs(mask - masks[0]).max() for mask in masks) < 2 / 255


def test_untrained_it_is_guided() -> None:
    rng = np.random.default_rng(0)
    image, frame = rng.integers(0, 256, (150, 190, 3), np.uint8), rng.integers(0, 256, (1, 48, 48, 3), np.uint8)
    p, placed = torch.rand(1, 48, 48), Whole((150, 190))
    found = []
    for refiner in (Guided(), ConfidenceGuided(Cgm())):
        (refinement,) = prepare_refinements(refiner, [image], [placed], frame, p)  # type: ignore[list-item]
        assert refinement is not None
        alpha = np.zeros((150, 190), np.float32)
        refinement.whole(alpha)
        found.append(alpha)
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)


CPU = torch.device("cpu")


def test_the_bundled_weights_are_the_pinned_ones_and_small() -> None:
    assert hashlib.sha256(BUNDLED.read_bytes()).hexdigest() == CGM_SHA256
    assert BUNDLED.stat().st_size < 4_000_000
    check_cgm(BUNDLED)


@pytest.mark.parametrize("soft_px", [0.0, 1.5])
def test_with_the_bundled_weights_thin_parts_come_back(soft_px: float) -> None:
    """A grid of bars that the base has blurred to a ramp, on a ground of another colour with some texture."""
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
    frame = cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA)
    plain = cv2.resize(p, (384, 384), interpolation=cv2.INTER_LINEAR)
    errors = []
    for refiner in (Guided(), ConfidenceGuided(load_cgm(BUNDLED, device=CPU, dtype=torch.float32))):
        (refinement,) = prepare_refinements(refiner, [image], [Whole((384, 384))], frame[None], torch.from_numpy(p)[None])  # type: ignore[list-item]
        assert refinement is not None
        found = plain.copy()
        refinement.whole(found)
        errors.append(float(np.square(found - alpha).mean()))
    assert errors[1] < 0.5 * errors[0] < 0.5 * float(np.square(plain - alpha).mean())


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
    ("change", "said"),
    [
        ("a key too few", r"head\.weight is absent, but should be \(4, 32, 3, 3\)"),
        ("a key too many", "more is .* but should be absent"),
        ("another shape", r"head\.weight is \(4, 16, 3, 3\)"),
        ("not finite", "not finite"),
    ],
)
def test_other_weights_are_refused(change: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    save_file(damaged(change, load_file(BUNDLED)), path)
    with pytest.raises(WeightsError, match=said):
        load_cgm(path, device=CPU, dtype=torch.float32)
    path.write_bytes(b"<html>")
    with pytest.raises(WeightsError, match="web page"):
        check_cgm(path)
