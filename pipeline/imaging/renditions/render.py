"""An item's mask and colours as the files that its recipe's renditions ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipeline.config.rendition import Rendition
from pipeline.errors import WriteError
from pipeline.imaging.encode import encode_cutout, encode_labels, encode_mask, encode_picture
from pipeline.imaging.lossy import encode_lossy
from pipeline.imaging.renditions.background import backdrop
from pipeline.imaging.renditions.compose import Layer, layer_at, on_frame, opacity, over, premultiplied, resized, straight
from pipeline.imaging.renditions.fit import NO_REACH, Fit, fit, object_box
from pipeline.imaging.renditions.recolour import recoloured, turn_to
from pipeline.imaging.renditions.shadow import cast, reach
from pipeline.imaging.rle import encode_rle, is_object
from pipeline.types import Mask, Pixels, Region, Size

EMPTY = "not made: the mask shows no object"

ENLARGED = 1.05
"""From this scale on the index says that a rendition has fewer pixels of its own than it seems."""


@dataclass(frozen=True)
class Rendered:
    """One file. ``note``: what one should know of it; where ``data`` is None, why it wasn't made."""

    name: str
    suffix: str
    data: bytes | None
    size: Size | None
    note: str | None = None

    def save(self, path: str | Path) -> None:
        """Write the file.

        Raises:
            WriteError: there is none.
        """
        if self.data is None:
            raise WriteError(f"rendition {self.name} was {self.note}")
        Path(path).write_bytes(self.data)


def render(
    renditions: Sequence[Rendition], foreground: Pixels, mask: Mask, backgrounds: Mapping[str, bytes]
) -> Iterator[Rendered]:
    """All files of all renditions of an item, in their order.

    A cutout, and anything trimmed, of a mask without visible pixels is not made, and its note says so.

    Args:
        foreground: straight colours, (H, W, 3) uint8; with renditions of the mask alone, anything.
        mask: (H, W) uint8.
        backgrounds: files of the pictures behind the object, by SHA-256.
    """
    for rendition in renditions:
        shown = _without_haze(mask, rendition.haze)
        box = object_box(shown)
        if box is None and (rendition.what == "cutout" or rendition.trim is not None or rendition.fill is not None):
            yield from (Rendered(file.name, rendition.suffix, None, None, EMPTY) for file in rendition.files)
        elif rendition.what == "cutout":
            assert box is not None
            yield from _pictures(rendition, foreground, shown, box, backgrounds)
        else:
            yield from _masks(rendition, shown, box)


def _without_haze(mask: Mask, haze: float) -> Mask:
    """Opacity up to ``haze`` as none, the rest spread over what is left: 255 stays."""
    if not haze:
        return mask
    levels = np.arange(256, dtype=np.float64) / 255
    table = np.rint(255 * np.clip((levels - haze) / (1 - haze), 0, 1)).astype(np.uint8)
    return np.asarray(cv2.LUT(mask, table), np.uint8)


def _masks(rendition: Rendition, mask: Mask, box: Region | None) -> Iterator[Rendered]:
    for file in rendition.files:
        placed = fit(Size(*mask.shape), box, rendition, file.size_px)
        x0, y0, x1, y1 = placed.part
        whole = on_frame(resized(mask[y0:y1, x0:x1], placed.inner), placed)
        match rendition.what:
            case "alpha":
                data = encode_mask(whole)
            case "binary":
                data = encode_mask(is_object(whole) * np.uint8(255))
            case "indexed":
                data = encode_labels(is_object(whole))
            case _:
                data = encode_rle(is_object(whole))
        yield Rendered(file.name, rendition.suffix, data, placed.size, _note(rendition, placed, mask, box))


def _pictures(
    rendition: Rendition, foreground: Pixels, mask: Mask, box: Region, backgrounds: Mapping[str, bytes]
) -> Iterator[Rendered]:
    below = reach(rendition.shadow) if rendition.shadow else NO_REACH
    fits = {file: fit(Size(*mask.shape), box, rendition, file.size_px, below) for file in rendition.files}
    x0, y0, x1, y1 = next(iter(fits.values())).part
    image, shown = np.ascontiguousarray(foreground[y0:y1, x0:x1]), np.ascontiguousarray(mask[y0:y1, x0:x1])
    degrees = turn_to(image, shown, rendition.hue) if isinstance(rendition.hue, str) else rendition.hue or 0.0
    image = recoloured(image, degrees or 0.0, rendition.saturation)
    remark = "the object is grey and has no hue to change" if degrees is None else None
    layer: Layer | None = None
    for file, placed in fits.items():
        if placed.inner == shown.shape and rendition.background == "none" and rendition.shadow is None:
            data = _transparent(on_frame(image, placed), on_frame(shown, placed), rendition)
        else:
            layer = layer or premultiplied(image, shown)
            data = _composed(rendition, layer_at(layer, placed.inner), placed, backgrounds)
        yield Rendered(file.name, rendition.suffix, data, placed.size, _note(rendition, placed, mask, box, remark))


def _composed(rendition: Rendition, layer: Layer, placed: Fit, backgrounds: Mapping[str, bytes]) -> bytes:
    shade = None
    if rendition.shadow is not None:
        shade = cast(rendition.shadow, opacity(layer), placed.top, placed.left, placed.size)
    if rendition.background == "none":
        return _transparent(*straight(layer, shade, placed), rendition)
    picture = _ground(rendition, placed.size, backgrounds)
    over(picture, layer, shade, placed)
    if rendition.format == "png":
        return encode_picture(picture)
    return encode_lossy(picture, rendition.format, rendition.quality)


def _ground(rendition: Rendition, size: Size, backgrounds: Mapping[str, bytes]) -> Pixels:
    if rendition.colour is not None:
        return np.full((*size, 3), rendition.colour, np.uint8)
    return backdrop(backgrounds[str(rendition.background_sha256)], *size).copy()


def _transparent(colours: Pixels, mask: Mask, rendition: Rendition) -> bytes:
    if rendition.format == "png":
        return encode_cutout(colours, mask)
    return encode_lossy(np.dstack([colours, mask]), "webp", rendition.quality)


def _note(rendition: Rendition, placed: Fit, mask: Mask, box: Region | None, remark: str | None = None) -> str | None:
    """What a shop's editor should look at."""
    notes = [remark] if remark else []
    if box is not None and (rendition.trim is not None or rendition.fill is not None):
        touches = zip(("left", "top", "right", "bottom"), box, (0, 0, *mask.shape[::-1]), strict=True)
        sides = [side for side, its, border in touches if its == border]
        notes += [f"the object reaches the photo's border ({', '.join(sides)})"] if sides else []
    if placed.scale > ENLARGED:
        notes.append(f"enlarged {placed.scale:.1f} times")
    elif placed.scale < 1 and not rendition.size_px:
        notes.append(f"reduced to {placed.scale:.2f} of its size: larger ones can't be stored")
    return "; ".join(notes) or None
