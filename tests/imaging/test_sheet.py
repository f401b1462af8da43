from __future__ import annotations

import io

import numpy as np
from PIL import Image

from pipeline.imaging.sheet import CELL, Entry, contact_sheet


def entry(height: int, width: int) -> Entry:
    photo = np.full((height, width, 3), (200, 30, 30), np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : -height // 4, width // 4 : -width // 4] = 255
    return Entry(photo, mask, (photo, mask), (2.0, 2.0, width - 2.0, height - 2.0), "an item")


def test_photo_mask_and_cutout_are_side_by_side() -> None:
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet([entry(90, 120), entry(120, 60), entry(30, 400)]))).convert("RGB"))
    middle = 8 + CELL.height // 2
    photo, mask, cutout = (sheet[middle, 8 + CELL.width // 2 + number * (CELL.width + 8)] for number in range(3))
    assert np.abs(photo.astype(int) - (200, 30, 30)).max() < 12
    assert mask.min() > 240
    assert np.abs(cutout.astype(int) - (200, 30, 30)).max() < 12
    corner = sheet[8 + 4, 8 + 2 * (CELL.width + 8) + 4]
    assert corner.min() > 180, "the checkerboard shows through"


def test_an_empty_sheet_is_a_picture() -> None:
    assert Image.open(io.BytesIO(contact_sheet([]))).size[0] > 0


def test_a_box_is_drawn_in_pixels_of_the_mask() -> None:
    full = entry(360, 480)
    small = full._replace(photo=np.ascontiguousarray(full.photo[::2, ::2]))
    assert contact_sheet([small]) == contact_sheet([full])
