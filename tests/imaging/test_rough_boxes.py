"""Boxes as people and detectors draw them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.imaging.rough_boxes import LOOSE, SHIFT, rough_box

OBJECT = (40, 30, 100, 70)
"""x0, y0, x1, y1 in a picture of 200 x 150 pixels."""


def truth(box: tuple[int, int, int, int] = OBJECT) -> np.ndarray:
    mask = np.zeros((150, 200), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 255
    return mask


@given(st.integers(0, 2**63))
def test_loose_boxes_contain_the_object_and_displaced_ones_stay_close(seed: int) -> None:
    x0, y0, x1, y1 = OBJECT
    loose = rough_box(truth(), "loose", seed)
    assert loose is not None and loose.x0 <= x0 and loose.y0 <= y0 and loose.x1 >= x1 and loose.y1 >= y1
    assert loose.x1 - x1 <= LOOSE * 60 + 1 and y0 - loose.y0 <= LOOSE * 40 + 1
    shifted = rough_box(truth(), "shifted", seed)
    assert shifted is not None and shifted.x1 - shifted.x0 == pytest.approx(60, abs=1)
    assert abs(shifted.x0 - x0) <= SHIFT * 60 + 1 and abs(shifted.y0 - y0) <= SHIFT * 40 + 1
    cut = rough_box(truth(), "cut", seed)
    assert cut is not None and cut.x0 >= x0 and cut.y1 <= y1
    kept = (cut.x1 - cut.x0) * (cut.y1 - cut.y0) / (60 * 40)
    assert 0.6 < kept < 0.99
    assert rough_box(truth(), "loose", seed) == loose


def test_the_other_boxes() -> None:
    assert rough_box(truth(), "none", 1) is None
    assert rough_box(truth(), "tight", 1) == OBJECT
    assert rough_box(truth(), "whole", 1) == (4, 3, 196, 147)
    beside = rough_box(truth(), "beside", 1)
    assert beside is not None and (beside.x1 - beside.x0, beside.y1 - beside.y0) == (60, 40)
    assert not truth()[int(beside.y0) : int(beside.y1), int(beside.x0) : int(beside.x1)].any()
    at_the_border = rough_box(truth((0, 0, 200, 100)), "loose", 1)
    assert at_the_border is not None and at_the_border.x0 == at_the_border.y0 == 0 and at_the_border.x1 == 200
    with pytest.raises(ValueError, match="no room"):
        rough_box(truth((0, 0, 200, 150)), "beside", 1)
    with pytest.raises(ValueError, match="no object"):
        rough_box(np.zeros((9, 9), np.uint8), "tight", 1)
