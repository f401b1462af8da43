"""Draw shelves of a shop: rows of equal products with price labels, and crates of fruit. One product is wanted."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.training.products.brands import TONES, Tone, colour
from pipeline.training.products.catalogue import Shop, draw_kind
from pipeline.training.products.layers import Canvas, Colour, Layer, blur, dim, resize, smooth_noise
from pipeline.training.products.lettering import barcode, letters, phrase, write
from pipeline.training.products.light import Pose
from pipeline.training.products.produce import PRODUCE
from pipeline.types import Pixels


def draw_shelf(shop: Shop, rng: np.random.Generator, *, tall: float, designs: int = 3) -> Canvas:
    """Draw a board with up to so many designs of this height (a share of the picture's). One of several alike is wanted."""
    height, width = shop.size
    canvas = Canvas(_back(rng, shop.size))
    floor = int(rng.uniform(0.8, 1.02) * height)
    layers = _draw_designs(shop, rng, tall, int(rng.integers(1, designs + 1)))
    order = _order(layers, rng, width)
    rail = max(10, int(rng.uniform(0.06, 0.13) * height))
    upper = floor - int(rng.uniform(1.05, 1.3) * max(len(layer) for layer in layers)) - rail
    for design, x in order:  # on the board above, and in the row behind: smaller, higher and darker
        layer = layers[design]
        canvas.put(layer, x + rng.normal(0.1, 0.02) * width, upper - len(layer))
        behind = dim(resize(layer[: int(0.4 * len(layer))], 0.94), 0.65)
        canvas.put(behind, x + rng.normal(0.02, 0.02) * width, floor - len(layer) * rng.uniform(0.96, 1.04))
    _board(canvas, rng, upper, rail)
    chosen = min(order, key=lambda one: abs(one[1] + layers[one[0]].shape[1] / 2 - width / 2))
    for design, x in order:
        if (design, x) != chosen:
            _stand(canvas, layers[design], x, floor, rng)
    layer = layers[chosen[0]]
    pulled = rng.uniform(0, 0.06) if rng.random() < 0.5 else 0.0  # forward, which makes it larger
    near = resize(layer, 1 + pulled) if pulled else layer
    _stand(canvas, near, chosen[1] - pulled * layer.shape[1] / 2, floor + 0.3 * pulled * height, rng, wanted=True)
    _board(canvas, rng, floor, rail)
    canvas.shade(np.full((max(0, height - floor - rail), width), rng.uniform(0.6, 0.9), np.float32), 0, floor + rail)
    dark = np.linspace(rng.uniform(0.2, 0.6), 0, int(rng.uniform(0.2, 0.5) * height), dtype=np.float32)[:, None]
    canvas.shade(np.repeat(dark, width, 1), 0, max(0, upper + rail))
    return canvas


def draw_crate(shop: Shop, rng: np.random.Generator, *, large: float) -> Canvas:
    """Draw a heap of one kind of fruit, of this size (a share of the picture's height). One in front is wanted."""
    height, width = shop.size
    canvas = Canvas(_back(rng, shop.size))
    kind, lean = str(rng.choice(list(PRODUCE))), float(rng.uniform(-180, 180))
    spread = 20 if rng.random() < 0.5 or PRODUCE[kind].width < 0.2 else 180  # degrees: in rows, or thrown in
    layers = []
    for _ in range(2):
        pose = Pose(roll=lean + float(rng.uniform(-spread, spread)))
        layers.append(shop.draw(kind, int(rng.integers(1 << 31)), "pale", pose, (large * rng.uniform(0.85, 1.1), 1.0)))
    shadows = [blur(np.ascontiguousarray(layer[..., 3]), 0.06 * len(layer)) * np.float32(0.5) for layer in layers]
    areas = [float(layer[..., 3].sum()) for layer in layers]
    pitch = 0.88 * float(np.sqrt(np.mean(areas)))  # so that they hide the ground
    spots = [
        ((column + 0.5 * (row % 2) - 0.5) * pitch, (row - 0.5) * 0.9 * pitch)
        for row in range(int(height / pitch / 0.9) + 2)
        for column in range(int(width / pitch) + 2)
    ]
    target = min(spots, key=lambda spot: abs(spot[0] - width / 2) + abs(spot[1] - rng.uniform(0.45, 0.6) * height))
    on_top = rng.random() < 0.85
    for spot in [*(spot for spot in spots if spot != target), target] if on_top else spots:
        number = int(rng.integers(len(layers)))
        layer = layers[number]
        x, y = np.array(spot) - np.array(layer.shape[1::-1]) / 2 + rng.normal(0, 0.06, 2) * pitch
        canvas.shade(shadows[number], x - shop.light.towards[0] * 0.05 * pitch, y + 0.05 * pitch)
        canvas.put(dim(layer, rng.uniform(0.85, 1)), x, y, wanted=spot == target)
    if rng.random() < 0.5:
        _board(canvas, rng, int(rng.uniform(0.85, 0.97) * height), int(rng.uniform(0.06, 0.13) * height))
    return canvas


def _back(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Draw the back of a shelf, dim and uneven."""
    tint = np.array(colour(rng.uniform(), rng.uniform(0, 0.3), rng.uniform(0.08, 0.5))) / 255
    coarse = (1 + 0.3 * smooth_noise(rng, (size[0] // 8, size[1] // 8), (3, 4)))[..., None] * tint
    return np.asarray(cv2.resize(coarse.clip(0, 1), size[::-1]), np.float32)


def _draw_designs(shop: Shop, rng: np.random.Generator, tall: float, count: int) -> list[Layer]:
    """Draw the products of a board: the same kind in several designs, or several kinds."""
    kind, layers = draw_kind(rng), []
    pose = Pose(float(rng.normal(0, 12)), float(rng.uniform(0, 10)), 0.0, float(rng.uniform(5, 9)))
    tone: Tone = TONES[int(rng.choice(4, p=[0.4, 0.2, 0.3, 0.1]))]
    for _ in range(count):
        layers.append(shop.draw(kind, int(rng.integers(1 << 31)), tone, pose, (tall, 0.6)))
        if rng.random() < 0.4:
            kind, tone = draw_kind(rng), TONES[int(rng.integers(4))]
    return layers


def _order(layers: list[Layer], rng: np.random.Generator, width: int) -> list[tuple[int, float]]:
    """Place products from left to right in blocks of two to four alike: design and left edge."""
    order: list[tuple[int, float]] = []
    x, design = -rng.uniform(0.1, 0.9) * layers[0].shape[1], 0
    while x < width:
        for _ in range(int(rng.integers(2, 5))):
            order.append((design, x))
            x += layers[design].shape[1] * (1 + rng.uniform(-0.04, 0.06))
        design = (design + 1) % len(layers)
    return order


def _stand(canvas: Canvas, layer: Layer, x: float, floor: float, rng: np.random.Generator, *, wanted: bool = False) -> None:
    """Put a product on a board, with a shadow on its neighbours and slightly its own light."""
    y = floor - layer.shape[0] + rng.normal(0, 0.003) * layer.shape[0]
    step, spread = 4, max(1, layer.shape[1] // 48)  # the shadow is soft and needs few pixels
    small = cv2.resize(layer[..., 3], (layer.shape[1] // step + 1, layer.shape[0] // step + 1), interpolation=cv2.INTER_AREA)
    around = cv2.GaussianBlur(cv2.copyMakeBorder(small, 0, 0, spread, spread, cv2.BORDER_CONSTANT, value=0), (0, 0), spread / 2)
    canvas.shade(np.float32(0.4) * cv2.resize(around, None, fx=step, fy=step), x - spread * step, y)
    canvas.put(dim(layer, rng.uniform(0.9, 1.0)), x, y, wanted=wanted)


def _board(canvas: Canvas, rng: np.random.Generator, top: int, rail: int) -> None:
    """Put a board's front edge, so many pixels high: a rail with price labels."""
    width = canvas.size[1]
    tint: Colour = colour(rng.uniform(), rng.uniform(0, 0.15), rng.uniform(0.35, 0.95))
    strip = np.empty((rail, width, 3), np.uint8)
    strip[:] = tint
    strip[: max(1, rail // 10)] = (strip[0, 0] * 0.7).astype(np.uint8)
    x = rng.uniform(-0.2, 0.2) * width
    while x < width:
        label_px = int(rng.uniform(1.4, 2.4) * rail)
        _price(strip, rng, int(x), label_px)
        x += label_px + rng.uniform(0.05, 0.5) * width
    shade = np.linspace(1.05, 0.8, rail, dtype=np.float32)[:, None, None]
    layer = np.dstack([np.clip(strip * shade / 255, 0, 1), np.ones((rail, width), np.float32)]).astype(np.float32)
    canvas.put(layer, 0, top)


def _price(strip: Pixels, rng: np.random.Generator, x: int, width: int) -> None:
    """Print a price label on a rail."""
    height = len(strip)
    paper: Colour = ((250, 250, 248), (252, 230, 60), (222, 40, 40))[int(rng.choice(3, p=[0.6, 0.25, 0.15]))]
    ink: Colour = (250, 250, 250) if paper[1] < 100 else (20, 20, 20)
    top, bottom = int(0.08 * height), int(0.94 * height)
    cv2.rectangle(strip, (x, top), (x + width, bottom), paper, -1)
    price = f"{int(rng.integers(1, 60))}{rng.choice([':-', '.90', '.95', '.50', ',99'])}"
    write(strip, letters(price, rng), (x + 0.4 * width, top + 3, 0.55 * width, 0.6 * (bottom - top)), ink)
    write(strip, letters(phrase(rng, 2), rng), (x + 3, top + 2, 0.38 * width, 0.3 * (bottom - top)), ink)
    if x > 0:
        barcode(strip, (x + 3, top + 0.6 * height, 0.3 * width, 0.22 * height), rng)
