from __future__ import annotations

import numpy as np
import pytest

from pipeline.imaging.components import measure_parts
from pipeline.types import Mask


def mask(*boxes: tuple[int, int, int, int], side: int = 100) -> Mask:
    made = np.zeros((side, side), np.uint8)
    for x0, y0, x1, y1 in boxes:
        made[y0:y1, x0:x1] ^= 255
    return made


def test_parts_and_holes() -> None:
    assert measure_parts(mask()) == (0, 0.0, 0)
    assert measure_parts(mask((0, 0, 100, 100))) == (1, 1.0, 0)
    assert measure_parts(mask((10, 10, 30, 30), (50, 50, 60, 90))) == (2, 0.5, 0)
    assert measure_parts(mask((10, 10, 60, 60), (20, 20, 30, 30), (40, 40, 50, 50))).holes == 2
    assert measure_parts(mask((10, 10, 60, 60), (20, 10, 30, 30))).holes == 0, "a bay is open"


def test_specks_are_neither_parts_nor_holes() -> None:
    parts = measure_parts(mask((10, 10, 60, 60), (20, 20, 22, 22), (80, 80, 83, 83)))
    assert (parts.parts, parts.holes) == (1, 0)
    assert parts.largest == pytest.approx(2496 / 2505)


def test_a_frame_round_the_picture_has_one_hole_however_large() -> None:
    assert measure_parts(mask((0, 0, 100, 100), (2, 2, 98, 98))) == (1, 1.0, 1)


def test_what_reaches_the_border_is_no_hole() -> None:
    assert measure_parts(mask((0, 0, 100, 100), (0, 40, 10, 50))).holes == 0
    assert measure_parts(mask((0, 40, 100, 60))).holes == 0, "a bar across leaves two sides, both open"
