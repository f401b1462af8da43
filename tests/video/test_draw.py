"""A frame over a colour or a picture."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.imaging.extend import extend_colours
from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.renditions.background import fit_background
from pipeline.video import draw as draw_module
from pipeline.video.draw import Draw, draw_each


def stripes(width: int, height: int, middle: int) -> bytes:
    """A red PNG whose middle columns are blue; its top row is green."""
    pixels = np.full((height, width, 3), (255, 0, 0), np.uint8)
    pixels[:, (width - middle) // 2 : (width + middle) // 2] = 0, 0, 255
    pixels[0] = 0, 255, 0
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


@pytest.mark.parametrize(("aspect", "middle"), [(Fraction(1), 160), (Fraction(2), 320)])
def test_a_picture_covers_the_frame_in_its_middle_and_in_its_own_proportions(aspect: Fraction, middle: int) -> None:
    picture = stripes(400, 120, middle)  # of which a frame of 4:3, or of 8:3, shows the blue columns at full height
    frame, mask = np.full((48, 64, 3), 90, np.uint8), np.zeros((48, 64), np.uint8)
    mask[20:30, 20:40] = 255
    mask[30:40, 20:40] = 128
    made = Draw("filled", "none", picture)(frame, mask, aspect)
    assert (made[20:30, 20:40] == 90).all(), "the object"
    assert made[35, 30].tolist() == [45, 45, 172], "half of it"
    assert made[0, :, 1].min() > 50, "the picture's top row"
    below = made[4:20].astype(int)
    assert np.abs(below[:, 1:-1] - (0, 0, 255)).max() <= 1, "nothing red"


def test_a_picture_is_decoded_and_resized_once() -> None:
    draw, frame, mask = (
        Draw("filled", "none", stripes(90, 60, 30)),
        np.zeros((40, 60, 3), np.uint8),
        np.zeros((40, 60), np.uint8),
    )
    before = fit_background.cache_info().misses
    first = draw(frame, mask)
    for _ in range(5):
        assert np.array_equal(draw(frame, mask), first)
    assert fit_background.cache_info().misses == before + 1


def test_what_files_share_is_computed_once_per_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, mask = np.random.default_rng(1), np.zeros((48, 64), np.uint8)
    pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
    mask[10:30, 10:40], mask[30:34, 10:40] = 255, 120
    draws = [Draw("cutout"), Draw("cutout"), Draw("filled"), Draw("filled", background="#ff0000"), Draw("mask")]
    wanted, asked = [draw(pixels, mask) for draw in draws], list[str]()

    def estimated(*given: Any) -> Any:
        asked.append("foreground")
        return estimate_foreground(*given)

    def extended(*given: Any) -> Any:
        asked.append("extend")
        return extend_colours(*given)

    monkeypatch.setattr(draw_module, "estimate_foreground", estimated)
    monkeypatch.setattr(draw_module, "extend_colours", extended)
    made = list(draw_each(draws, pixels, mask))
    assert all(np.array_equal(one, other) for one, other in zip(made, wanted, strict=True))
    assert asked == ["foreground", "extend"]
