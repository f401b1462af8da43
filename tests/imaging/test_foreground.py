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
    """An orange object on blue with waves in both: image, mask, the object's true colours."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    colours = np.clip(np.array([220, 120, 40]) + 30 * np.sin(20 * x / width)[..., None], 0, 255)
    background = np.clip(np.array([30, 60, 200]) + 20 * np.cos(15 * y / height)[..., None], 0, 255)
    mask = disc(height, width, softness)
    alpha = as_alpha(mask)[..., None]
    image = alpha * colours + (1 - alpha) * background
    return np.rint(image).astype(np.uint8), mask, np.rint(colours).astype(np.uint8)


def partly_transparent(mask: Mask) -> Any:
    return (mask > 0) & (mask < OPAQUE)


def visible_error(colours: Pixels, expected: Pixels, mask: Mask) -> float:
    """Mean error of colour times opacity over partly transparent pixels, in levels."""
    error = as_alpha(mask)[..., None] * np.abs(colours.astype(float) - expected)
    return float(error[partly_transparent(mask)].mean())


def test_none_returns_the_image_itself(photo: Maker) -> None:
    image = photo(20, 30)
    assert estimate_foreground(image, disc(20, 30), "none") is image


@pytest.mark.parametrize("side", [200, 700, 1100])
def test_the_background_is_removed(side: int) -> None:
    image, mask, colours = scene(side, side * 4 // 3, softness=side / 80)
    before = visible_error(image, colours, mask)
    assert before > 20
    assert visible_error(estimate_foreground(image, mask, "multilevel"), colours, mask) < before / 4


@pytest.mark.parametrize("size", [(150, 300), (600, 1400), (2000, 70)])
def test_only_partly_transparent_pixels_change(size: tuple[int, int], photo: Maker) -> None:
    image, mask = photo(*size), disc(*size)
    original, partly = image.copy(), partly_transparent(mask)
    colours = estimate_foreground(image, mask, "multilevel")
    assert partly.any() and colours.dtype == np.uint8
    np.testing.assert_array_equal(colours[~partly], image[~partly])
    assert (colours[partly] != image[partly]).any()
    np.testing.assert_array_equal(image, original)


@pytest.mark.parametrize("level", [1, 77, 128, 200, 255])
def test_a_plain_colour_stays(level: int) -> None:
    """There is nothing to remove. Levels must be rounded and not truncated."""
    image, mask = np.full((120, 160, 3), level, np.uint8), disc(120, 160, 30)
    colours = estimate_foreground(image, mask, "multilevel")
    assert np.abs(colours[mask > 0.3 * 255].astype(int) - level).max() <= (0 if level < 128 else 1)


def test_a_scene_has_the_same_colours_at_twice_the_size() -> None:
    image, mask, _ = scene(900, 1200, softness=8)
    large = cv2.resize(image, (2400, 1800), interpolation=cv2.INTER_CUBIC)
    large_mask = cv2.resize(mask, (2400, 1800), interpolation=cv2.INTER_LINEAR)
    colours = estimate_foreground(image, mask, "multilevel").astype(float)
    reduced = cv2.resize(estimate_foreground(large, large_mask, "multilevel"), (1200, 900), interpolation=cv2.INTER_AREA)
    inner = (mask > 25) & (mask < 230)
    assert np.abs(reduced - colours)[inner].mean() < 0.4, "levels are rounded"


def test_a_rotated_image_has_rotated_colours() -> None:
    """Nothing is shifted."""
    image, mask, _ = scene(220, 301)
    colours = estimate_foreground(image, mask, "multilevel")
    rotated = estimate_foreground(np.ascontiguousarray(image[::-1, ::-1]), np.ascontiguousarray(mask[::-1, ::-1]), "multilevel")
    assert np.abs(rotated[::-1, ::-1].astype(int) - colours).max() <= 1


def test_the_tiles_of_blur_fusion_leave_no_trace(photo: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    image, mask = photo(330, 410), disc(330, 410, 80)
    colours = []
    for side in (128, 5000):
        monkeypatch.setattr(pipeline.imaging.foreground, "TILE_PX", side)
        colours.append(estimate_foreground(image, mask, "ben2").astype(int))
    difference = np.abs(colours[0] - colours[1])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("method", ["multilevel", "ben2"])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (2, 3000)])
@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_small_thin_and_uniform_masks(method: Any, size: tuple[int, int], level: int, photo: Maker) -> None:
    image = photo(*size)
    colours = estimate_foreground(image, np.full(size, level, np.uint8), method)
    assert colours.shape == image.shape
    if level in {0, 255} and method == "multilevel":
        np.testing.assert_array_equal(colours, image)


def published(image: Pixels, alpha: Any) -> Any:
    """Run both passes of the paper's formula in double precision on the complete image, with BEN2's kernels and truncation."""
    colours, share = image / 255, alpha[..., None]
    front = back = colours
    for side in (90, 6):
        mean = cv2.blur(alpha, (side, side))[..., None]
        near = cv2.blur(front * share, (side, side)) / (mean + 1e-5)
        back = cv2.blur(back * (1 - share), (side, side)) / (1 - mean + 1e-5)
        front = np.clip(near + share * (colours - share * near - (1 - share) * back), 0, 1)
    return (front * 255).astype(np.uint8)


def assert_close(colours: Pixels, expected: Pixels) -> None:
    difference = np.abs(colours.astype(int) - expected)
    assert difference.max() <= 1
    assert difference.mean() < 1e-4


def test_ben2_is_the_published_formula(photo: Maker) -> None:
    image, mask = photo(700, 420), disc(700, 420, 40)
    assert_close(estimate_foreground(image, mask, "ben2"), published(image, as_alpha(mask).astype(float)))


def test_ben2_equals_the_golden_of_the_published_code(shared: Path) -> None:
    goldens = shared / "goldens"
    if not (goldens / "ben2_base.photo1.refined_foreground.png").exists():
        pytest.skip("no goldens")
    golden = np.asarray(Image.open(goldens / "ben2_base.photo1.refined_foreground.png"))
    image = np.asarray(Image.open(goldens / "photo1.png").convert("RGB"))
    assert_close(estimate_foreground(image, golden[..., 3], "ben2"), golden[..., :3])


@pytest.mark.parametrize("shape", [(1, 900_000), (900_000, 1), (3, 250_000)])
def test_extreme_shapes_take_no_longer(shape: tuple[int, int]) -> None:
    """A few kilobytes of PNG must not block a worker for minutes. The suite's time limit checks this."""
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (*shape, 3), np.uint8), rng.integers(0, 256, shape, np.uint8)
    assert estimate_foreground(image, mask, "multilevel").shape == image.shape
