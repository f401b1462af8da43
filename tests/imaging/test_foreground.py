from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

import pipeline.imaging.foreground
from pipeline.imaging.foreground import OPAQUE, estimate_foreground
from pipeline.imaging.frame import to_mask
from pipeline.types import Mask, Pixels, as_alpha

Maker = Callable[[int, int], Pixels]


def disc(height: int, width: int, softness: float = 6.0) -> Mask:
    y, x = np.mgrid[:height, :width]
    distance = np.hypot((y - height / 2) / height, (x - width / 2) / width) * min(height, width)
    return to_mask(np.clip((0.3 * min(height, width) - distance) / softness + 0.5, 0, 1).astype(np.float32))


def scene(height: int, width: int, softness: float = 6.0) -> tuple[Pixels, Mask, Pixels]:
    """An orange object over a blue ground with waves in both: image, mask, the object's true colours."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    waves = 30 * np.sin(20 * x / width)[..., None] * np.ones(3)
    colours = np.clip(np.array([220, 120, 40]) + waves, 0, 255)
    ground = np.clip(np.array([30, 60, 200]) + 20 * np.cos(15 * y / height)[..., None], 0, 255)
    mask = disc(height, width, softness)
    alpha = as_alpha(mask)[..., None]
    image = alpha * colours + (1 - alpha) * ground
    return np.rint(image).astype(np.uint8), mask, np.rint(colours).astype(np.uint8)


def half_transparent(mask: Mask) -> Any:
    return (mask > 0) & (mask < OPAQUE)


def seen_error(colours: Pixels, truth: Pixels, mask: Mask) -> float:
    """Mean error of colour times opacity over the band, in levels."""
    return float((as_alpha(mask)[..., None] * np.abs(colours.astype(float) - truth))[half_transparent(mask)].mean())


ours = pytest.mark.parametrize("method", ["multilevel", "blur_fusion"])


def test_none_is_the_image_itself(photo: Maker) -> None:
    image = photo(20, 30)
    assert estimate_foreground(image, disc(20, 30), "none") is image


@pytest.mark.parametrize("side", [200, 700, 1100])
@ours
def test_the_background_is_taken_out(method: Any, side: int) -> None:
    image, mask, truth = scene(side, side * 4 // 3, softness=side / 80)
    before = seen_error(image, truth, mask)
    after = seen_error(estimate_foreground(image, mask, method), truth, mask)
    assert before > 20
    assert after < before / 4


@pytest.mark.parametrize("size", [(150, 300), (600, 1400), (2000, 70)])
@ours
def test_the_band_alone_is_changed(method: Any, size: tuple[int, int], photo: Maker) -> None:
    image, mask = photo(*size), disc(*size)
    original = image.copy()
    colours = estimate_foreground(image, mask, method)
    band = half_transparent(mask)
    assert band.any()
    np.testing.assert_array_equal(colours[~band], image[~band])
    assert (colours[band] != image[band]).any()
    np.testing.assert_array_equal(image, original)
    assert colours.dtype == np.uint8


@ours
def test_one_colour_stays_that_colour(method: Any) -> None:
    """Nothing to take out: rounding, not truncation, must give every level back."""
    mask = disc(120, 160, 30)
    for level in (1, 77, 128, 200, 255):
        image = np.full((120, 160, 3), level, np.uint8)
        colours = estimate_foreground(image, mask, method)
        strong = mask > 0.3 * 255
        assert np.abs(colours[strong].astype(int) - level).max() <= (0 if level < 128 else 1)


@ours
def test_a_scene_has_the_same_colours_at_any_size(method: Any) -> None:
    """The same scene at twice the size gives the same colours: nothing depends on pixels."""
    image, mask, _ = scene(900, 1200, softness=8)
    large = cv2.resize(image, (2400, 1800), interpolation=cv2.INTER_CUBIC)
    large_mask = cv2.resize(mask, (2400, 1800), interpolation=cv2.INTER_LINEAR)
    colours = estimate_foreground(image, mask, method).astype(float)
    reduced = cv2.resize(estimate_foreground(large, large_mask, method), (1200, 900), interpolation=cv2.INTER_AREA)
    inner = (mask > 25) & (mask < 230)
    assert np.abs(reduced - colours)[inner].mean() < 0.4  # levels are rounded: a third is nothing


def test_what_the_band_cannot_see_is_left_out(photo: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    image, mask = photo(900, 1600), np.zeros((900, 1600), np.uint8)
    mask[250:450, 333:733] = disc(200, 400, 40)
    alone = estimate_foreground(image, mask, "blur_fusion").astype(int)
    monkeypatch.setattr(pipeline.imaging.foreground, "_around", lambda wanted, reach: np.s_[:, :])
    difference = np.abs(estimate_foreground(image, mask, "blur_fusion") - alone)
    assert difference.max() <= 1
    assert (difference > 0)[half_transparent(mask)].mean() < 0.02


def test_a_part_enlarged_is_a_part_of_the_enlarged() -> None:
    small = np.random.default_rng(3).random((70, 100, 4), dtype=np.float32)
    whole = cv2.resize(small, (410, 287), interpolation=cv2.INTER_LINEAR)[..., :3]
    for part in (np.s_[0:287, 0:410], np.s_[13:150, 40:41], np.s_[200:287, 399:410]):
        assert (
            np.abs(pipeline.imaging.foreground._enlarged(small, part, (287, 410)) - whole[part]).max() < 0.04
        )  # OpenCV 4 warps in steps of 1/32


@ours
def test_nothing_is_shifted(method: Any) -> None:
    """Mirroring the picture mirrors the result."""
    image, mask, _ = scene(220, 301)
    colours = estimate_foreground(image, mask, method)
    flipped = estimate_foreground(np.ascontiguousarray(image[::-1, ::-1]), np.ascontiguousarray(mask[::-1, ::-1]), method)
    assert np.abs(flipped[::-1, ::-1].astype(int) - colours).max() <= 1


@pytest.mark.parametrize("method", ["blur_fusion", "ben2"])
def test_tiles_leave_no_trace(method: Any, photo: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    image, mask = photo(330, 410), disc(330, 410, 80)
    colours = []
    for side in (64, 5000):
        monkeypatch.setattr(pipeline.imaging.foreground, "TILE_PX", side)
        colours.append(estimate_foreground(image, mask, method).astype(int))
    difference = np.abs(colours[0] - colours[1])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("method", ["multilevel", "blur_fusion", "ben2"])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (2, 3000)])
@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_small_thin_and_even_masks(method: Any, size: tuple[int, int], level: int, photo: Maker) -> None:
    image = photo(*size)
    colours = estimate_foreground(image, np.full(size, level, np.uint8), method)
    assert colours.shape == image.shape
    if level in {0, 255} and method != "ben2":
        np.testing.assert_array_equal(colours, image)


def published(image: Pixels, alpha: Any) -> Any:
    """Two passes of the paper's formula in double precision on the whole image, with BEN2's kernels and truncation."""
    colours, share = image / 255, alpha[..., None]
    front = back = colours
    for side in (90, 6):
        mean = cv2.blur(alpha, (side, side))[..., None]
        near = cv2.blur(front * share, (side, side)) / (mean + 1e-5)
        back = cv2.blur(back * (1 - share), (side, side)) / (1 - mean + 1e-5)
        front = np.clip(near + share * (colours - share * near - (1 - share) * back), 0, 1)
    return (front * 255).astype(np.uint8)


def test_ben2_is_the_formula_on_the_whole_image(photo: Maker) -> None:
    image, mask = photo(700, 420), disc(700, 420, 40)
    difference = np.abs(estimate_foreground(image, mask, "ben2").astype(int) - published(image, as_alpha(mask).astype(float)))
    assert difference.max() <= 1
    assert difference.mean() < 1e-4


def test_ben2_gives_the_published_code_s_colours(shared: Path) -> None:
    goldens = shared / "goldens"
    if not (goldens / "ben2_base.photo1.refined_foreground.png").exists():
        pytest.skip("no goldens")
    golden = np.asarray(Image.open(goldens / "ben2_base.photo1.refined_foreground.png"))
    image = np.asarray(Image.open(goldens / "photo1.png").convert("RGB"))
    difference = np.abs(estimate_foreground(image, golden[..., 3], "ben2").astype(int) - golden[..., :3])
    assert difference.max() <= 1
    assert difference.mean() < 1e-4


@pytest.mark.parametrize("shape", [(1, 900_000), (900_000, 1), (3, 250_000)])
@ours
def test_extreme_shapes_cost_no_more_than_others(method: Any, shape: tuple[int, int]) -> None:
    """A few kilobytes of PNG must not keep a worker busy for minutes; the suite's time limit is the judge."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    mask = rng.integers(0, 256, shape, np.uint8)
    found = estimate_foreground(image, mask, method)
    assert found.shape == image.shape
