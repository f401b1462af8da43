"""Encode a cutout as it is in any format: transparent, or over a colour."""

from __future__ import annotations

from typing import Literal

import numpy as np

from pipeline.config.rendition import Rendition
from pipeline.imaging.lossy import encode_lossy
from pipeline.imaging.png import encode_cutout, encode_picture
from pipeline.imaging.renditions.render import render
from pipeline.types import Mask, Pixels

Format = Literal["png", "webp", "jpeg"]

FORMATS: dict[str, Format] = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}
"""Format of each suffix of a file."""


def encode_plain(colours: Pixels, alpha: Mask, form: Format, background: str | None = None) -> bytes:
    """Encode a cutout at its own size.

    Args:
        colours: Straight foreground colours, (H, W, 3) uint8.
        alpha: (H, W) uint8.
        form: The file format.
        background: A colour such as ``#ffffff``. None keeps the transparency; JPEG has none, so it gets white.
    """
    if form == "jpeg":
        background = background or "#ffffff"
    if background is None and form == "png":
        return encode_cutout(colours, alpha)
    if background is None:
        return encode_lossy(np.dstack([colours * (alpha > 0)[..., None], alpha]), "webp", None)
    rendition = Rendition(name="plain", background=background, format=form)
    (made,) = render([rendition], colours, alpha, {})
    if made.data is not None:
        return made.data
    empty = np.full(colours.shape, rendition.colour, np.uint8)  # the mask shows no object
    return encode_picture(empty) if form == "png" else encode_lossy(empty, form, None)
