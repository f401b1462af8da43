"""Written objects of each format: valid, damaged, or of another format."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pipeline.errors import DecodeError
from pipeline.imaging.lossy import encode_lossy
from pipeline.imaging.png import encode_labels, encode_mask, encode_picture
from pipeline.imaging.rle import encode_rle
from pipeline.imaging.validate import decode_mask, decoded_size, validation_error
from pipeline.types import Pixels, Size

SIZE = Size(23, 31)


@pytest.fixture
def objects(photo: Callable[[int, int], Pixels]) -> dict[str, bytes]:
    image = photo(*SIZE)
    return {
        "png": encode_picture(image),
        "jpg": encode_lossy(image, "jpeg", None),
        "webp": encode_lossy(image, "webp", None),
        "json": encode_rle(image[..., 0] >> 7),
    }


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "json"])
def test_valid_objects_have_their_size_and_others_an_error(objects: dict[str, bytes], suffix: str) -> None:
    data = objects[suffix]
    assert decoded_size(data, suffix) == SIZE
    assert validation_error(data, suffix) is validation_error(data, suffix, SIZE) is None
    assert "its index row says 31 x 24" in str(validation_error(data, suffix, Size(24, 31)))
    for damaged in (b"", data[: len(data) // 2], data[:-3], b"\0" * len(data)):
        assert validation_error(damaged, suffix)
    for other in set(objects) - {suffix}:
        assert validation_error(objects[other], suffix)


def test_masks_are_decoded() -> None:
    mask = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    assert np.array_equal(decode_mask(encode_mask(mask)), mask)
    assert decoded_size(encode_labels(mask), "png") == SIZE
    with pytest.raises(DecodeError):
        decode_mask(encode_mask(mask)[:50])
