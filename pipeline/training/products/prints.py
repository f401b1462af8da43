"""Print the faces of packages: grounds, logos, words, pictures, small print; and the light on them."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.training.products.brands import Brand
from pipeline.training.products.layers import Colour, Plane, blur, light_up, smooth_noise
from pipeline.training.products.lettering import barcode, letters, paste, phrase, small_print, write
from pipeline.types import Mask, Pixels

Place = tuple[float, float, float, float]
"""x, y, width and height of a part of a face."""


def front(brand: Brand, rng: np.random.Generator, height: int, width: int) -> Pixels:
    """Print a front (height, width, 3): a logo, the product's name, a picture, further words."""
    face = ground(brand, rng, height, width)
    share = rng.dirichlet([6, 5, 7, 2]) * 0.94  # of the height, for logo, name, picture and the last lines
    margin, y = 0.07 * width, 0.03 * height
    order = rng.permutation(3).tolist() if rng.random() < 0.4 else [0, 1, 2]
    for part in (*order, 3):
        box = (margin, y + 0.012 * height, width - 2 * margin, (share[part] - 0.024) * height)
        if part == 0:
            _logo(face, brand, rng, box)
        elif part == 1:
            _name(face, brand, rng, box)
        elif part == 2:
            _picture(face, brand, rng, box)
        else:
            write(face, letters(phrase(rng, 2), rng), (box[0], box[1], box[2], min(box[3], 0.05 * height)), brand.ink)
        y += share[part] * height
    if rng.random() < 0.35:
        _badge(face, brand, rng)
    return face


def side(brand: Brand, rng: np.random.Generator, height: int, width: int) -> Pixels:
    """Print a side (height, width, 3): small print, a table, a barcode. Some sides have another tone than the front."""
    swap = rng.random() < 0.3
    colours = brand._replace(ground=brand.second, second=brand.ground, ink=_legible(brand.second)) if swap else brand
    face = ground(colours, rng, height, width)
    margin = max(2, round(0.1 * width))
    across = width - 2 * margin
    top = rng.uniform(0.05, 0.3) * height
    if rng.random() < 0.6:
        write(face, letters(brand.name, rng), (margin, 0.04 * height, across, 0.12 * height), colours.ink)
    small_print(face, (margin, top, across, rng.uniform(0.15, 0.4) * height), colours.ink, rng)
    if rng.random() < 0.6:
        _table(face, colours, (margin, rng.uniform(0.5, 0.62) * height, across, 0.2 * height), rng)
    if rng.random() < 0.5:
        barcode(face, (margin, 0.85 * height, min(across, 0.16 * height), 0.1 * height), rng)
    return face


