"""Trimaps: what is certain in a mask, what is not, and how wide the band between is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.imaging.trimap import HIGH, LOW, UNKNOWN, trimap_of

MASKS = arrays(
    np.uint8,
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    elements=st.sampled_from([0, LOW, LOW + 1, 127, 128, HIGH - 1, HIGH, 255]),
)


@given(MASKS)
def test_partial_pixels_are_unknown_and_the_others_keep_their_side(mask: np.ndarray) -> None:
    trimap = trimap_of(mask)
    assert trimap.dtype == np.uint8 and trimap.shape == mask.shape
    assert set(np.unique(trimap)) <= {0, UNKNOWN, 255}
    assert (trimap[(mask > LOW) & (mask < HIGH)] == UNKNOWN).all()
    known = trimap != UNKNOWN
    assert np.array_equal(trimap[known] == 255, mask[known] >= HIGH)
    assert np.array_equal(trimap[known] == 0, mask[known] <= LOW)


@given(MASKS)
def test_a_mirrored_mask_has_the_mirrored_trimap(mask: np.ndarray) -> None:
    assert np.array_equal(trimap_of(np.ascontiguousarray(mask[::-1, ::-1].T)), trimap_of(mask)[::-1, ::-1].T)


@pytest.mark.parametrize("level", [0, LOW, HIGH, 255])
def test_a_mask_without_contours_is_known_up_to_its_border(level: int) -> None:
    assert (trimap_of(np.full((30, 500), level, np.uint8)) == (255 if level > UNKNOWN else 0)).all()


@pytest.mark.parametrize(("width", "radius"), [(20, 1), (500, 2), (1000, 4)])
def test_the_band_is_a_share_of_the_longer_side(width: int, radius: int) -> None:
    """Of a hard step, the pixels on both sides; of one partial pixel, those around it."""
    step, half = np.zeros((16, width), np.uint8), width // 2
    step[:, half:] = 255
    expected = step.copy()
    expected[:, half - radius : half + radius] = UNKNOWN
    assert np.array_equal(trimap_of(step), expected)
    assert np.array_equal(trimap_of(np.ascontiguousarray(step.T)), expected.T), "the longer side is the height here"
    dot = np.zeros((16, width), np.uint8)
    dot[8, half] = 100
    unknown = np.argwhere(trimap_of(dot) == UNKNOWN)
    assert np.abs(unknown - (8, half)).max(axis=0).tolist() == [radius, radius]
    assert len(unknown) < (2 * radius + 1) ** 2, "the band is round"


def test_a_soft_edge_is_unknown_from_end_to_end() -> None:
    ramp = np.repeat(np.clip(np.linspace(-100, 355, 92), 0, 255).astype(np.uint8)[None], 20, axis=0)
    unknown = np.flatnonzero(trimap_of(ramp)[10] == UNKNOWN)
    partial = np.flatnonzero((ramp[10] > LOW) & (ramp[10] < HIGH))
    assert unknown.tolist() == list(range(partial[0] - 1, partial[-1] + 2))
