"""Invent brands: their colours, names and pictures, which all faces of a package share."""

from __future__ import annotations

import colorsys
from functools import cached_property
from typing import Literal, NamedTuple

import cv2
import numpy as np

from pipeline.training.material import Material
from pipeline.training.products.layers import Colour
from pipeline.training.products.lettering import brand_name, phrase
from pipeline.types import Pixels

Tone = Literal["pale", "dark", "vivid", "kraft"]
TONES: tuple[Tone, ...] = ("pale", "dark", "vivid", "kraft")

Span = tuple[tuple[float, float], tuple[float, float]]
"""Saturation and value: least and most."""

COLOURS: dict[Tone, tuple[Span, Span, Span]] = {
    "pale": (((0, 0.9), (0.08, 1)), ((0.1, 0.5), (0.8, 1)), ((0, 0), (1, 0.5))),
    "dark": (((0, 0.03), (0.6, 0.2)), ((0.2, 0.1), (0.9, 0.5)), ((0, 0.8), (0.5, 1))),
    "vivid": (((0.5, 0.4), (0.95, 0.9)), ((0.2, 0.4), (0.9, 0.95)), ((0, 0.95), (0.05, 1))),
    "kraft": (((0.3, 0.6), (0.5, 0.8)), ((0.3, 0.2), (0.8, 0.7)), ((0, 0.05), (0.7, 0.3))),
}
"""Colours of the ground, of the pattern and of the ink."""

PATTERNS = ("plain", "plain", "fade", "wave", "band", "stripes", "dots", "halves", "photo")
LOGOS = ("letters", "letters", "ellipse", "ribbon", "sun", "shield")
PHOTO_PX = 320


class Pictures:
    """Photos and drawings of a material, decoded when a brand first needs one."""

    def __init__(self, material: Material, rng: np.random.Generator) -> None:
        self.material, self.rng = material, rng

    @cached_property
    def photo(self) -> Pixels:
        """A square of a photo, the same for all brands of a scene: decoding it takes as long as drawing a package."""
        return self.material.background(self.rng, "train", PHOTO_PX)

    def drawing(self, rng: np.random.Generator) -> Pixels:
        """Draw an object with alpha, (h, w, 4) uint8, straight colours."""
        return np.asarray(cv2.convertScaleAbs(self.material.object(rng, "train"), alpha=255), np.uint8)


class Brand(NamedTuple):
    """Design that all faces of a package share."""

    ground: Colour
    second: Colour
    ink: Colour
    accent: Colour
    name: str
    product: str
    pattern: str
    logo: str
    picture: Pixels | None
    """(h, w, 3) a photo, or (h, w, 4) a drawing."""
    gloss: float
    """0 for matt board, 1 for film."""


def colour(hue: float, saturation: float, value: float) -> Colour:
    """Return a colour by hue, saturation and value in [0, 1]."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return round(red * 255), round(green * 255), round(blue * 255)


def invent_brand(rng: np.random.Generator, tone: Tone, pictures: Pictures) -> Brand:
    """Invent a brand whose packages are mostly of a tone."""
    hue, u = rng.uniform(), rng.uniform
    away = hue + rng.choice([0.0, 0.08, 0.33, 0.5])
    if tone == "kraft":
        hue = u(0.07, 0.11)
    spans = zip((hue, away, hue), COLOURS[tone], strict=True)
    ground, second, ink = (colour(where, *u(low, high)) for where, (low, high) in spans)
    accent = colour(away, u(0.5, 0.95), u(0.4, 0.95))
    kind = rng.random()
    picture = pictures.drawing(rng) if kind < 0.4 else pictures.photo if kind < 0.6 else None
    pattern = str(rng.choice(PATTERNS))
    pattern = "plain" if pattern == "photo" and picture is None else pattern
    name, product = brand_name(rng), phrase(rng, int(rng.integers(1, 3)))
    gloss = 0.15 if tone == "kraft" else float(u(0, 1))
    return Brand(ground, second, ink, accent, name, product, pattern, str(rng.choice(LOGOS)), picture, gloss)
