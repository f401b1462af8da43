from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.quality.tags import tags, thin_share


def blank(height: int = 300, width: int = 400) -> np.ndarray:
    return np.zeros((height, width), np.uint8)


def stool() -> np.ndarray:
    """A seat on three thin legs."""
    truth = blank()
    truth[60:90, 100:300] = 255
    truth[90:240, 110:114] = truth[90:240, 190:194] = truth[90:240, 286:290] = 255
    return truth


def test_a_plain_object_has_none() -> None:
    truth = blank()
    truth[80:220, 100:300] = 255
    assert tags(truth) == ()


@pytest.mark.parametrize(("row", "column"), [(0, 200), (299, 200), (150, 0), (150, 399)])
def test_one_pixel_at_the_border_is_enough(row: int, column: int) -> None:
    truth = blank()
    truth[80:220, 100:300] = 255
    truth[row, column] = 255
    assert tags(truth) == ("border",)


def test_legs_are_thin_and_a_stub_is_not() -> None:
    board = blank()
    board[60:240, 100:300] = 255
    board[240:260, 198:202] = 255
    assert tags(stool()) == ("thin",)
    assert tags(board) == ()
    assert thin_share(stool() // 255) == pytest.approx(3 * 150 * 4 / (30 * 200 + 3 * 150 * 4), abs=0.05)


def test_what_is_far_away_is_not_thin_for_that() -> None:
    """The same object in another size has the same tag, until it is too small to tell."""
    board = blank()
    board[60:240, 100:300] = 255
    for scale in (2, 1, 0.5, 0.2, 0.05):
        size = (max(1, round(400 * scale)), max(1, round(300 * scale)))
        assert tags(cv2.resize(board, size, interpolation=cv2.INTER_AREA)) == ()
        legs = cv2.resize(stool(), size, interpolation=cv2.INTER_AREA)
        assert tags(legs) == (("thin",) if scale >= 0.2 else ()), scale


def test_what_the_border_cuts_is_no_thinner() -> None:
    truth = blank()
    truth[297:, 50:350] = 255
    assert tags(truth) == ("border",)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2), (50, 1)])
def test_small_pictures(size: tuple[int, int]) -> None:
    assert tags(np.zeros(size, np.uint8)) == ()
    assert tags(np.full(size, 255, np.uint8)) == ("border",)


def test_half_transparent_is_not_there() -> None:
    truth = blank()
    truth[:, :] = 100
    assert tags(truth) == ()
