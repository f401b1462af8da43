from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.config.recipe import Recipe
from pipeline.errors import ItemRefused
from pipeline.imaging.frame import Placement, make_frame, place, restore, to_mask
from pipeline.types import Alpha, Box, Pixels, Size

Maker = Callable[[int, int], Pixels]


def recipe(**rules: Any) -> Recipe:
    return Recipe(name="test", model="fake", **({"frame_px": 64} | rules))


FINEGRAIN = recipe(frame_px=1024, outside="black", margin_without_box=True)


def blob(side: int) -> Alpha:
    """An alpha map with soft edges, opaque and transparent parts."""
    y, x = np.mgrid[:side, :side] / side
    return np.clip(3 * np.sin(5 * x + 2 * y) * np.cos(4 * y - x) + 0.5, 0, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("size", "box", "region"),
    [
        ((830, 1210), (300, 150, 820, 610), (274, 127, 846, 633)),
        ((830, 1210), (0, 500, 700, 830), (-35, 484, 735, 846)),
        ((1600, 640), (40, 200, 600, 1500), (12, 135, 628, 1565)),
        ((830, 1210), None, (-60, -41, 1270, 871)),
        ((830, 1210), (300.9, 150.2, 819.1, 609.5), (274, 127, 846, 633)),  # floor and ceiling are applied first
        ((50, 50), (10, 10, 29, 29), (10, 10, 29, 29)),  # 5 % of 19 is less than a pixel
    ],
)
def test_the_region_equals_the_finegrain_segmenter_s(size: tuple[int, int], box: Any, region: Any) -> None:
    assert place(Size(*size), Box(*box) if box else None, FINEGRAIN).region == region


def test_clipped_regions_stay_on_the_image() -> None:
    clip = recipe(box_margin=0.1)
    assert place(Size(100, 200), Box(-20, 10, 50, 120), clip).region == (0, 0, 57, 100)
    assert place(Size(100, 200), None, clip).region == (0, 0, 200, 100)
    assert place(Size(100, 200), Box(199.9, 99.5, 500, 500), clip).region == (169, 59, 200, 100)
    assert place((100, 200), None, recipe(margin_without_box=True)).region == (0, 0, 200, 100)
    assert place((100, 200), None, recipe(outside="black")).region == (0, 0, 200, 100)


def test_a_box_outside_the_image_is_refused() -> None:
    for rules in (recipe(), FINEGRAIN):
        with pytest.raises(ItemRefused, match="outside the image of 200 x 100 pixels"):
            place(Size(100, 200), Box(200, 0, 300, 50), rules)


def test_a_box_far_past_the_image_is_refused_unless_it_is_clipped() -> None:
    far = Box(-1e9, -1e9, 1e9, 1e9)
    assert place(Size(100, 200), far, recipe()).region == (0, 0, 200, 100)
    with pytest.raises(ItemRefused, match="too far past the image of 200 x 100 pixels .*; clip the box"):
        place(Size(100, 200), far, FINEGRAIN)
    with pytest.raises(ItemRefused):
        place(Size(100, 200), Box(0, 0, 1e300, 1), FINEGRAIN)
    assert place(Size(1, 1), Box(-1000, -1000, 1000, 1000), FINEGRAIN).region == (-1100, -1100, 1100, 1100)
    assert place(Size(9000, 9000), None, FINEGRAIN).region == (-450, -450, 9450, 9450)


def expected_frame(image: Pixels, region: tuple[int, int, int, int], side: int, resample: Image.Resampling) -> Pixels:
    """Pad the image on all sides, cut the region and resize it."""
    reach = max(0, -region[0], -region[1], region[2], region[3])
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)))
    x0, y0, x1, y1 = (value + reach for value in region)
    return np.asarray(Image.fromarray(padded[y0:y1, x0:x1]).resize((side, side), resample))


@pytest.mark.parametrize("box", [None, (20, 10, 70, 45), (-30, -5, 40, 90), (60.5, 20.2, 130, 60), (3, 3, 4, 4)])
@pytest.mark.parametrize("outside", ["clip", "black"])
@pytest.mark.parametrize("frame_resize", ["bilinear", "lanczos"])
def test_frames_equal_pillow_s(box: Any, outside: str, frame_resize: str, photo: Maker) -> None:
    image = photo(60, 100)
    rules = recipe(outside=outside, frame_resize=frame_resize, margin_without_box=True)
    placement = place(Size(60, 100), Box(*box) if box else None, rules)
    frame = make_frame(image, placement, rules)
    resample = Image.Resampling.BILINEAR if frame_resize == "bilinear" else Image.Resampling.LANCZOS
    np.testing.assert_array_equal(frame, expected_frame(image, placement.region, 64, resample))
    assert frame.shape == (64, 64, 3)
    assert frame.flags.writeable


