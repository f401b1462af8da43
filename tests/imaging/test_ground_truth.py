from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.ground_truth import decode_ground_truth


def saved(array: Any, form: str = "PNG", **how: Any) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(array).save(sink, form, **how)
    return sink.getvalue()


MASK = np.zeros((12, 20), np.uint8)
MASK[3:9, 5:15] = 255


def test_masks_as_people_save_them() -> None:
    one_bit = io.BytesIO()
    Image.fromarray(MASK).convert("1").save(one_bit, "PNG")
    for data in (saved(MASK), saved(np.dstack([MASK] * 3)), saved(MASK.astype(np.uint16) * 257), one_bit.getvalue()):
        found = decode_ground_truth(data, Limits())
        assert found.flags.c_contiguous
        assert np.array_equal(found, MASK)


def test_soft_and_lossy_masks_stay_what_they_are() -> None:
    soft = np.linspace(0, 255, 240).astype(np.uint8).reshape(12, 20)
    assert np.array_equal(decode_ground_truth(saved(soft), Limits()), soft)
    assert np.abs(decode_ground_truth(saved(np.dstack([MASK] * 3), "JPEG", quality=90), Limits()).astype(int) - MASK).max() < 60


def test_empty_and_full_masks_are_masks() -> None:
    for level in (0, 255):
        assert (decode_ground_truth(saved(np.full((3, 4), level, np.uint8)), Limits()) == level).all()


def test_what_is_no_mask_is_refused() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    with pytest.raises(DecodeError, match="a picture in colours; save it as a grey mask"):
        decode_ground_truth(saved(photo), Limits())
    with pytest.raises(DecodeError, match="highest level is 1 of 255"):
        decode_ground_truth(saved(MASK // 255), Limits())
    with pytest.raises(DecodeError, match="max_pixels"):
        decode_ground_truth(saved(MASK), Limits(max_pixels=10))
    with pytest.raises(DecodeError):
        decode_ground_truth(saved(MASK)[:60], Limits())
