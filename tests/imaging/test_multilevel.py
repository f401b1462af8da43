from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

import pipeline.imaging.multilevel
from pipeline.imaging.multilevel import apply, estimate_colours
from pipeline.types import Mask, Pixels

Maker = Callable[[int, int], Pixels]


def ramp(height: int, width: int) -> Mask:
    """Clear on the left, opaque on the right, half transparent between a third and two."""
    steps = np.clip((np.arange(width) / width - 1 / 3) * 3, 0, 1)
    return np.rint(np.tile(steps * 255, (height, 1))).astype(np.uint8)


def mixed(mask: Mask, near: tuple[int, int, int], far: tuple[int, int, int]) -> Pixels:
    alpha = mask[..., None] / 255
    return np.rint(alpha * near + (1 - alpha) * far).astype(np.uint8)


@pytest.mark.parametrize("size", [(90, 120), (700, 500), (300, 2000)])
def test_two_colours_are_found(size: tuple[int, int]) -> None:
    near, far = (200, 90, 30), (20, 60, 220)
    mask = ramp(*size)
    found = estimate_colours(mixed(mask, near, far), mask)
    assert max(found.near.shape) <= 256
    for colours, truth in zip(found, (near, far), strict=True):
        assert np.abs(colours[..., :3] - np.array(truth)).max() < 3


def test_without_anything_opaque_the_image_explains_itself(photo: Maker) -> None:
    """Nothing says what either colour is: they must add up to the image all the same."""
    mask = np.full((40, 60), 77, np.uint8)
    image = cv2.blur(photo(40, 60), (9, 9))
    found = estimate_colours(image, mask)
    alpha = 77 / 255
    mix = alpha * found.near[..., :3] + (1 - alpha) * found.far[..., :3]
    assert np.abs(mix - image).mean() < 2


def test_colours_are_applied_in_the_band_alone(photo: Maker) -> None:
    image, mask = photo(60, 90), ramp(60, 90)
    out = image.copy()
    apply(estimate_colours(image, mask), image, mask, (100, 200), out)
    changed = (out != image).any(-1)
    assert changed[(mask >= 100) & (mask <= 200)].mean() > 0.8
    assert not changed[(mask < 100) | (mask > 200)].any()


def test_strips_and_chunks_leave_no_trace(photo: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    image, mask = photo(210, 130), ramp(210, 130)
    colours, found = estimate_colours(image, mask), []
    for strip, chunk in ((2**20, 2**14), (130 * 7, 50)):
        monkeypatch.setattr(pipeline.imaging.multilevel, "STRIP_PX", strip)
        monkeypatch.setattr(pipeline.imaging.multilevel, "CHUNK_PX", chunk)
        out = image.copy()
        apply(colours, image, mask, (1, 253), out)
        found.append(out)
    np.testing.assert_array_equal(*found)
