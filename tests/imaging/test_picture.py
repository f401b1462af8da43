from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.config.job import Limits
from pipeline.imaging.decode import decode
from pipeline.imaging.picture import is_picture, upright_rgb


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_pil_image_is_what_its_file_decodes_to(orientation: int, mode: str) -> None:
    """A PIL image that was just opened carries its EXIF orientation; the array must be upright as the job's is."""
    rng = np.random.default_rng(orientation)
    image = Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8)).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(rng.integers(0, 256, (6, 9), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    sink = io.BytesIO()
    image.save(sink, "PNG", exif=exif)
    opened = Image.open(io.BytesIO(sink.getvalue()))
    assert np.array_equal(upright_rgb(opened), decode(sink.getvalue(), Limits()))


def test_arrays_are_pictures_too() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(upright_rgb(grey), np.dstack([grey] * 3))
    assert np.array_equal(upright_rgb(grey[..., None]), np.dstack([grey] * 3))
    rgba = np.zeros((2, 2, 4), np.uint8)
    assert (upright_rgb(rgba) == 255).all(), "transparency is laid over white"
    strided = np.zeros((4, 4, 3), np.uint8)[::2, ::2]
    assert upright_rgb(strided).flags.c_contiguous
    assert is_picture(grey)
    assert is_picture(Image.new("L", (1, 1)))
    assert not is_picture([grey])
