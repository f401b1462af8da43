from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.imaging.frame import Placement
from pipeline.models.refiners import refine_tiles
from pipeline.models.refiners.guided import Guided, interpolation
from pipeline.models.refiners.prepare import prepare_refinements
from pipeline.models.refiners.refine_tiles import Refinement, Refiner, Tile, View, axis, make_refinement
from pipeline.types import Alpha, Region, Size

SIDE = 48


class Constant:
    """A refiner that predicts the same alpha everywhere."""

    halo_cells, halo_px, step_px = 0, 0, 1

    def __init__(self, level: float) -> None:
        self.level = level

    def __call__(self, tile: Tile) -> tuple[torch.Tensor, torch.Tensor]:
        _, weight = Guided()(tile)
        return torch.full_like(weight, self.level), weight


def base() -> Alpha:
    """Return a soft disc (SIDE, SIDE)."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + 0.5
    return np.clip((14 - np.hypot(x, y)) / 5 + 0.5, 0, 1).astype(np.float32)


def prepare(refiner: Refiner, height: int = 150, width: int = 200, region: Region | None = None) -> tuple[Refinement, Alpha]:
    """Return a refinement and the base's enlarged alpha."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    frame = np.random.default_rng(1).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    placed = Placement(Size(height, width), region or (0, 0, width, height))
    (refinement,) = prepare_refinements(refiner, [image], [placed], frame, torch.from_numpy(base())[None])
    assert refinement is not None
    return refinement, enlarge(base(), refinement.view)


def enlarge(plane: Alpha, view: View) -> Alpha:
    (x0, y0, x1, y1), (left, top, right, bottom) = view.region, view.inside
    return cv2.resize(plane, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)[
        top - y0 : bottom - y0, left - x0 : right - x0
    ].copy()


def weights(refinement: Refinement, like: Alpha) -> Alpha:
    """Return the weight of the refiner in every pixel: the result for zeros if it predicts 1."""
    zeros = np.zeros_like(like)
    dataclasses.replace(refinement, refiner=Constant(1)).refine_all(zeros)
    return zeros


REGIONS = [None, (20, 30, 170, 140), (-40, -10, 230, 170), (100, 60, 260, 190)]


@pytest.mark.parametrize("region", REGIONS)
def test_known_pixels_are_unchanged_to_the_bit(region: Region | None) -> None:
    refinement, alpha = prepare(Guided(), region=region)
    refined = alpha.copy()
    refinement.refine_all(refined)
    weight = weights(refinement, alpha)
    assert 0 < (weight > 0).mean() < 1
    np.testing.assert_array_equal(refined[weight == 0], alpha[weight == 0])
    assert np.abs(refined - alpha)[weight == 1].max() > 0.1


@pytest.mark.parametrize("region", REGIONS)
def test_the_weight_is_the_enlarged_unknown_map(region: Region | None) -> None:
    refinement, alpha = prepare(Constant(0), region=region)
    unknown = enlarge(refinement.view.unknown.numpy(), refinement.view)
    np.testing.assert_allclose(weights(refinement, alpha), unknown, atol=2e-5)


def test_where_the_weight_is_one_alpha_is_the_refiners() -> None:
    refinement, alpha = prepare(Constant(0.25))
    refinement.refine_all(alpha)
    assert np.abs(alpha[weights(refinement, alpha) == 1] - 0.25).max() == 0


@pytest.mark.parametrize("side", [17, 64, 10_000])
def test_tiles_do_not_change_the_result(side: int) -> None:
    refinement, alpha = prepare(Guided(), 301, 203)
    other = alpha.copy()
    refinement.refine_all(alpha)
    refinement.tile_px = side
    refinement.refine_all(other)
    np.testing.assert_allclose(other, alpha, atol=1e-4)


def test_stripes_do_not_change_the_result() -> None:
    """On a GPU the mask is made in stripes of rows."""
    refinement, alpha = prepare(Guided(), region=(-40, -10, 230, 170))
    parts = torch.from_numpy(alpha.copy())
    refinement.refine_all(alpha)
    for first in range(0, len(parts), 37):
        rows = slice(first, min(first + 37, len(parts)))
        refinement.refine_tiles(parts[rows], rows)
    np.testing.assert_allclose(parts.numpy(), alpha, atol=1e-4)


