from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

import pipeline.imaging.multilevel
from pipeline.imaging.multilevel import OPAQUE, apply_colours, estimate_colours
from pipeline.types import Mask, Pixels

Maker = Callable[[int, int], Pixels]


def ramp(height: int, width: int) -> Mask:
    """Transparent on the left, opaque on the right, partly transparent between one and two thirds."""
    steps = np.clip((np.arange(width) / width - 1 / 3) * 3, 0, 1)
    return np.rint(np.tile(steps * 255, (height, 1))).astype(np.uint8)


def composited(mask: Mask, foreground: tuple[int, int, int], background: tuple[int, int, int]) -> Pixels:
    alpha = mask[..., None] / 255
    return np.rint(alpha * foreground + (1 - alpha) * background).astype(np.uint8)


@pytest.mark.parametrize("size", [(90, 120), (700, 500), (300, 2000)])
def test_plain_colours_are_recovered(size: tuple[int, int]) -> None:
    expected = (200, 90, 30), (20, 60, 220)
    mask = ramp(*size)
    estimated = estimate_colours(composited(mask, *expected), mask)
    assert max(estimated.foreground.shape) <= 256
    for colours, colour in zip(estimated, expected, strict=True):
        assert np.abs(colours[..., :3] - np.array(colour)).max() < 3


def test_without_opaque_pixels_both_colours_add_up_to_the_image(photo: Maker) -> None:
    mask = np.full((40, 60), 77, np.uint8)
    image = cv2.blur(photo(40, 60), (9, 9))
    estimated = estimate_colours(image, mask)
    alpha = 77 / 255
    mix = alpha * estimated.foreground[..., :3] + (1 - alpha) * estimated.background[..., :3]
    assert np.abs(mix - image).mean() < 2


def test_colours_are_applied_to_partly_transparent_pixels_only(photo: Maker) -> None:
    image, mask = photo(60, 90), ramp(60, 90)
    changed = (apply_colours(estimate_colours(image, mask), image, mask) != image).any(-1)
    partly = (mask > 0) & (mask < OPAQUE)
    assert changed[partly].mean() > 0.8 and not changed[~partly].any()


def test_strips_and_chunks_do_not_change_the_result(photo: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    image, mask = photo(210, 130), ramp(210, 130)
    colours, results = estimate_colours(image, mask), []
    for strip, chunk in ((2**20, 2**14), (130 * 7, 50)):
        monkeypatch.setattr(pipeline.imaging.multilevel, "STRIP_PX", strip)
        monkeypatch.setattr(pipeline.imaging.multilevel, "CHUNK_PX", chunk)
        results.append(apply_colours(colours, image, mask))
    np.testing.assert_array_equal(*results)
