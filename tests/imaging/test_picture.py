from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from valid_images import saved

from pipeline.config.job import Limits
from pipeline.imaging.decode import decode
from pipeline.imaging.picture import is_picture, upright_rgb


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_pil_image_equals_its_decoded_file(orientation: int, mode: str) -> None:
    """An opened PIL image has its EXIF orientation, which must be applied as in a run."""
    rng = np.random.default_rng(orientation)
    image = Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8)).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(rng.integers(0, 256, (6, 9), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(image, "PNG", exif=exif)
    assert np.array_equal(upright_rgb(Image.open(io.BytesIO(data))), decode(data, Limits()))


def test_arrays_are_pictures() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(upright_rgb(grey), np.dstack([grey] * 3))
    assert np.array_equal(upright_rgb(grey[..., None]), np.dstack([grey] * 3))
    rgba = np.zeros((2, 2, 4), np.uint8)
    assert (upright_rgb(rgba) == 255).all(), "transparency is composited over white"
    strided = np.zeros((4, 4, 3), np.uint8)[::2, ::2]
    assert upright_rgb(strided).flags.c_contiguous
    assert is_picture(grey)
    assert is_picture(Image.new("L", (1, 1)))
    assert not is_picture([grey])
