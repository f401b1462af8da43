"""Draw a contact sheet: photo, mask and cutout side by side, for an overview of many results."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.types import Mask, Pixels, Size

MARK = b"Contact sheet by Matteline"
"""A comment in every contact sheet."""

CELL = Size(height=180, width=240)
GAP_PX = 8
CAPTION_PX, LINE_PX, LETTER_PX = 34, 16, 12
"""Height of a caption of two lines, of one of them, and of its letters."""
SQUARE_PX = 12

FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf", "Helvetica.ttc")
"""Fonts of Linux, macOS and Windows; the first one that the system has is used. Pillow's own has no letters beyond ASCII."""


class Entry(NamedTuple):
    """One item: photo, mask (H, W), cutout as colours and opacity, the prompt's box in pixels of the mask, and a caption."""

    photo: Pixels
    """(H, W, 3), or smaller, but at least as large as a cell."""
    mask: Mask
    cutout: tuple[Pixels, Mask]
    box: tuple[float, ...] | None
    caption: str


def contact_sheet(entries: Iterable[Entry], columns: int = 2) -> bytes:
    """Draw entries in rows of ``columns``, each as photo | mask | cutout on a checkerboard; a JPEG file."""
    strips = [_strip(entry) for entry in entries]
    width, height = 3 * CELL.width + 2 * GAP_PX, CELL.height + CAPTION_PX
    rows = -(-len(strips) // columns)
    sheet = Image.new("RGB", (columns * (width + 3 * GAP_PX) + GAP_PX, rows * (height + GAP_PX) + GAP_PX), "white")
    for number, strip in enumerate(strips):
        down, across = divmod(number, columns)
        sheet.paste(strip, (GAP_PX + across * (width + 3 * GAP_PX), GAP_PX + down * (height + GAP_PX)))
    sink = io.BytesIO()
    sheet.save(sink, "JPEG", quality=88, comment=MARK)
    return sink.getvalue()


def _strip(entry: Entry) -> Image.Image:
    strip = Image.new("RGB", (3 * CELL.width + 2 * GAP_PX, CELL.height + CAPTION_PX), "white")
    photo = Image.fromarray(entry.photo)
    cells = [_cell(photo), _cell(Image.fromarray(entry.mask)), _cell(Image.fromarray(np.dstack(entry.cutout)))]
    if entry.box is not None:
        scale = cells[0].width / entry.mask.shape[1]
        x0, y0, x1, y1 = (value * scale for value in entry.box)
        ImageDraw.Draw(cells[0]).rectangle((x0, y0, x1, y1), outline=(255, 0, 90), width=2)
    for number, cell in enumerate(cells):
        ground = checkerboard(cell.size) if cell.mode == "RGBA" else None
        left, top = number * (CELL.width + GAP_PX) + (CELL.width - cell.width) // 2, (CELL.height - cell.height) // 2
        if ground is not None:
            ground.paste(cell, mask=cell.getchannel("A"))
        strip.paste(ground or cell, (left, top))
    for number, line in enumerate(_lines(entry.caption, strip.width)):
        place = (0, CELL.height + 2 + number * LINE_PX)
        ImageDraw.Draw(strip).text(place, line, fill=(70, 70, 70), font=_font())
    return strip


def _lines(text: str, width_px: int) -> list[str]:
    """Divide a caption into at most two lines of this width, between words where possible. A longer one ends with …."""
    lines: list[str] = []
    rest = " ".join(text.split())
    while rest and len(lines) < 2:
        end = _fitting(rest, width_px)
        cut = rest.rfind(" ", 0, end + 1) if end < len(rest) else end
        end = cut if cut > 0 else end
        lines.append(rest[:end])
        rest = rest[end:].lstrip()
    if rest:
        lines[-1] = f"{lines[-1][: _fitting(f'{lines[-1]}…', width_px) - 1]}…"
    return lines


def _fitting(text: str, width_px: int) -> int:
    """Return how many of the first characters fit into a width, at least one."""
    longest = min(len(text), width_px)
    return next((end for end in range(longest, 1, -1) if _font().getlength(text[:end]) <= width_px), 1)


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in FONTS:
        try:
            return ImageFont.truetype(name, LETTER_PX)
        except OSError:
            continue
    return ImageFont.load_default(LETTER_PX)


def _cell(image: Image.Image) -> Image.Image:
    scale = min(CELL.width / image.width, CELL.height / image.height)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS)


def checkerboard(size: tuple[int, int]) -> Image.Image:
    """Draw a checkerboard of this width and height, RGB."""
    y, x = np.mgrid[: size[1], : size[0]] // SQUARE_PX
    return Image.fromarray(np.where((x + y) % 2, 255, 200).astype(np.uint8)).convert("RGB")
