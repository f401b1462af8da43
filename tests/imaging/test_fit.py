"""The geometry of frames: shares, aspects and sizes, for any object."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.config.rendition import LONGEST_SIDE_PX, Rendition
from pipeline.imaging.renditions.fit import MAX_PX, Extent, fit, object_box
from pipeline.types import Size

IMAGE = Size(900, 1200)
BOXES = st.tuples(st.integers(0, 1199), st.integers(0, 899), st.integers(1, 1200), st.integers(1, 900)).filter(
    lambda box: box[0] < box[2] and box[1] < box[3]
)
ASPECTS = st.tuples(st.integers(1, 16), st.integers(1, 16)).filter(lambda aspect: 1 / 20 <= aspect[0] / aspect[1] <= 20)


def rendition(**facts: Any) -> Rendition:
    return Rendition.model_validate({"name": "own"} | facts)


@given(BOXES, st.floats(0.05, 1), ASPECTS, st.integers(16, 2500))
def test_the_object_fills_its_share_along_the_limiting_side(
    box: tuple[int, int, int, int], fill: float, aspect: tuple[int, int], size_px: int
) -> None:
    placed = fit(IMAGE, box, rendition(fill=fill, aspect=aspect), size_px)
    assert placed.part == box
    assert max(placed.size) == size_px
    across, down = placed.inner.width, placed.inner.height
    shares = across - fill * placed.size.width, down - fill * placed.size.height
    assert max(shares) == pytest.approx(0, abs=1.01), "within a pixel"
    assert abs(placed.size.width * aspect[1] - placed.size.height * aspect[0]) <= 0.5 * max(aspect) + 1e-6, "the nearest pixel"
    assert 0 <= placed.top <= placed.top + down <= placed.size.height
    assert 0 <= placed.left <= placed.left + across <= placed.size.width
    assert abs(2 * placed.top + down - placed.size.height) <= 1, "in the middle"
    assert abs(2 * placed.left + across - placed.size.width) <= 1, "in the middle"


@given(BOXES, st.integers(8, 3000), st.floats(0.5, 1))
def test_squares_are_square(box: tuple[int, int, int, int], size_px: int, fill: float) -> None:
    assert fit(IMAGE, box, rendition(fill=fill, aspect="1:1"), size_px).size == (size_px, size_px)
    placed = fit(IMAGE, box, rendition(fill=fill, aspect="1:1"), None)
    assert placed.size.height == placed.size.width


@given(BOXES, st.floats(0, 0.5))
def test_trimming_without_a_size_resamples_nothing(box: tuple[int, int, int, int], trim: float) -> None:
    placed = fit(IMAGE, box, rendition(trim=trim), None)
    width, height = box[2] - box[0], box[3] - box[1]
    assert placed.inner == (height, width) and placed.scale == 1
    margin = trim * max(width, height)
    assert placed.size.width - width == pytest.approx(2 * margin, abs=1)
    assert placed.size.height - height == pytest.approx(2 * margin, abs=1)


@given(BOXES, st.one_of(st.none(), st.integers(8, 500)))
def test_without_trim_or_fill_the_complete_image_is_shown(box: tuple[int, int, int, int], size_px: int | None) -> None:
    placed = fit(IMAGE, box, rendition(), size_px)
    assert placed.part == (0, 0, 1200, 900) and placed.inner == placed.size and (placed.top, placed.left) == (0, 0)
    assert placed.size == (pytest.approx(0.75 * (size_px or 1200), abs=0.5), size_px or 1200)


@given(BOXES, st.floats(0, 0.2), st.floats(0, 0.5))
def test_a_trimmed_frame_has_room_for_the_shadow(box: tuple[int, int, int, int], aside: float, below: float) -> None:
    placed = fit(IMAGE, box, rendition(trim=0.0), None, Extent(aside, below))
    height = box[3] - box[1]
    assert placed.left >= int(aside * height) - 1
    assert placed.size.height - placed.top - placed.inner.height >= int(below * height) - 1


@pytest.mark.parametrize("facts", [{"fill": 0.01}, {"trim": 2.0}, {"trim": 0.0, "aspect": "20:1"}, {}])
def test_frames_above_the_limits_are_reduced(facts: dict[str, Any]) -> None:
    image = Size(12_000, 12_000)
    placed = fit(image, (0, 0, 12_000, 11_000), rendition(**facts), None)
    assert max(placed.size) <= LONGEST_SIDE_PX
    assert placed.size.height * placed.size.width <= 1.01 * MAX_PX
    assert placed.scale < 1


def test_masks_of_complete_images_keep_any_size() -> None:
    image = Size(12_000, 30_000)
    assert fit(image, None, rendition(what="rle"), None).size == image


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 20), st.integers(1, 20))
def test_faint_specks_do_not_belong_to_the_object(x: int, y: int, width: int, height: int) -> None:
    mask = np.full((64, 64), 12, np.uint8)
    assert object_box(mask) is None
    mask[y : y + height, x : x + width] = 13
    assert object_box(mask) == (x, y, x + width, y + height)
    assume(x > 0)
    mask[y, 0] = 12
    assert object_box(mask) == (x, y, x + width, y + height)