def test_an_image_no_larger_than_the_frame_is_not_refined() -> None:
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    placed = Placement(Size(SIDE, SIDE), (0, 0, SIDE, SIDE))
    assert prepare_refinements(Guided(), [image], [placed], image[None], torch.from_numpy(base())[None]) == [None]


def test_without_an_unknown_region_nothing_is_refined() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    placed = Placement(Size(200, 200), (0, 0, 200, 200))
    frame = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    assert prepare_refinements(Guided(), [image], [placed], frame, torch.zeros(1, SIDE, SIDE)) == [None]
    assert prepare_refinements(None, [image], [placed], frame, torch.rand(1, SIDE, SIDE)) == [None]


@given(st.integers(1, 300), st.integers(-50, 50), st.integers(20, 400), st.integers(2, 60), st.integers(0, 6))
def test_an_axis_enlarges_as_opencv(count: int, start: int, length: int, side: int, halo: int) -> None:
    """For some pixels of a line whose part from ``start`` on fills the frame."""
    first = min(max(start, 0), start + length - 1)
    end = min(first + count, start + length)
    line = np.random.default_rng(side).random((1, side), np.float32)
    mapped = axis(slice(first, end), start, start + length, side, halo)
    cells = torch.from_numpy(line[0])[mapped.cells]
    enlarged = interpolation(torch.from_numpy(mapped.positions), len(cells)) @ cells
    expected = cv2.resize(line, (length, 1), interpolation=cv2.INTER_LINEAR)[0, first - start : end - start]
    np.testing.assert_allclose(enlarged.numpy(), expected, atol=2e-5)


def wide(kind: str) -> tuple[Alpha, Alpha]:
    """Return a base's alpha (SIDE, SIDE) that is unsure almost everywhere, and its unknown map."""
    noise = np.random.default_rng(0).uniform(0.1, 0.9, (SIDE, SIDE)).astype(np.float32)
    p = noise if kind == "noise" else np.clip(0.5 + 0.4 * np.sign(base() - 0.5), 0, 1).astype(np.float32)
    return p, np.ones((SIDE, SIDE), np.float32)


def refinement_of(p: Alpha, unknown: Alpha, kind: str) -> Refinement | None:
    image, frame = np.zeros((150, 200, 3), np.uint8), np.zeros((SIDE, SIDE, 3), np.uint8)
    planes = [p, frame, unknown] if kind == "numpy" else [torch.from_numpy(one) for one in (p, frame, unknown)]
    blocks = refine_tiles._blocks_of(unknown)
    return make_refinement(Constant(1), image, Placement(Size(150, 200), (0, 0, 200, 150)), planes, blocks)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_of_a_wide_unknown_region_only_the_contour_is_refined(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    p, unknown = wide("disc")
    whole = refinement_of(p, unknown, kind)
    assert whole is not None and bool((whole.view.unknown == 1).all()), "it is not wide in a small image"
    monkeypatch.setattr(refine_tiles, "MAX_UNKNOWN_PX", 1000)
    monkeypatch.setattr(refine_tiles, "MAX_UNKNOWN_SHARE", 0.8)
    limited = refinement_of(p, unknown, kind)
    assert limited is not None and type(limited.view.unknown) is type(whole.view.unknown)
    kept = np.asarray(limited.view.unknown)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + 0.5
    from_contour = np.abs(np.hypot(x, y) - 14)
    assert (kept[from_contour < 3] == 1).all() and not kept[from_contour > 10].any()
    assert limited.blocks.sum() < whole.blocks.sum()


def test_nothing_is_refined_where_contours_are_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refine_tiles, "MAX_UNKNOWN_PX", 1000)
    assert refinement_of(*wide("noise"), "numpy") is None


def test_a_narrow_unknown_region_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refine_tiles, "MAX_UNKNOWN_PX", 0)
    unknown = np.zeros((SIDE, SIDE), np.float32)
    unknown[:, :12] = 1
    kept = refinement_of(base(), unknown, "numpy")
    assert kept is not None and kept.view.unknown is unknown
