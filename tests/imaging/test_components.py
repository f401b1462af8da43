from __future__ import annotations

import numpy as np
import pytest

from pipeline.imaging.components import measure_components
from pipeline.types import Mask

Region = tuple[int, int, int, int]


def mask(*boxes: Region, side: int = 100) -> Mask:
    """Invert each box in turn."""
    pixels = np.zeros((side, side), np.uint8)
    for x0, y0, x1, y1 in boxes:
        pixels[y0:y1, x0:x1] ^= 255
    return pixels


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([], (0, 0.0, 0)),
        ([(0, 0, 100, 100)], (1, 1.0, 0)),
        ([(10, 10, 30, 30), (50, 50, 60, 90)], (2, 0.5, 0)),
        ([(10, 10, 60, 60), (20, 20, 30, 30), (40, 40, 50, 50)], (1, 1.0, 2)),
        ([(10, 10, 60, 60), (20, 10, 30, 30)], (1, 1.0, 0)),  # a bay is open
        ([(10, 10, 60, 60), (20, 20, 22, 22), (80, 80, 83, 83)], (1, 2496 / 2505, 0)),  # specks do not count
        ([(0, 0, 100, 100), (2, 2, 98, 98)], (1, 1.0, 1)),  # a frame around the picture has one hole
        ([(0, 0, 100, 100), (0, 40, 10, 50)], (1, 1.0, 0)),  # background at the border is no hole
        ([(0, 40, 100, 60)], (1, 1.0, 0)),  # a bar has two open sides
    ],
)
def test_components_and_holes(boxes: list[Region], expected: tuple[int, float, int]) -> None:
    assert measure_components(mask(*boxes)) == pytest.approx(expected)