def ground(brand: Brand, rng: np.random.Generator, height: int, width: int) -> Pixels:
    """Print a face's colours and pattern (height, width, 3), without words."""
    face = np.empty((height, width, 3), np.uint8)
    cv2.rectangle(face, (0, 0), (width, height), brand.ground, -1)
    level = rng.uniform(0.3, 0.75) * height
    if brand.pattern == "fade":
        weight = np.linspace(-0.4, 1.2, height).clip(0, 1)[:, None, None]
        face[:] = (1 - weight) * np.array(brand.ground) + weight * np.array(brand.second)
    elif brand.pattern in {"wave", "halves"}:
        across = np.linspace(0, width, 32)
        swing = rng.uniform(0.02, 0.09) * height if brand.pattern == "wave" else rng.normal(0, 0.001)
        curve = level + swing * np.sin(across / width * rng.uniform(2, 7) + rng.uniform(0, 6))
        polygon = np.concatenate([np.stack([across, curve], 1), [[width, height], [0, height]]])
        cv2.fillPoly(face, [np.rint(polygon).astype(np.int32)], brand.second, cv2.LINE_AA)
    elif brand.pattern == "band":
        cv2.rectangle(face, (0, round(level)), (width, round(level + rng.uniform(0.05, 0.25) * height)), brand.second, -1)
    elif brand.pattern == "stripes":
        pitch, lean = rng.uniform(0.08, 0.3) * width, rng.choice([0.0, 1.0, 3.0]) * height
        thickness = max(1, round(rng.uniform(0.2, 0.6) * pitch))
        for x in np.arange(-lean, width + pitch, pitch * (1 if lean < 2 * height else 2)):
            cv2.line(face, (round(x), -9), (round(x + lean), height + 9), brand.second, thickness, cv2.LINE_AA)
    elif brand.pattern == "dots":
        pitch = max(6, int(rng.uniform(0.08, 0.2) * width))
        for row in range(0, height + pitch, pitch):
            for column in range(row // pitch % 2 * pitch // 2, width + pitch, pitch):
                cv2.circle(face, (column, row), max(1, round(pitch * 0.28)), brand.second, -1, cv2.LINE_AA)
    elif brand.pattern == "photo" and brand.picture is not None and brand.picture.shape[2] == 3:
        face[round(level) :] = cv2.resize(brand.picture, (width, height))[round(level) :]
    return face


def shine(face: Pixels, brand: Brand, rng: np.random.Generator) -> Pixels:
    """Return a flat face with uneven light, dull or light edges, dents, and reflections as its gloss has them."""
    height, width = face.shape[:2]
    step = 4
    down, across = (np.linspace(-1, 1, max(length // step, 2), dtype=np.float32) for length in (height, width))
    light = 1 + 0.05 * smooth_noise(rng, (len(down), len(across)), (4, 3))
    light += rng.uniform(-0.12, 0.12) * down[:, None] + rng.uniform(-0.12, 0.12) * across
    light = np.asarray(cv2.resize(light, (width, height)), np.float32)
    edge = 1 + rng.uniform(-0.12, 0.12)
    light[:2] *= edge
    light[:, :2] *= edge
    light[:, -2:] *= edge
    gleam = rng.uniform(20, 110) * _reflection(rng, height, width) if rng.random() < brand.gloss else None
    return light_up(face, light, gleam)


def _reflection(rng: np.random.Generator, height: int, width: int) -> Plane:
    """Return the reflection of a window, a lamp or a bright sky on a face, (h, w) in [0, 1]."""
    sheet = np.zeros((height, width), np.uint8)
    middle, half, lean = rng.uniform(-0.1, 1.1) * width, rng.uniform(0.05, 0.4) * width, rng.uniform(-0.6, 0.6) * width
    start, end = (sorted(rng.uniform(-0.3, 1.3, 2) * height)) if rng.random() < 0.5 else (0.0, float(height))
    corners = [[middle - half, start], [middle + half, start], [middle + half + lean, end], [middle - half + lean, end]]
    cv2.fillPoly(sheet, [np.rint(corners).astype(np.int32)], 255)
    return np.asarray(blur(sheet, rng.uniform(0.02, 0.2) * width), np.float32) / 255


def _legible(ground: Colour) -> Colour:
    return (30, 30, 30) if sum(ground) > 380 else (245, 245, 240)


def _logo(face: Pixels, brand: Brand, rng: np.random.Generator, box: Place) -> None:
    """Print the brand's name, alone or on a shape."""
    x, y, width, height = box
    middle, name = (round(x + width / 2), round(y + height / 2)), letters(brand.name, rng)
    radius = round(min(width, height) / 2)
    if brand.logo == "letters" or radius < 6:
        write(face, name, box, brand.ink if rng.random() < 0.5 else brand.accent, rng.uniform(0.8, 1.3))
        return
    if brand.logo == "ellipse":
        cv2.ellipse(face, middle, (round(width * 0.49), round(height * 0.48)), 0, 0, 360, brand.accent, -1, cv2.LINE_AA)
    elif brand.logo == "ribbon":
        tip = 0.06 * width
        points = [[x, y + 0.2 * height], [x + width, y + 0.2 * height], [x + width - tip, y + height / 2]]
        points += [[x + width, y + 0.8 * height], [x, y + 0.8 * height], [x + tip, y + height / 2]]
        cv2.fillPoly(face, [np.rint(points).astype(np.int32)], brand.accent, cv2.LINE_AA)
    elif brand.logo == "sun":
        angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        reach = radius * np.where(np.arange(48) % 2, 1.0, 0.85)
        star = np.array(middle) + reach[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        cv2.fillPoly(face, [np.rint(star).astype(np.int32)], brand.accent, cv2.LINE_AA)
    else:
        points = [[x, y], [x + width, y], [x + width, y + 0.7 * height], [x + width / 2, y + height], [x, y + 0.7 * height]]
        cv2.fillPoly(face, [np.rint(points).astype(np.int32)], brand.accent, cv2.LINE_AA)
    wide = width * 0.8 if brand.logo != "sun" else radius * 1.5
    write(face, name, (middle[0] - wide / 2, middle[1] - height * 0.22, wide, height * 0.44), _legible(brand.accent))


def _name(face: Pixels, brand: Brand, rng: np.random.Generator, box: Place) -> None:
    """Print the product's name in one to three lines."""
    lines = [*brand.product.split(), *(phrase(rng, 1) for _ in range(int(rng.integers(0, 2))))]
    ink = brand.ink if rng.random() < 0.7 else brand.accent
    x, y, width, height = box
    for number, line in enumerate(lines):
        part = height / len(lines)
        write(face, letters(line, rng), (x, y + number * part, width, part * 0.86), ink)


def _picture(face: Pixels, brand: Brand, rng: np.random.Generator, box: Place) -> None:
    """Print the brand's drawing or photo, or simple shapes, or small print."""
    x, y, width, height = box
    side_px = round(min(width, height * 1.3))
    if side_px < 8:
        return
    place = round(x + (width - side_px) * rng.uniform()), round(y + (height - side_px) / 2)
    if brand.picture is None and rng.random() < 0.5:
        small_print(face, (x, y + 0.2 * height, width, 0.6 * height), brand.ink, rng)
    elif brand.picture is None:
        for _ in range(int(rng.integers(2, 7))):
            centre = np.rint(np.array([x, y]) + rng.uniform(0, 1, 2) * (width, height)).astype(int).tolist()
            axes = np.rint(rng.uniform(0.05, 0.25, 2) * side_px + 1).astype(int).tolist()
            cv2.ellipse(face, centre, axes, float(rng.uniform(0, 180)), 0, 360, brand.accent, -1, cv2.LINE_AA)
    else:
        small = cv2.resize(brand.picture, (side_px, side_px), interpolation=cv2.INTER_AREA)
        outline = np.asarray(small[..., 3], np.uint8) if small.shape[2] == 4 else _frame(side_px, rng)
        paste(face, outline, place, np.asarray(small[..., :3], np.uint8))


def _frame(side_px: int, rng: np.random.Generator) -> Mask:
    """Return the outline of a printed photo: a square, a disc or an arch."""
    mask = np.zeros((side_px, side_px), np.uint8)
    half = side_px // 2
    kind = int(rng.integers(3))
    if kind:
        cv2.circle(mask, (half, half), half - 1, 255, -1, cv2.LINE_AA)
    if kind != 1:
        mask[half if kind else 0 :] = 255
    return mask


def _badge(face: Pixels, brand: Brand, rng: np.random.Generator) -> None:
    """Print a round badge near a corner."""
    height, width = face.shape[:2]
    radius = round(rng.uniform(0.1, 0.18) * width)
    middle = int(rng.choice([1.3 * radius, width - 1.3 * radius])), int(rng.uniform(0.05, 0.9) * height)
    cv2.circle(face, middle, radius, brand.accent, -1, cv2.LINE_AA)
    box = (middle[0] - 0.75 * radius, middle[1] - 0.4 * radius, 1.5 * radius, 0.8 * radius)
    write(face, letters(phrase(rng, 1), rng), box, _legible(brand.accent))


def _table(face: Pixels, brand: Brand, box: Place, rng: np.random.Generator) -> None:
    """Print a table of nutrients."""
    x, y, width, height = (round(value) for value in box)
    cv2.rectangle(face, (x, y), (x + width, y + height), brand.ink, 1)
    for row in range(y + 8, y + height - 2, 8):
        cv2.line(face, (x, row), (x + width, row), brand.ink, 1)
    small_print(face, (x + 2, y, 0.5 * width, height - 2), brand.ink, rng)
