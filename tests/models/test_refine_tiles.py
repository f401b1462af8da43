from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pipeline.models.refiners.refine_tiles
from pipeline.models.refiners.guided import Guided
from pipeline.models.refiners.refine_tiles import Axis, Drawing, Refinement, View, axis, prepare_refinements
from pipeline.types import Alpha, Pixels, Region, Size

SIDE = 48


class Placed(NamedTuple):
    size: Size
    region: Region
    inside: Region


class Constant:
    """Says the same everywhere."""

    halo_cells = 0

    def __init__(self, level: float) -> None:
        self.level = level

    def start(self, view: View) -> Drawing:
        def draw(down: Axis, across: Axis) -> torch.Tensor:
            return torch.full((len(down.places), len(across.places)), self.level)

        return Drawing(draw)


def base() -> Alpha:
    """(SIDE, SIDE): a soft disc."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + 0.5
    return np.clip((14 - np.hypot(x, y)) / 5 + 0.5, 0, 1).astype(np.float32)


def start(
    refiner: object, height: int = 150, width: int = 200, region: Region | None = None, seed: int = 0
) -> tuple[Refinement, Alpha]:
    """A redraw, and the base's alpha enlarged to what it prepare_refinements."""
    image: Pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    x0, y0, x1, y1 = region = region or (0, 0, width, height)
    inside = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    frame = np.random.default_rng(1).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    placed = Placed(Size(height, width), region, inside)
    (refinement,) = prepare_refinements(refiner, [image], [placed], frame, torch.from_numpy(base())[None])  # type: ignore[arg-type]
    assert refinement is not None
    whole = cv2.resize(base(), (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    return refinement, whole[inside[1] - y0 : inside[3] - y0, inside[0] - x0 : inside[2] - x0].copy()


def weights(refinement: Refinement, like: Alpha) -> Alpha:
    """How much the refiner counts at every pixel: what makes of zeros where it says 1."""
    zeros = np.zeros_like(like)
    Refinement(refinement.view, Constant(1).start(refinement.view), refinement.touched, 0).whole(zeros)
    return zeros


REGIONS = [None, (20, 30, 170, 140), (-40, -10, 230, 170), (100, 60, 260, 190)]


@pytest.mark.parametrize("region", REGIONS)
def test_outside_the_band_nothing_changes_to_the_bit(region: Region | None) -> None:
    refinement, alpha = start(Guided(), region=region)
    drawn = alpha.copy()
    refinement.whole(drawn)
    weight = weights(refinement, alpha)
    assert 0 < (weight > 0).mean() < 1
    np.testing.assert_array_equal(drawn[weight == 0], alpha[weight == 0])
    assert np.abs(drawn - alpha)[weight == 1].max() > 0.1


@pytest.mark.parametrize("region", REGIONS)
def test_the_band_lies_where_the_base_was_unsure(region: Region | None) -> None:
    """The weight is the band, enlarged as alpha is."""
    refinement, alpha = start(Constant(0), region=region)
    x0, y0, x1, y1 = refinement.view.region
    left, top, right, bottom = refinement.view.inside
    unknown = cv2.resize(refinement.view.unknown.numpy(), (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(weights(refinement, alpha), unknown[top - y0 : bottom - y0, left - x0 : right - x0], atol=2e-5)


def test_an_answer_beyond_the_ends_counts_as_the_end() -> None:
    for level, end in ((7.0, 1.0), (-7.0, 0.0)):
        refinement, alpha = start(Constant(level))
        refinement.whole(alpha)
        assert np.abs(alpha[weights(refinement, alpha) == 1] - end).max() == 0


@pytest.mark.parametrize("side", [17, 64, 10_000])
def test_tiles_leave_no_trace(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refinement, alpha = start(Guided(), 301, 203)
    other = alpha.copy()
    refinement.whole(alpha)
    monkeypatch.setitem(pipeline.models.refiners.refine_tiles.TILE_PX, "cpu", side)
    refinement.whole(other)
    np.testing.assert_allclose(other, alpha, atol=1e-4)


def test_stripes_leave_no_trace() -> None:
    """On a GPU the mask is made some rows at a time."""
    refinement, alpha = start(Guided(), region=(-40, -10, 230, 170))
    parts = torch.from_numpy(alpha.copy())
    refinement.whole(alpha)
    for first in range(0, len(parts), 37):
        rows = slice(first, min(first + 37, len(parts)))
        refinement(parts[rows], rows)
    np.testing.assert_allclose(parts.numpy(), alpha, atol=1e-4)


def test_what_is_not_enlarged_is_not_redrawn() -> None:
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    whole = (0, 0, SIDE, SIDE)
    placed = Placed(Size(SIDE, SIDE), whole, whole)
    assert prepare_refinements(Guided(), [image], [placed], image[None], torch.from_numpy(base())[None]) == [None]


def test_without_a_band_nothing_is_redrawn() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    placed = Placed(Size(200, 200), (0, 0, 200, 200), (0, 0, 200, 200))
    frame = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    assert prepare_refinements(Guided(), [image], [placed], frame, torch.zeros(1, SIDE, SIDE)) == [None]
    assert prepare_refinements(None, [image], [placed], frame, torch.rand(1, SIDE, SIDE)) == [None]


@given(st.integers(1, 300), st.integers(-50, 50), st.integers(20, 400), st.integers(2, 60), st.integers(0, 6))
def test_an_axis_enlarges_as_opencv(count: int, start: int, length: int, side: int, halo: int) -> None:
    """Some pixels of a line that shows a frame's line from ``start`` on."""
    first = min(max(start, 0), start + length - 1)
    end = min(first + count, start + length)
    line = np.random.default_rng(side).random((1, side), np.float32)
    found = axis(slice(first, end), start, start + length, side, halo, torch.device("cpu"))
    enlarged = found.to_pixels() @ torch.from_numpy(line[0])[found.cells]
    expected = cv2.resize(line, (length, 1), interpolation=cv2.INTER_LINEAR)[0, first - start : end - start]
    np.testing.assert_allclose(enlarged.numpy(), expected, atol=2e-5)
