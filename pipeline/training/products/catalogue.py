"""List every kind of product and draw one. A seed is a design: equal seeds look alike in any pose."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pipeline.training.products.boxes import draw_book, draw_carrier, draw_carton, draw_gable
from pipeline.training.products.brands import Brand, Pictures, Tone, invent_brand
from pipeline.training.products.layers import Artwork, Layer, resize, to_layer, turn
from pipeline.training.products.light import Light, Pose
from pipeline.training.products.pouches import draw_pouch
from pipeline.training.products.produce import PRODUCE, draw_produce
from pipeline.training.products.rounds import draw_bottle, draw_can, draw_cup, draw_jar, draw_mug, draw_tube

Draw = Callable[[Brand, Pose, Light, int, np.random.Generator], Artwork]

FLAT: dict[str, Draw] = {"carton": draw_carton, "gable": draw_gable, "book": draw_book, "carrier": draw_carrier}
"""Kinds that are turned in three dimensions."""

UPRIGHT: dict[str, Draw] = {
    "bottle": draw_bottle,
    "can": draw_can,
    "jar": draw_jar,
    "cup": draw_cup,
    "tube": draw_tube,
    "mug": draw_mug,
    "pouch": draw_pouch,
}
"""Kinds that are turned in the picture."""

PACKAGES: dict[str, float] = {
    "carton": 5,
    "gable": 6,
    "book": 1,
    "carrier": 1,
    "bottle": 4,
    "can": 2,
    "jar": 1.5,
    "cup": 2,
    "tube": 1.5,
    "mug": 1,
    "pouch": 2.5,
}
"""Packages and how often they are drawn."""

KINDS = (*PACKAGES, *PRODUCE)


def draw_kind(rng: np.random.Generator) -> str:
    """Draw a kind of package."""
    shares = np.array(list(PACKAGES.values()))
    return str(rng.choice(list(PACKAGES), p=shares / shares.sum()))


def draw_product(kind: str, seed: int, tone: Tone, pose: Pose, light: Light, height_px: int, pictures: Pictures) -> Layer:
    """Draw a product. Before it is rolled, it is ``height_px`` high."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    height = max(24, height_px)
    if kind in PRODUCE:
        return to_layer(turn(draw_produce(kind, light, height, rng), pose.roll))
    brand = invent_brand(rng, tone, pictures)
    if kind in FLAT:
        return to_layer(FLAT[kind](brand, pose, light, height, rng))
    return to_layer(turn(UPRIGHT[kind](brand, pose, light, height, rng), pose.roll))


class Shop(NamedTuple):
    """Properties that all products of a picture share: the print on them, the light, and the picture's size."""

    pictures: Pictures
    light: Light
    size: tuple[int, int]
    """Height and width."""
    first_design: int = 0
    """Added to the seeds of designs, so that pictures for measuring have designs of their own."""

    def draw(self, kind: str, seed: int, tone: Tone, pose: Pose, room: tuple[float, float]) -> Layer:
        """Draw a product as large as there is room, in shares of the picture's height and width."""
        height, width = (share * length for share, length in zip(room, self.size, strict=True))
        layer = draw_product(kind, self.first_design + seed, tone, pose, self.light, round(height), self.pictures)
        factor = min(height / layer.shape[0], width / layer.shape[1], 1.0)
        return resize(layer, factor) if factor < 1 else layer
