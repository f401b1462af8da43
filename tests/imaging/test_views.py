"""The contour, and the places that are shown at 1:1."""

from __future__ import annotations

import numpy as np

from pipeline.imaging.views import contour, least_certain, most_changed


def test_views_find_the_contour_and_the_least_certain_place() -> None:
    mask = np.zeros((400, 600), np.uint8)
    mask[100:200, 100:300] = 255
    mask[300:340, 500:540] = 128
    top, left = least_certain(mask)
    assert top <= 300 and top + 128 >= 340 and left <= 500 and left + 128 >= 540
    assert contour(mask[:250]) == "M100 100L100 199L299 199L299 100Z"
    assert least_certain(mask[:5, :7]) == (0, 0)


def test_views_find_the_most_changed_place() -> None:
    one = np.zeros((400, 600), np.uint8)
    one[100:200, 100:300] = 128
    other = one.copy()
    other[310:330, 20:60] = 255
    top, left = most_changed(one, other)
    assert top <= 310 and top + 128 >= 330 and left <= 20 and left + 128 >= 60
