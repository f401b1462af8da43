"""Arrange products as shops, shelves and hands show them: an image, its ground truth, and the box of what is asked for."""

from __future__ import annotations

from typing import Literal, NamedTuple

import cv2
import numpy as np

from pipeline.training.crops import bounding_box
from pipeline.training.material import Material
from pipeline.training.products import grounds
from pipeline.training.products.brands import TONES, Pictures, Tone
from pipeline.training.products.catalogue import FLAT, Shop, draw_kind
from pipeline.training.products.hands import Hand
from pipeline.training.products.layers import Canvas, Layer, blur
from pipeline.training.products.light import Pose, draw_light
from pipeline.training.products.produce import PRODUCE
from pipeline.training.products.shelves import draw_crate, draw_shelf
from pipeline.types import Mask, Pixels, Region

Arrangement = Literal["studio", "group", "table", "hand", "shelf", "crate"]
ARRANGEMENTS: dict[Arrangement, float] = {
    "studio": 0.18,
    "group": 0.16,
    "table": 0.1,
    "hand": 0.3,
    "shelf": 0.18,
    "crate": 0.08,
}
"""Arrangements and their shares."""

LONG_SIDE_PX = 512
"""Long side of a scene in training."""

PRODUCE_SHARE = 0.2
"""Share of products that are fruit or vegetables."""


class ProductScene(NamedTuple):
    """An image of products."""

    image: Pixels
    """(H, W, 3) uint8."""
    alpha: Mask
    """(H, W) uint8, of the object that is asked for, or of all products."""
    box: Region | None
    """Box of the object that is asked for; None where the ground truth is all products."""
    arrangement: Arrangement


def draw_size(rng: np.random.Generator) -> tuple[int, int]:
    """Draw height and width of a scene, mostly upright as a phone's photos are."""
    short = int(LONG_SIDE_PX * rng.uniform(0.65, 1.0))
    return (LONG_SIDE_PX, short) if rng.random() < 0.65 else (short, LONG_SIDE_PX)


def make_product_scene(
    material: Material,
    rng: np.random.Generator,
    size: tuple[int, int],
    arrangement: Arrangement | None = None,
    first_design: int = 0,
) -> ProductScene:
    """Make a scene of this height and width. The same state of ``rng`` gives the same scene.

    ``arrangement`` is drawn by its share if it is None. ``first_design``: see ``Shop``.
    """
    shares = np.array(list(ARRANGEMENTS.values()))
    chosen = arrangement or list(ARRANGEMENTS)[int(rng.choice(len(shares), p=shares / shares.sum()))]
    shop = Shop(Pictures(material, rng), draw_light(rng), size, first_design)
    one = True
    if chosen == "shelf":
        canvas = draw_shelf(shop, rng, tall=float(rng.uniform(0.5, 0.95)))
    elif chosen == "crate":
        canvas = draw_crate(shop, rng, large=float(rng.uniform(0.3, 0.75)))
    elif chosen == "hand":
        canvas, one = _in_a_hand(shop, rng), bool(rng.random() < 0.5)
    else:
        canvas, one = _standing(chosen, shop, rng)
    image, alpha = finish(canvas, rng)
    return ProductScene(image, alpha, bounding_box(alpha) if one else None, chosen)


def _standing(arrangement: Arrangement, shop: Shop, rng: np.random.Generator) -> tuple[Canvas, bool]:
    """Stand one product, or a group of two to five, in a studio, on a table or before a photo.

    Returns:
        The canvas, and whether one product of several is wanted.
    """
    studio = None if arrangement == "table" else grounds.draw_studio(rng)
    if studio:
        canvas = Canvas(grounds.sweep(studio, rng, shop.size))
    elif rng.random() < 0.5:
        canvas = Canvas(grounds.table(rng, shop.size))
    else:
        canvas = Canvas(grounds.photo(shop.pictures.material, rng, shop.size))
    share = rng.uniform(0.55, 0.95) if rng.random() < 0.75 else rng.uniform(0.95, 1.35)
    layers = [_draw_one(studio, share, shop, rng)] if arrangement != "group" else _draw_group(studio, share, shop, rng)
    one = len(layers) > 1 and bool(rng.random() < 0.6)
    places = _places(layers, shop.size, rng)
    seen = [number for number, (x, _) in enumerate(places) if 0 < x + layers[number].shape[1] / 2 < shop.size[1]]
    wanted = int(rng.choice(seen or [0]))
    reflects = studio is not None and rng.random() < 0.25
    shadows = not (studio == "white" and rng.random() < 0.3)
    for number, (layer, place) in enumerate(zip(layers, places, strict=True)):
        if shadows:
            grounds.cast_shadow(canvas, layer, place, shop.light, rng)
        if reflects:
            grounds.reflect(canvas, layer, place, rng)
        canvas.put(layer, *place, wanted=not one or number == wanted)
    return canvas, one


def _draw_one(studio: grounds.Studio | None, share: float, shop: Shop, rng: np.random.Generator) -> Layer:
    """Draw a product that takes a share of the picture."""
    kind = _draw_kind(rng)
    pose = draw_pose(kind, rng, upright=True)
    return shop.draw(kind, int(rng.integers(1 << 31)), _tone(studio, rng), pose, (share, share))


