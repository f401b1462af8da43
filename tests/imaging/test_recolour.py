"""Hue and saturation change, and lightness stays."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.imaging.renditions.recolour import hue_rotation, recolour, to_oklab
from pipeline.types import Pixels


def angle_between(one: float, other: float) -> float:
    return abs((one - other + 180) % 360 - 180)


def hues(lab: np.ndarray) -> np.ndarray:
    return np.degrees(np.arctan2(lab[..., 2], lab[..., 1]))


def test_known_colours() -> None:
    """Ottosson's own table of sRGB's corners (bottosson.github.io/posts/oklab)."""
    lab = to_oklab(np.array([[1.0, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]))
    expected = [[1, 0, 0], [0.628, 0.225, 0.126], [0.866, -0.234, 0.179], [0.452, -0.032, -0.312], [0, 0, 0]]
    assert np.abs(lab - expected).max() < 6e-4


@settings(max_examples=15)
@given(st.floats(-360, 360), st.floats(0, 2), st.integers(0, 99))
def test_lightness_stays(degrees: float, saturation: float, seed: int) -> None:
    colours = np.random.default_rng(seed).integers(0, 256, (8, 64, 3), np.uint8)
    recoloured = recolour(colours, round(degrees), round(saturation, 1))
    moved = np.abs(to_oklab(recoloured / 255)[..., 0] - to_oklab(colours / 255)[..., 0])
    assert np.quantile(moved, 0.99) < 0.012 and moved.max() < 0.05


def test_hues_turn_and_greys_stay_grey() -> None:
    muted = np.array([[[150, 110, 100], [100, 140, 110], [90, 110, 150]]], np.uint8)
    for degrees in (30, 90, 180, -45):
        recoloured = recolour(muted, degrees, 1)
        turned = hues(to_oklab(recoloured / 255)) - hues(to_oklab(muted / 255))
        assert all(angle_between(one, degrees) < 3 for one in turned.ravel()), degrees
    greys = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    moved = np.abs(recolour(greys, 120, 1.7).astype(int) - greys)[0]
    assert moved[8:].max() <= 2 and moved.max() <= 5, "except the last few levels before black"
    assert np.ptp(recolour(muted, 0, 0).astype(int), axis=2).max() <= 2, "no saturation is grey"


def test_neutral_settings_return_the_image_itself(photo: Callable[[int, int], Pixels]) -> None:
    image = photo(20, 30)
    assert recolour(image, 0, 1) is image
    assert recolour(image, 360, 1) is image


@pytest.mark.parametrize("target", ["#c0392b", "#2e86de", "#27ae60", "#f1c40f"])
def test_an_object_takes_the_hue_of_a_colour(target: str) -> None:
    rng = np.random.default_rng(0)
    image = np.clip(np.array([90, 120, 170]) + rng.normal(0, 12, (60, 80, 3)), 0, 255).astype(np.uint8)
    mask = np.zeros((60, 80), np.uint8)
    mask[10:50, 10:70] = 255
    image[mask == 0] = (10, 200, 30)  # the background does not count
    degrees = hue_rotation(image, mask, target)
    assert degrees is not None
    mean = to_oklab(recolour(image, degrees, 1)[mask > 0] / 255).mean(axis=0)
    wanted = to_oklab(np.array([int(target[at : at + 2], 16) for at in (1, 3, 5)]) / 255)
    assert angle_between(math.degrees(math.atan2(mean[2], mean[1])), float(hues(wanted))) < 6


def test_grey_has_no_hue() -> None:
    grey, mask = np.full((5, 5, 3), 120, np.uint8), np.full((5, 5), 255, np.uint8)
    assert hue_rotation(grey, mask, "#ff0000") is None
    assert hue_rotation(grey + np.array([60, 0, 0], np.uint8), mask, "#777777") is None
