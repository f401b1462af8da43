from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.quality.tags import tags, thin_share


def blank(height: int = 300, width: int = 400) -> np.ndarray:
    return np.zeros((height, width), np.uint8)


def board(top: int = 80, bottom: int = 220) -> np.ndarray:
    ground_truth = blank()
    ground_truth[top:bottom, 100:300] = 255
    return ground_truth


def stool() -> np.ndarray:
    """A seat on three thin legs."""
    ground_truth = blank()
    ground_truth[60:90, 100:300] = 255
    ground_truth[90:240, 110:114] = ground_truth[90:240, 190:194] = ground_truth[90:240, 286:290] = 255
    return ground_truth


def test_a_plain_object_has_no_tags() -> None:
    assert tags(board()) == ()


@pytest.mark.parametrize(("row", "column"), [(0, 200), (299, 200), (150, 0), (150, 399)])
def test_one_pixel_at_the_border_counts(row: int, column: int) -> None:
    ground_truth = board()
    ground_truth[row, column] = 255
    assert tags(ground_truth) == ("border",)


def test_legs_are_thin_and_a_stub_is_not() -> None:
    stub = board(60, 240)
    stub[240:260, 198:202] = 255
    assert tags(stool()) == ("thin",)
    assert tags(stub) == ()
    assert thin_share(stool() // 255) == pytest.approx(3 * 150 * 4 / (30 * 200 + 3 * 150 * 4), abs=0.05)


def test_tags_do_not_depend_on_the_size() -> None:
    """Unless the object is too small to measure."""
    for scale in (2, 1, 0.5, 0.2, 0.05):
        size = (max(1, round(400 * scale)), max(1, round(300 * scale)))
        assert tags(cv2.resize(board(60, 240), size, interpolation=cv2.INTER_AREA)) == ()
        legs = cv2.resize(stool(), size, interpolation=cv2.INTER_AREA)
        assert tags(legs) == (("thin",) if scale >= 0.2 else ()), scale


def test_an_object_cut_by_the_border_is_not_thin() -> None:
    ground_truth = blank()
    ground_truth[297:, 50:350] = 255
    assert tags(ground_truth) == ("border",)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2), (50, 1)])
def test_small_pictures(size: tuple[int, int]) -> None:
    assert tags(np.zeros(size, np.uint8)) == ()
    assert tags(np.full(size, 255, np.uint8)) == ("border",)


def test_partly_transparent_pixels_do_not_count() -> None:
    assert tags(blank() + np.uint8(100)) == ()
