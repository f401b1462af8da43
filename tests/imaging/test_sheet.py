from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFont

from pipeline.imaging import sheet
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


def test_captions_have_two_lines_and_end_at_words() -> None:
    width = 3 * CELL.width
    assert sheet._lines("Täschchen für Oma.jpg  quality 0.21", width) == ["Täschchen für Oma.jpg quality 0.21"]
    words = [f"word{number}" for number in range(400)]
    first, second = sheet._lines(" ".join(words), width)
    assert first.split() == words[: len(first.split())]
    assert second.endswith("…") and second.split()[0] == words[len(first.split())]
    assert all(sheet._font().getlength(line) <= width for line in (first, second, *sheet._lines("a" * 5000, width)))
    assert sheet._lines("", width) == []


def test_umlauts_are_drawn_where_a_font_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "FONTS", ("no such font",))
    sheet._font.cache_clear()
    assert contact_sheet([entry(90, 120)])
    sheet._font.cache_clear()
    monkeypatch.undo()
    if not isinstance(sheet._font(), ImageFont.FreeTypeFont) or sheet._font().getname()[0] == "Aileron":
        pytest.skip("this system has none of the fonts")
    one, other = (sheet._font().getmask(text).getbbox() for text in ("\u00fc", "\u0378"))
    assert one != other, "a box stands for a character that a font lacks"