def _draw_group(studio: grounds.Studio | None, share: float, shop: Shop, rng: np.random.Generator) -> list[Layer]:
    """Draw two to five products, alike or not, that take a share of the picture together."""
    count = int(rng.choice([2, 2, 3, 3, 4, 5]))
    alike, kind, tone = bool(rng.random() < 0.5), _draw_kind(rng), _tone(studio, rng)
    seed = int(rng.integers(1 << 31))
    layers = []
    for _ in range(count):
        room = min(share, 1.0) * rng.uniform(0.75, 1), 1.7 * min(share, 1.0) / count
        layers.append(shop.draw(kind, seed, tone, draw_pose(kind, rng, upright=True), room))
        if kind in PRODUCE or not alike:
            seed = int(rng.integers(1 << 31))
        if not alike:
            kind, tone = _draw_kind(rng), _tone(studio, rng)
    return layers


def _places(layers: list[Layer], size: tuple[int, int], rng: np.random.Generator) -> list[tuple[float, float]]:
    """Place products beside each other on about the same ground. Large ones reach past the picture's edge."""
    height, width = size
    gap = rng.uniform(-0.35, 0.12)  # as a share of their widths: some hide a part of others
    wide = sum(layer.shape[1] for layer in layers) + gap * sum(layer.shape[1] for layer in layers[1:])
    tall = max(layer.shape[0] for layer in layers)
    x = width / 2 - wide / 2 + rng.uniform(-0.4, 0.4) * max(width - wide, 0.15 * width)
    foot = height / 2 + tall / 2 + rng.uniform(-0.4, 0.4) * max(height - tall, 0.15 * height)
    places = []
    for layer in layers:
        places.append((x, foot - layer.shape[0] + (rng.normal(0, 0.025) * height if len(layers) > 1 else 0)))
        x += layer.shape[1] * (1 + gap)
    return places


def _in_a_hand(shop: Shop, rng: np.random.Generator) -> Canvas:
    """Hold a product in a hand, before a shelf or a photo that is out of focus, or before a plain wall."""
    size, where = shop.size, rng.random()
    if where < 0.6:
        far = shop._replace(size=(size[0] // 2, size[1] // 2))
        shelf = draw_shelf(far, rng, tall=float(rng.uniform(0.25, 0.6)), designs=2)
        far_off = np.asarray(cv2.resize(blur(shelf.planes, rng.uniform(0.4, 3)), size[::-1]), np.float32)
        canvas = Canvas(far_off[..., :3])
    elif where < 0.8:
        canvas = Canvas(grounds.photo(shop.pictures.material, rng, size))
    else:
        canvas = Canvas(grounds.sweep("grey" if rng.random() < 0.5 else "white", rng, size))
    kind = _draw_kind(rng)
    pose = draw_pose(kind, rng, upright=False)
    share = rng.uniform(0.45, 0.9) if rng.random() < 0.85 else rng.uniform(0.9, 1.3)
    layer = shop.draw(kind, int(rng.integers(1 << 31)), _tone(None, rng), pose, (share, share))
    x, y = ((size[axis] - layer.shape[axis]) / 2 + rng.uniform(-0.12, 0.12) * size[axis] for axis in (1, 0))
    hand = Hand(layer, (x, y), pose.roll, shop.light, rng)
    hand.put_behind(canvas)
    canvas.put(layer, x, y, wanted=True)
    hand.put_front(canvas)
    return canvas


def _draw_kind(rng: np.random.Generator) -> str:
    return str(rng.choice(list(PRODUCE))) if rng.random() < PRODUCE_SHARE else draw_kind(rng)


def draw_pose(kind: str, rng: np.random.Generator, *, upright: bool) -> Pose:
    """Draw a pose that is usual for the kind: nearly ``upright`` where it stands, turned where it is held."""
    yaw = rng.uniform(-55, 55) if kind in FLAT else rng.uniform(-40, 40)
    pitch = rng.uniform(0, 28) if rng.random() < 0.8 else rng.uniform(28, 50) if kind in FLAT else 0
    roll = rng.normal(0, 3) if upright else rng.normal(0, 22)
    if kind in PRODUCE:
        roll = rng.uniform(-180, 180) if rng.random() < 0.4 else rng.normal(0, 25)
    return Pose(float(yaw), float(pitch), float(roll), float(rng.uniform(2.5, 8)))


def _tone(studio: grounds.Studio | None, rng: np.random.Generator) -> Tone:
    """Draw a tone: often that of the background, which is the hard case."""
    if studio == "white" and rng.random() < 0.45:
        return "pale"
    if studio == "black" and rng.random() < 0.5:
        return "dark"
    return TONES[int(rng.choice(4, p=[0.4, 0.25, 0.25, 0.1]))]


def finish(canvas: Canvas, rng: np.random.Generator) -> tuple[Pixels, Mask]:
    """Return the image and the ground truth, both equally sharp. Noise is left to ``augment``."""
    planes = np.asarray(cv2.convertScaleAbs(canvas.planes, alpha=255), np.uint8)
    if rng.random() < 0.6:
        planes = np.asarray(cv2.GaussianBlur(planes, (0, 0), float(rng.uniform(0.3, 0.9))), np.uint8)
    return np.asarray(cv2.cvtColor(planes, cv2.COLOR_RGBA2RGB), np.uint8), np.asarray(cv2.extractChannel(planes, 3), np.uint8)
