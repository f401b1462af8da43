"""Layers with exact alpha, and the canvas that they are put on from back to front."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.types import Alpha, Mask, Pixels

TWICE = 2
"""Outlines are drawn at twice the size of their layer."""

Artwork = npt.NDArray[np.uint8]
"""(h, w, 4) premultiplied RGBA."""

Layer = npt.NDArray[np.float32]
"""(h, w, 4) premultiplied RGBA in [0, 1]."""

Plane = npt.NDArray[np.number[Any]]
"""(h, w): one number per pixel."""

Colours = npt.NDArray[np.floating[Any]]
"""(h, w, 3) in [0, 1]."""

Colour = tuple[int, int, int]
"""Red, green and blue in 0 … 255."""

Points = npt.NDArray[np.floating[Any]]
"""(N, 2) x and y in pixels."""


class Canvas:
    """A picture in progress over a background (H, W, 3) in [0, 1], with the ground truth of what is wanted.

    ``planes`` (H, W, 4) float32 are red, green, blue and alpha in [0, 1].
    """

    def __init__(self, background: Colours) -> None:
        colours = np.asarray(background, np.float32)
        nothing = np.zeros(colours.shape[:2], np.float32)
        self.planes = np.asarray(cv2.merge([*cv2.split(colours), nothing]), np.float32)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.planes.shape[0], self.planes.shape[1]

    @property
    def image(self) -> npt.NDArray[np.float32]:
        """(H, W, 3) float32 in [0, 1]."""
        return self.planes[..., :3]

    @property
    def alpha(self) -> Alpha:
        """(H, W) float32 in [0, 1]."""
        return self.planes[..., 3]

    def put(self, layer: Layer, x: float, y: float, *, wanted: bool = False) -> None:
        """Put a layer with its top left corner at (x, y). What is ``wanted`` adds to the ground truth, the rest covers it."""
        here, part = self._overlap(layer.shape, x, y)
        below, above = self.planes[here], layer[part]
        if above.size:
            below *= cv2.merge([1 - above[..., 3]] * 4)
            below += above
            if not wanted:
                below[..., 3] -= above[..., 3]

    def shade(self, shadow: Alpha, x: float, y: float) -> None:
        """Darken what is there by a shadow (h, w) in [0, 1], 0 for none, with its top left corner at (x, y)."""
        here, part = self._overlap(shadow.shape, x, y)
        below, light = self.planes[here], 1 - shadow[part]
        if light.size:
            below *= cv2.merge([light, light, light, np.ones_like(light)])

    def _overlap(self, shape: tuple[int, ...], x: float, y: float) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Return the rows and columns of the canvas that a layer of this shape covers, and those of the layer."""
        here, part = [], []
        for start, length, limit in zip((round(y), round(x)), shape, self.size, strict=False):
            first, last = min(max(start, 0), limit), min(max(start + length, 0), limit)
            here.append(slice(first, last))
            part.append(slice(first - start, last - start))
        return (here[0], here[1]), (part[0], part[1])


class Drawing(NamedTuple):
    """Colours, which are defined beyond the outline too, and the outline at twice the size."""

    colours: Pixels
    """(h, w, 3)."""
    opacity: Mask
    """(2h, 2w), hard at the outline."""

    def cut_out(self) -> Artwork:
        """Return the artwork (h, w, 4). Its opacity at the outline is the covered share of a pixel."""
        alpha = shrink(self.opacity)
        premultiplied = cv2.multiply(self.colours, cv2.merge([alpha] * 3), scale=1 / 255)
        return np.asarray(cv2.merge([*cv2.split(premultiplied), alpha]), np.uint8)


def shrink(drawn: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Average what is drawn at twice the size (2h, 2w, ...) to (h, w, ...)."""
    height, width = drawn.shape[0] // TWICE, drawn.shape[1] // TWICE
    return np.asarray(cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def to_layer(artwork: Artwork) -> Layer:
    """Convert an artwork (h, w, 4) to a layer that ends where the artwork's opaque pixels do."""
    x, y, width, height = cv2.boundingRect(cv2.extractChannel(artwork, 3))
    artwork = artwork[y : y + max(height, 1), x : x + max(width, 1)]
    return np.asarray(artwork.astype(np.float32) * np.float32(1 / 255), np.float32)


def resize(layer: Layer, factor: float) -> Layer:
    """Resize a layer."""
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(layer, None, fx=factor, fy=factor, interpolation=interpolation), np.float32)


def dim(layer: Layer, brightness: float) -> Layer:
    """Return a layer with other brightness."""
    return np.asarray(cv2.multiply(layer, np.array([brightness, brightness, brightness, 1.0])), np.float32)


def turn(artwork: Artwork, degrees: float) -> Artwork:
    """Turn an artwork counterclockwise on a canvas that holds all of it."""
    if abs(degrees) < 0.5:
        return artwork
    height, width = artwork.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), float(degrees), 1)
    cosine, sine = abs(matrix[0, 0]), abs(matrix[0, 1])
    size = int(width * cosine + height * sine) + 1, int(width * sine + height * cosine) + 1
    matrix[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
    return np.asarray(cv2.warpAffine(artwork, matrix, size), np.uint8)


def light_up(colours: npt.NDArray[Any], shade: Plane, gleam: Plane | None = None) -> Pixels:
    """Multiply colours (h, w, 3) by a shade (h, w), and add a reflection (h, w) in 0 … 255."""
    lit = cv2.multiply(colours, cv2.merge([np.asarray(shade, np.float32)] * 3), dtype=cv2.CV_8U)
    if gleam is not None:
        lit = cv2.add(lit, cv2.merge([np.clip(gleam, 0, 255).astype(np.uint8)] * 3))
    return np.asarray(lit, np.uint8)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return smooth noise (h, w) of about [-1, 1] with so many cells down and across."""
    coarse = rng.uniform(-1, 1, (cells[0] + 1, cells[1] + 1)).astype(np.float32)
    between = max(shape[1] // 4, cells[1] + 1), max(shape[0] // 4, cells[0] + 1)  # cubic on few pixels, then linear: faster
    smooth = cv2.resize(coarse, between, interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.resize(smooth, shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def blur(image: npt.NDArray[Any], sigma_px: float) -> npt.NDArray[Any]:
    """Blur an image. A wide blur is done on a smaller copy, which is several times as fast."""
    step = max(1, int(sigma_px / 2.5))
    if step == 1:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), max(sigma_px, 0.05)))
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(1, width // step), max(1, height // step)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma_px / step), (width, height)))
