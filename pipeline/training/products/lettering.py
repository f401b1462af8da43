"""Invented words, and letters in several fonts, to print on products and price labels."""

from __future__ import annotations

import functools

import cv2
import numpy as np
from PIL import ImageFont

from pipeline.training.products.layers import Colour
from pipeline.types import Mask, Pixels

SYLLABLES = "al ba bio da del do el fa fri gar go jo ka la li lo ma mel mi na nor o pa po ra ri ro sa so ta ti va ve vi wa zo"
WORDS = (
    "milk juice yoghurt oat soya coffee tea cocoa honey rice pasta flour sugar salt butter cream cheese crisps nuts muesli "
    "soap shampoo lotion gel paste wash care orange apple mango lemon berry vanilla natural original classic organic fresh "
    "light free pure extra plus mild whole 100% 1,5% 3,0% 12 No.1 500 ml 1 l 250 g 1 kg new bio eco daily home sport kids"
)
HERSHEY = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_SCRIPT_SIMPLEX,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
)
LETTER_PX = 34


def brand_name(rng: np.random.Generator) -> str:
    """Invent a name of two or three syllables."""
    name = "".join(_draw_words(SYLLABLES, int(rng.integers(2, 4)), rng))
    return (name.upper(), name.title(), name)[int(rng.integers(3))]


def phrase(rng: np.random.Generator, words: int) -> str:
    """Return some words in one case."""
    text = " ".join(_draw_words(WORDS, words, rng))
    return (text.upper(), text.title(), text)[int(rng.integers(3))]


def letters(text: str, rng: np.random.Generator) -> Mask:
    """Write a line in a font that is drawn: (h, w) uint8, 255 ink, without margins."""
    style = int(rng.integers(len(HERSHEY) + 6))
    if style < len(HERSHEY):
        mask = np.zeros((54, 30 * len(text) + 20), np.uint8)
        cv2.putText(mask, text, (8, 37), HERSHEY[style], 1.0, 255, int(rng.integers(1, 4)), cv2.LINE_AA)
    else:
        drawn = _font().getmask(text)
        mask = np.pad(np.asarray(drawn, np.uint8).reshape(drawn.size[::-1]), 3)
        if style % 3:  # bolder
            mask = np.asarray(cv2.dilate(mask, np.ones((style % 3 * 2 + 1,) * 2, np.uint8)), np.uint8)
    if rng.random() < 0.2:  # slanted
        height, width = mask.shape
        slant = np.array([[1, -0.25, 0.25 * height], [0, 1, 0]], np.float32)
        mask = np.asarray(cv2.warpAffine(mask, slant, (width + height // 4, height)), np.uint8)
    x, y, width, height = cv2.boundingRect(mask)
    return mask[y : y + height, x : x + width] if width and height else np.full((8, 8), 255, np.uint8)


def write(face: Pixels, mask: Mask, box: tuple[float, float, float, float], ink: Colour, stretch: float = 1.0) -> None:
    """Print letters into the middle of a box (x, y, width, height) of a face (h, w, 3). They keep about their proportions."""
    x, y, width, height = box
    scale = min(width / (mask.shape[1] * stretch), height / mask.shape[0])
    size = max(1, round(mask.shape[1] * stretch * scale)), max(1, round(mask.shape[0] * scale))
    left, top = round(x + (width - size[0]) / 2), round(y + (height - size[1]) / 2)
    shrinks = size[0] < mask.shape[1]
    fitted = cv2.resize(mask, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    paste(face, np.asarray(fitted, np.uint8), (left, top), ink)


def paste(face: Pixels, mask: Mask, place: tuple[int, int], ink: Colour | Pixels) -> None:
    """Print ink through a mask (h, w) at (x, y) of a face, as far as it is on the face."""
    x, y = max(place[0], 0), max(place[1], 0)
    part = face[y : max(place[1] + mask.shape[0], 0), x : max(place[0] + mask.shape[1], 0)]
    rows, columns = slice(y - place[1], y - place[1] + part.shape[0]), slice(x - place[0], x - place[0] + part.shape[1])
    if part.size:
        weight = mask[rows, columns, None].astype(np.float32) / 255
        colours = np.array(ink, np.float32) if isinstance(ink, tuple) else ink[rows, columns].astype(np.float32)
        part[:] = (part + weight * (colours - part)).astype(np.uint8)


def small_print(face: Pixels, box: tuple[float, float, float, float], ink: Colour, rng: np.random.Generator) -> None:
    """Fill a box (x, y, width, height) with lines of small print."""
    x, y, width, height = (round(value) for value in box)
    line_px = int(rng.integers(5, 9))
    for bottom in range(y + line_px, y + height, line_px):
        text = phrase(rng, 3 + width // (4 * line_px))[: max(3, int(width / (0.52 * line_px)))]
        cv2.putText(face, text, (x, bottom), cv2.FONT_HERSHEY_SIMPLEX, line_px / 34, ink, 1, cv2.LINE_AA)


def barcode(face: Pixels, box: tuple[float, float, float, float], rng: np.random.Generator) -> None:
    """Print a barcode on white into a box (x, y, width, height)."""
    x, y, width, height = (round(value) for value in box)
    part = face[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)]
    if part.shape[0] > 6 and part.shape[1] > 12:
        part[:] = 250
        bars = np.repeat(rng.random(part.shape[1] // 2) < 0.5, 2)[: part.shape[1] - 6]
        part[2:-3, 3 : 3 + len(bars)] = np.where(bars, 25, 250)[None, :, None]


def _draw_words(words: str, count: int, rng: np.random.Generator) -> list[str]:
    choices = words.split()
    return [choices[number] for number in rng.integers(len(choices), size=count)]


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(LETTER_PX)
