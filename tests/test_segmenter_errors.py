"""Pictures that fail: their errors lead to no pixels."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from pipeline import Segmenter
from pipeline.errors import ItemRefused
from pipeline.models.cascade import Segment
from pipeline.types import Box

pytestmark = pytest.mark.usefixtures("no_collector")


def test_the_error_of_one_picture_keeps_no_picture_of_its_batch(fake_preset: str) -> None:
    images = [np.full((40, 30, 3), 200, np.uint8) for _ in range(2)]
    seen = [weakref.ref(one) for one in images]
    failed, done = Segmenter(fake_preset).segment(images, [Box(500, 500, 600, 600), None])
    assert isinstance(failed, ItemRefused) and isinstance(done, Segment)
    images.clear()
    assert [one() for one in seen] == [None, None]


def test_a_call_that_fails_keeps_no_picture(fake_preset: str) -> None:
    image = np.full((40, 30, 3), 200, np.uint8)
    seen = weakref.ref(image)
    try:
        Segmenter(fake_preset)(image, (500, 500, 600, 600))
    except ItemRefused:
        del image
    assert seen() is None