def resized_by_definition(alpha: Alpha, height: int, width: int) -> Any:
    """Resize bilinearly between pixel centres, clamped at the border, as F.interpolate(align_corners=False)."""

    def weights(small: int, large: int) -> Any:
        centre = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
        matrix = np.zeros((large, small))
        lower = np.minimum(np.floor(centre).astype(int), max(small - 2, 0))
        upper = np.minimum(lower + 1, small - 1)
        np.add.at(matrix, (np.arange(large), lower), 1 - (centre - lower))
        np.add.at(matrix, (np.arange(large), upper), centre - lower)
        return matrix

    return weights(alpha.shape[0], height) @ alpha @ weights(alpha.shape[1], width).T


SIZES = [(64, 64), (200, 150), (128, 31), (32, 32), (1, 90), (17, 300), (1, 1)]


@pytest.mark.parametrize("size", SIZES)
def test_plain_is_half_pixel_bilinear_without_antialias(size: tuple[int, int]) -> None:
    rules = recipe(alpha_resize="plain")
    restored = restore(blob(64), place(size, None, rules), rules)
    assert restored.dtype == np.float32
    assert np.abs(restored - resized_by_definition(blob(64), *size)).max() < 2e-6


@pytest.mark.parametrize("size", SIZES)
def test_antialias_is_pillow_s_bilinear_filter_on_floats(size: tuple[int, int]) -> None:
    rules = recipe()
    restored = restore(blob(64), place(size, None, rules), rules)
    expected = np.asarray(Image.fromarray(blob(64)).resize(size[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_allclose(restored, expected, atol=1e-6)


@pytest.mark.parametrize("alpha_resize", ["antialias", "plain"])
@pytest.mark.parametrize("box", [None, (20, 10, 70, 45), (-30, -5, 40, 90), (60.5, 20.2, 130, 60), (3, 3, 4, 4)])
def test_a_region_is_restored_where_it_was_cut(box: Any, alpha_resize: str) -> None:
    rules = recipe(outside="black", margin_without_box=True, alpha_resize=alpha_resize)
    placement = place(Size(60, 100), Box(*box) if box else None, rules)
    restored = restore(blob(64), placement, rules)
    x0, y0, x1, y1 = placement.region
    if alpha_resize == "plain":
        region = resized_by_definition(blob(64), y1 - y0, x1 - x0)
    else:
        region = np.asarray(Image.fromarray(blob(64)).resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR))
    canvas = np.zeros((60 + 400, 100 + 400))
    canvas[200 + y0 : 200 + y1, 200 + x0 : 200 + x1] = region
    assert np.abs(restored - canvas[200:260, 200:300]).max() < 1e-4


@pytest.mark.parametrize("side", [320, 1024])
@pytest.mark.parametrize("size", [(3000, 4000), (1224, 1632), (700, 1500), (2000, 317)])
def test_large_alphas_equal_pillow_s(side: int, size: tuple[int, int]) -> None:
    """Noise, enlarged, reduced, and one side each."""
    rules = recipe(frame_px=side)
    alpha = np.random.default_rng(side).random((side, side), np.float32)
    restored = restore(alpha, place(size, None, rules), rules)
    expected = np.asarray(Image.fromarray(alpha).resize(size[::-1], Image.Resampling.BILINEAR))
    assert np.abs(restored - expected).max() < 1e-6
    assert np.abs(to_mask(restored).astype(int) - to_mask(expected)).max() <= 1
    assert (to_mask(restored) != to_mask(expected)).mean() < 1e-5


def test_stretch_covers_the_full_range_and_keeps_constants() -> None:
    rules = recipe(stretch=True, alpha_resize="plain")
    placement = place(Size(50, 70), None, rules)
    stretched = restore(0.3 + 0.4 * blob(64), placement, rules)
    assert (stretched.min(), stretched.max()) == (0, 1)
    plain = restore(0.3 + 0.4 * blob(64), placement, recipe(alpha_resize="plain"))
    np.testing.assert_allclose(stretched, (plain - plain.min()) / (plain.max() - plain.min()), atol=1e-6)
    for level in (0, 0.25, 1):
        constant = restore(np.full((64, 64), level, np.float32), placement, rules)
        np.testing.assert_allclose(constant, level, atol=1e-6)
    boxed = place(Size(50, 70), Box(10, 10, 40, 40), rules)
    assert restore(0.3 + 0.4 * blob(64), boxed, rules)[:8].max() == 0  # outside the crop


def test_the_mask_is_rounded_once() -> None:
    levels = np.arange(256, dtype=np.float32)[None] / np.float32(255)
    assert to_mask(levels).tolist() == [list(range(256))]
    assert to_mask(np.array([[0.49, 0.51, 254.49, 254.51]], np.float32) / np.float32(255)).tolist() == [[0, 1, 254, 255]]
    assert to_mask(np.array([[1.0000001, 0.0]], np.float32)).tolist() == [[255, 0]]
    mask = to_mask(blob(33))
    assert mask.dtype == np.uint8 and mask.shape == (33, 33)
    assert np.abs(mask - blob(33) * 255.0).max() <= 0.5001


sides = st.integers(1, 90)
edges = st.floats(-150, 250, allow_nan=False)


@settings(max_examples=120, deadline=None)
@given(height=sides, width=sides, ends=st.tuples(edges, edges, edges, edges), outside=st.sampled_from(["clip", "black"]))
def test_any_box_has_a_frame_and_an_alpha_of_the_image_s_size(
    height: int, width: int, ends: tuple[float, float, float, float], outside: str
) -> None:
    (x0, x1), (y0, y1) = sorted(ends[:2]), sorted(ends[2:])
    rules = recipe(frame_px=32, outside=outside)
    if x1 <= x0 or y1 <= y0:
        return
    try:
        placement = place(Size(height, width), Box(x0, y0, x1, y1), rules)
    except ItemRefused:
        assert x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height
        return
    left, top, right, bottom = placement.inside
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert outside == "black" or placement.region == placement.inside
    region = placement.region
    assert outside == "clip" or (region[0] <= x0 and region[1] <= y0 and region[2] >= x1 and region[3] >= y1)
    assert make_frame(np.zeros((height, width, 3), np.uint8), placement, rules).shape == (32, 32, 3)
    alpha = restore(np.ones((32, 32), np.float32), placement, rules)
    assert alpha.shape == (height, width) and alpha.dtype == np.float32
    assert alpha[top:bottom, left:right].min() > 0.999
    assert alpha.sum() == pytest.approx(alpha[top:bottom, left:right].sum())
    assert alpha.max() <= 1 + 1e-6


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(40, 300),
    width=st.integers(40, 300),
    outside=st.sampled_from(["clip", "black"]),
    frame_resize=st.sampled_from(["bilinear", "lanczos"]),
    alpha_resize=st.sampled_from(["antialias", "plain"]),
)
def test_a_round_trip_is_nearly_exact(height: int, width: int, outside: str, frame_resize: str, alpha_resize: str) -> None:
    rules = recipe(frame_px=128, outside=outside, margin_without_box=True, frame_resize=frame_resize, alpha_resize=alpha_resize)
    y, x = np.mgrid[:height, :width]
    smooth = 0.5 + 0.4 * np.sin(6 * x / width + 1) * np.cos(5 * y / height)
    image = np.repeat(np.rint(smooth * 255).astype(np.uint8)[..., None], 3, axis=2)
    placement = place(Size(height, width), None, rules)
    frame = make_frame(image, placement, rules)
    back = restore(frame[..., 0].astype(np.float32) / 255, placement, rules)
    inner = np.s_[height // 16 : -(height // 16), width // 16 : -(width // 16)]  # black padding bleeds in at the border
    assert np.abs(back - smooth)[inner].mean() < 0.005
    assert np.abs(back - smooth)[inner].max() < 0.05


def test_a_mirrored_image_has_a_mirrored_frame(photo: Maker) -> None:
    image = photo(90, 130)
    rules = recipe()
    placement = Placement(Size(90, 130), (0, 0, 130, 90))
    mirrored = make_frame(np.ascontiguousarray(image[:, ::-1]), placement, rules)
    assert np.abs(mirrored[:, ::-1].astype(int) - make_frame(image, placement, rules)).max() <= 1


@pytest.mark.parametrize(
    ("name", "box"),
    [
        ("photo1.nobox", None),
        ("photo1.box", (300, 150, 820, 610)),
        ("photo1.edgebox", (0, 500, 700, 830)),
        ("photo2.box", (40, 200, 600, 1500)),
    ],
)
def test_upstream_s_masks_fill_exactly_the_region(name: str, box: Any, shared: Path) -> None:
    """With the goldens' random weights no pixel of the crop is 0, so each mask shows where upstream pasted it."""
    path = shared / "goldens" / f"finegrain.{name}.mask.png"
    if not path.exists():
        pytest.skip("no goldens")
    mask = np.asarray(Image.open(path))
    left, top, right, bottom = place(mask.shape, Box(*box) if box else None, FINEGRAIN).inside
    assert mask[top:bottom, left:right].min() > 0
    assert np.count_nonzero(mask) == (right - left) * (bottom - top)
