"""One polygon around a mask, filled as the readers of YOLO data sets fill it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from pipeline.imaging.polygons import decode_polygons, outline, outlines
from pipeline.types import Size


def filled(ring: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Fill the polygon as ultralytics does: shares of the image, then whole pixels, then OpenCV's even-odd rule."""
    height, width = shape
    shares = np.array([float(f"{share:.6f}") for share in (ring / (width, height)).reshape(-1)]).reshape(-1, 2)
    made = np.zeros(shape, np.uint8)
    cv2.fillPoly(made, [(shares * (width, height)).astype(np.int32)], 1)
    return made


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def blobs(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """Return smooth parts with holes."""
    noise = np.random.default_rng(seed).random(shape).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), min(shape) / 12)
    return (smooth > np.quantile(smooth, 0.6)).astype(np.uint8)


def test_a_rectangle_is_exact() -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[5:20, 10:30] = 1
    ring = outline(mask)
    assert ring is not None and sorted(map(tuple, ring)) == [(10.5, 5.5), (10.5, 19.5), (29.5, 5.5), (29.5, 19.5)]
    assert np.array_equal(filled(ring, mask.shape), mask)


def test_a_mask_that_fills_the_image_stays_in_it() -> None:
    ring = outline(np.ones((30, 40), np.uint8))
    assert ring is not None and (ring > 0).all() and (ring < (40, 30)).all()


def test_a_hole_stays_a_hole_by_both_rules() -> None:
    mask = np.zeros((60, 60), np.uint8)
    cv2.circle(mask, (30, 30), 25, 1, -1)
    cv2.circle(mask, (30, 30), 12, 0, -1)
    ring = outline(mask)
    assert ring is not None
    assert iou(filled(ring, mask.shape), mask) > 0.97
    closed = np.concatenate([ring, ring[:1]]) - (30.5, 30.5)
    angles = np.unwrap(np.arctan2(closed[:, 1], closed[:, 0]))
    assert abs(angles[-1] - angles[0]) < 1e-6, "the polygon winds around the hole's centre zero times"


def test_parts_are_joined_by_one_line() -> None:
    mask = np.zeros((60, 90), np.uint8)
    mask[10:30, 5:25], mask[10:50, 40:60], mask[30:40, 75:85] = 1, 1, 1
    ring = outline(mask)
    assert ring is not None
    made = filled(ring, mask.shape)
    assert (made[mask == 1] == 1).all()
    assert made.sum() - mask.sum() <= 15 + 15, "OpenCV draws the lines between the parts one pixel wide"


@pytest.mark.parametrize("corners", [(3, 3, 4, 4), (3, 3, 9, 4), (0, 0, 1, 30)])
def test_thin_masks_have_three_corners(corners: tuple[int, int, int, int]) -> None:
    x0, y0, x1, y1 = corners
    mask = np.zeros((30, 40), np.uint8)
    mask[y0:y1, x0:x1] = 1
    ring = outline(mask)
    assert ring is not None and len(ring) >= 3
    assert np.array_equal(filled(ring, mask.shape), mask)


def test_an_empty_mask_has_no_outline() -> None:
    assert outline(np.zeros((30, 40), np.uint8)) is None


@given(st.integers(0, 10_000), st.sampled_from([(80, 120), (301, 200), (512, 512)]))
def test_filled_outlines_are_the_mask(seed: int, shape: tuple[int, int]) -> None:
    mask = blobs(seed, shape)
    ring = outline(mask)
    assert ring is not None and len(ring) >= 3
    assert iou(filled(ring, shape), mask) > 0.96


@given(st.integers(0, 10_000))
def test_other_fillers_agree(seed: int) -> None:
    """Pillow fills by another rule than OpenCV: the area within the polygon, half a pixel less on each side."""
    mask = cv2.resize(blobs(seed, (64, 96)), None, fx=8, fy=8, interpolation=cv2.INTER_NEAREST)
    ring = outline(mask)
    assert ring is not None
    picture = Image.new("L", mask.shape[::-1])
    ImageDraw.Draw(picture).polygon([tuple(corner) for corner in ring], fill=1)
    assert iou(np.asarray(picture), mask) > 0.96


def test_noise_gives_a_polygon_of_bounded_length() -> None:
    """Thousands of specks and holes: those below a thousandth of the largest part are left out."""
    noise = (np.random.default_rng(0).random((600, 600)) > 0.45).astype(np.uint8)
    ring = outline(noise)
    assert ring is not None and len(ring) < 20_000


def test_outlines_in_coco_are_read_as_the_mask() -> None:
    """Read by pycocotools, two parts, one of them with a hole, differ from the mask at single pixels of the border."""
    mask = np.zeros((300, 400), np.uint8)
    cv2.circle(mask, (120, 150), 90, 1, -1)
    cv2.circle(mask, (120, 150), 40, 0, -1)
    mask[20:120, 250:390] = 1
    rings = outlines(mask)
    assert len(rings) == 2
    found = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([ring.reshape(-1).tolist() for ring in rings], 300, 400)))
    assert (found != mask).sum() < 0.01 * mask.sum()
    assert np.array_equal(decode_polygons(Size(300, 400), [rings[1].reshape(-1).tolist()])[:, 240:], mask[:, 240:])


def test_outlines_of_single_pixels_have_three_corners() -> None:
    mask = np.zeros((5, 5), np.uint8)
    assert outlines(mask) == []
    mask[2, 3] = 1
    (ring,) = outlines(mask)
    assert ring.shape[0] >= 3
    assert (ring.min(0).tolist(), ring.max(0).tolist()) == ([3.25, 2.25], [3.75, 2.75])
