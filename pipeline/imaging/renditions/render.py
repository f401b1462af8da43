"""Render an item's mask and colours to the files of its recipe's renditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipeline.config.rendition import Rendition
from pipeline.errors import WriteError
from pipeline.imaging.lossy import encode_lossy
from pipeline.imaging.png import encode_cutout, encode_labels, encode_mask, encode_picture
from pipeline.imaging.renditions.background import fit_background
from pipeline.imaging.renditions.compose import (
    Layer,
    composite,
    on_frame,
    opacity,
    premultiply,
    resize,
    resize_layer,
    unpremultiply,
)
from pipeline.imaging.renditions.fit import NO_EXTENT, Fit, fit, object_box
from pipeline.imaging.renditions.natural_shadow import NaturalShadow, find_shadow
from pipeline.imaging.renditions.recolour import hue_rotation, recolour
from pipeline.imaging.renditions.shadow import CastShadow, cast_shadow, shadow_extent
from pipeline.imaging.rle import binarize, encode_rle
from pipeline.types import Mask, Pixels, Region, Size

EMPTY = "not made: the mask shows no object"

NOTED_SCALE = 1.05
"""Scale above which the note says that a rendition is enlarged."""


@dataclass(frozen=True)
class Rendered:
    """One file. ``note`` is a remark, or the reason why ``data`` is None."""

    name: str
    suffix: str
    data: bytes | None
    size: Size | None
    note: str | None = None

    def save(self, path: str | Path) -> None:
        """Write the file.

        Raises:
            WriteError: The rendition was not made.
        """
        if self.data is None:
            raise WriteError(f"rendition {self.name} was {self.note}")
        Path(path).write_bytes(self.data)


def render(
    renditions: Sequence[Rendition],
    foreground: Pixels,
    mask: Mask,
    backgrounds: Mapping[str, bytes],
    photo: Pixels | None = None,
) -> Iterator[Rendered]:
    """Yield all files of all renditions of an item, in their order.

    If the mask has no visible pixels, cutouts and trimmed renditions are not made, and their note says so.

    Args:
        renditions: What to render.
        foreground: Straight colours, (H, W, 3) uint8. Unused by renditions of the mask.
        mask: (H, W) uint8.
        backgrounds: Files of background pictures, by SHA-256.
        photo: (H, W, 3) uint8. Only used by renditions with ``needs_photo``.

    Raises:
        ValueError: A rendition needs the photo, and there is none.
    """
    for rendition in renditions:
        cleared = _clear_haze(mask, rendition.haze)
        box = object_box(cleared)
        if box is None and (rendition.what == "cutout" or rendition.trim is not None or rendition.fill is not None):
            yield from (Rendered(file.name, rendition.suffix, None, None, EMPTY) for file in rendition.files)
        elif rendition.what == "cutout":
            assert box is not None
            yield from _pictures(rendition, foreground, cleared, box, backgrounds, photo)
        else:
            yield from _masks(rendition, cleared, box)


def _clear_haze(mask: Mask, haze: float) -> Mask:
    """Set opacity up to ``haze`` to 0 and stretch the rest over the full range; 255 stays."""
    if not haze:
        return mask
    levels = np.arange(256, dtype=np.float64) / 255
    table = np.rint(255 * np.clip((levels - haze) / (1 - haze), 0, 1)).astype(np.uint8)
    return np.asarray(cv2.LUT(mask, table), np.uint8)


def _masks(rendition: Rendition, mask: Mask, box: Region | None) -> Iterator[Rendered]:
    for file in rendition.files:
        placed = fit(Size(*mask.shape), box, rendition, file.size_px)
        x0, y0, x1, y1 = placed.part
        framed = on_frame(resize(mask[y0:y1, x0:x1], placed.inner), placed)
        match rendition.what:
            case "alpha":
                data = encode_mask(framed)
            case "binary":
                data = encode_mask(binarize(framed) * np.uint8(255))
            case "indexed":
                data = encode_labels(binarize(framed))
            case _:
                data = encode_rle(binarize(framed))
        yield Rendered(file.name, rendition.suffix, data, placed.size, _note(rendition, placed, mask, box))


def _pictures(
    rendition: Rendition,
    foreground: Pixels,
    mask: Mask,
    box: Region,
    backgrounds: Mapping[str, bytes],
    photo: Pixels | None,
) -> Iterator[Rendered]:
    remarks = []
    natural = _natural_shadow(rendition, photo, mask)
    if isinstance(natural, str):
        remarks.append(natural)
    extent = NO_EXTENT
    if isinstance(natural, NaturalShadow):
        extent = natural.extent
    elif rendition.shadow and natural is None:
        extent = shadow_extent(rendition.shadow)
    fits = {file: fit(Size(*mask.shape), box, rendition, file.size_px, extent) for file in rendition.files}
    x0, y0, x1, y1 = next(iter(fits.values())).part
    image, alpha = np.ascontiguousarray(foreground[y0:y1, x0:x1]), np.ascontiguousarray(mask[y0:y1, x0:x1])
    degrees = hue_rotation(image, alpha, rendition.hue) if isinstance(rendition.hue, str) else rendition.hue or 0.0
    image = recolour(image, degrees or 0.0, rendition.saturation)
    if degrees is None:
        remarks.append("the object is grey and has no hue to change")
    layer: Layer | None = None
    for file, placed in fits.items():
        if placed.inner == alpha.shape and rendition.background == "none" and rendition.shadow is None:
            data = _transparent(on_frame(image, placed), on_frame(alpha, placed), rendition)
        else:
            layer = layer or premultiply(image, alpha)
            resized = resize_layer(layer, placed.inner)
            data = _compose(rendition, resized, _shadow(rendition, natural, resized, placed), placed, backgrounds)
        yield Rendered(file.name, rendition.suffix, data, placed.size, _note(rendition, placed, mask, box, remarks))


def _natural_shadow(rendition: Rendition, photo: Pixels | None, mask: Mask) -> NaturalShadow | str | None:
    """Return the photo's own shadow, or why it can't be used; None if the rendition does not want it."""
    if not rendition.needs_photo:
        return None
    if photo is None:
        raise ValueError(f"the rendition {rendition.name} needs the photo")
    return find_shadow(photo, mask)


def _shadow(rendition: Rendition, natural: NaturalShadow | str | None, layer: Layer, placed: Fit) -> CastShadow | None:
    if isinstance(natural, NaturalShadow):
        return natural.on_frame(placed)
    if rendition.shadow is None or natural is not None:
        return None
    return cast_shadow(rendition.shadow, opacity(layer), placed.top, placed.left, placed.size)


def _compose(
    rendition: Rendition, layer: Layer, shadow: CastShadow | None, placed: Fit, backgrounds: Mapping[str, bytes]
) -> bytes:
    if rendition.background == "none":
        return _transparent(*unpremultiply(layer, shadow, placed), rendition)
    picture = _background(rendition, placed.size, backgrounds)
    composite(picture, layer, shadow, placed)
    if rendition.format == "png":
        return encode_picture(picture, rendition.dpi)
    return encode_lossy(picture, rendition.format, rendition.quality, rendition.dpi)


def _background(rendition: Rendition, size: Size, backgrounds: Mapping[str, bytes]) -> Pixels:
    if rendition.colour is not None:
        return np.full((*size, 3), rendition.colour, np.uint8)
    return fit_background(backgrounds[str(rendition.background_sha256)], *size).copy()


def _transparent(colours: Pixels, mask: Mask, rendition: Rendition) -> bytes:
    if rendition.format == "png":
        return encode_cutout(colours, mask, rendition.dpi)
    return encode_lossy(np.dstack([colours, mask]), "webp", rendition.quality)


def _note(rendition: Rendition, placed: Fit, mask: Mask, box: Region | None, remarks: Sequence[str] = ()) -> str | None:
    """Return the remarks for a shop's editor; None if there is nothing to check."""
    notes = [*remarks]
    if box is not None and (rendition.trim is not None or rendition.fill is not None):
        touches = zip(("left", "top", "right", "bottom"), box, (0, 0, *mask.shape[::-1]), strict=True)
        sides = [side for side, its, border in touches if its == border]
        notes += [f"the object reaches the photo's border ({', '.join(sides)})"] if sides else []
    if placed.scale > NOTED_SCALE:
        notes.append(f"enlarged {placed.scale:.1f} times")
    elif placed.scale < 1 and not rendition.size_px:
        notes.append(f"reduced to {placed.scale:.2f} of its size: the full size exceeds the limits")
    return "; ".join(notes) or None
