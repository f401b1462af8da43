"""Draw pictures of one result for a page: photo, cutout, contour, renditions, and the least certain place at 1:1.

The pictures are large enough to look at in detail; the page shrinks them for its list. The cutout keeps its opacity, and the
page shows it on white, black or a checkerboard.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from pipeline.imaging.rle import HALF
from pipeline.types import Alpha, Mask, Pixels, as_alpha

LARGE_PX = 960
"""Longer side of a picture; smaller ones keep their size."""

ZOOM_PX = 128
"""Side of the window that is shown at 1:1."""

LARGE_BYTES = 64_000
"""Size above which a picture is encoded again at a lower quality, to keep the page fast. Most have a third of it."""

GREEN = (40, 200, 90)
"""Background for judging edges; rare in photos."""

CONTOUR_CHARS = 8_000
"""Length above which an outline (hair, nets) is drawn coarser."""

QUALITIES = ((60, 90), (40, 50), (15, 20), (1, 0))
"""Qualities of colours and opacity that are tried, one after the other."""


class Picture(NamedTuple):
    """A WebP file and its size in pixels."""

    width: int
    height: int
    data: bytes


class Views(NamedTuple):
    """WebP files, and the contour of alpha = 1/2 as an SVG path in pixels of the pictures."""

    width: int
    height: int
    photo: bytes | None
    cutout: bytes | None
    contour: str
    zoom: bytes | None


def views(photo: Pixels | None, colours: Pixels | None, mask: Mask | None, place: tuple[int, int] | None = None) -> Views:
    """Draw an item's pictures. All have one size, or are None.

    Args:
        photo: (H, W, 3), upright; None if it is unavailable.
        colours: The cutout's colours, (H, W, 3); None for the photo's.
        mask: Opacity (H, W), if there is one.
        place: Row and column of the corner of the window at 1:1; None for the least certain place.
    """
    photo = photo if photo is None or mask is None or photo.shape[:2] == mask.shape else None
    shape = next((one.shape[:2] for one in (photo, mask) if one is not None), (1, 1))
    width, height = _large(shape)
    base = colours if colours is not None and mask is not None and colours.shape[:2] == mask.shape else photo
    colours = np.zeros((*shape, 3), np.uint8) if base is None else base
    return Views(
        width,
        height,
        None if photo is None else _webp(_small(photo, width, height)),
        None if mask is None else _webp(_small_cutout(colours, mask, width, height)),
        "" if mask is None else contour(_small(mask, width, height)),
        None if mask is None else _webp(_zoom(photo, colours, mask, place or least_certain(mask))),
    )


def preview(pixels: Pixels, alpha: Mask | None) -> Picture:
    """Draw a rendition: colours (H, W, 3) and opacity (H, W), None if it is opaque."""
    width, height = _large(pixels.shape[:2])
    if alpha is None:
        return Picture(width, height, _webp(_small(pixels, width, height)))
    return Picture(width, height, _webp(_small_cutout(pixels, alpha, width, height)))


def least_certain(mask: Mask, side: int = ZOOM_PX) -> tuple[int, int]:
    """Return the row and column of the top left corner of the least certain window of ``side`` pixels.

    A pixel counts a·(1 - a), the variance of a coin with probability alpha. Windows are compared at every eighth pixel.
    """
    alpha = as_alpha(mask)
    return _heaviest(alpha * (1 - alpha), side)


def most_changed(one: Mask, other: Mask, side: int = ZOOM_PX) -> tuple[int, int]:
    """Return the corner of the window in which two masks (H, W) of one size differ most."""
    return _heaviest(as_alpha(np.asarray(cv2.absdiff(one, other), np.uint8)), side)


def _heaviest(weights: Alpha, side: int) -> tuple[int, int]:
    height, width = weights.shape
    rows, columns = min(side, height), min(side, width)
    sums = cv2.integral(weights)
    tops, lefts = np.arange(0, height - rows + 1, 8), np.arange(0, width - columns + 1, 8)
    window_sums = (
        sums[np.ix_(tops + rows, lefts + columns)]
        - sums[np.ix_(tops, lefts + columns)]
        - sums[np.ix_(tops + rows, lefts)]
        + sums[np.ix_(tops, lefts)]
    )
    top, left = np.unravel_index(int(window_sums.argmax()), window_sums.shape)
    return int(tops[top]), int(lefts[left])


def contour(mask: Mask) -> str:
    """Return the outline of alpha >= 1/2 as an SVG path: ``M x y L x y … Z`` per closed line, in whole pixels."""
    lines, _ = cv2.findContours((mask >= HALF).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for coarseness in (0.7, 1.5, 3.0):
        path = "".join(
            "M" + "L".join(f"{x} {y}" for [[x, y]] in cv2.approxPolyDP(line, coarseness, True).tolist()) + "Z"
            for line in lines
            if len(line) > 2
        )
        if len(path) <= CONTOUR_CHARS:
            return path
    return path[: path.rfind("Z", 0, CONTOUR_CHARS) + 1]


def _zoom(photo: Pixels | None, colours: Pixels, mask: Mask, place: tuple[int, int]) -> Image.Image:
    """Draw a window's photo, opacity and cutout on green side by side at 1:1."""
    window = tuple(slice(start, start + ZOOM_PX) for start in place)
    opacity = np.repeat(mask[window][..., None], 3, axis=2)
    alpha = as_alpha(opacity)
    green = (colours[window] * alpha + np.array(GREEN, np.float32) * (1 - alpha)).round().astype(np.uint8)
    strips = [opacity, green] if photo is None else [photo[window], opacity, green]
    return Image.fromarray(np.hstack(strips))


def _large(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the width and height of the picture of an image of this height and width."""
    scale = min(1.0, LARGE_PX / max(shape))
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


def _small(pixels: Pixels, width: int, height: int) -> Pixels:
    same = pixels.shape[:2] == (height, width)
    return pixels if same else np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _small_cutout(colours: Pixels, mask: Mask, width: int, height: int) -> Pixels:
    """Resize to (height, width, 4) with premultiplied colours, so that no colour of transparent pixels bleeds in."""
    lit = cv2.multiply(np.ascontiguousarray(colours), cv2.merge([mask, mask, mask]), scale=1 / 255)
    small = _small(np.dstack([lit, mask]), width, height)
    alpha = np.maximum(small[..., 3:], 1).astype(np.float32) / 255
    return np.dstack([(small[..., :3] / alpha).round().clip(0, 255).astype(np.uint8), small[..., 3]])


def _webp(picture: Pixels | Image.Image) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    data = b""
    for colours, opacity in QUALITIES:
        sink = io.BytesIO()
        image.save(sink, "WebP", quality=colours, method=2, alpha_quality=opacity)
        data = sink.getvalue()
        if len(data) <= LARGE_BYTES:
            break
    return data
