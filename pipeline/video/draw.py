"""Draw a frame with its mask as it is to be shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.config.recipe import Recipe
from pipeline.config.rendition import rgb
from pipeline.imaging.extend import extend_colours
from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.renditions.background import fit_background
from pipeline.types import Mask, Pixels
from pipeline.video.forms import Look

WHITE = "#ffffff"


def behind(recipe: Recipe, backgrounds: Mapping[str, bytes]) -> str | bytes:
    """Return what ``recipe.video_background`` means: a colour, or the bytes of one of these pictures, which are by SHA-256."""
    return backgrounds[str(recipe.video_background_sha256)] if recipe.video_picture else recipe.video_background


@dataclass(frozen=True)
class Draw:
    """Draws frames.

    Attributes:
        look: What is shown.
        foreground: As ``recipe.foreground``.
        background: What is behind the object in the look ``filled``: a colour, or the bytes of a picture, which covers the
            frame. The picture is decoded and resized once per video, not per frame.
    """

    look: Look
    foreground: Literal["multilevel", "ben2", "none"] = "multilevel"
    background: str | bytes = WHITE

    @property
    def clear(self) -> bool:
        """Return whether frames are RGBA."""
        return self.look == "cutout"

    def __call__(
        self, pixels: Pixels, mask: Mask, aspect: Fraction = Fraction(1), colours: Pixels | None = None
    ) -> npt.NDArray[np.uint8]:
        """Return (H, W, 4) straight RGBA if ``clear``, else (H, W, 3) RGB, uint8.

        Args:
            pixels: (H, W, 3) uint8.
            mask: (H, W) uint8.
            aspect: Width of a pixel divided by its height. A picture behind the object is drawn so that a player shows it
                undistorted.
            colours: The object's own colours, (H, W, 3) uint8, if they are known.
        """
        if self.look == "mask":
            return np.repeat(mask[..., None], 3, axis=2)
        if colours is None:
            colours = estimate_foreground(pixels, mask, self.foreground)
        if self.look == "cutout":
            return np.dstack([extend_colours(colours, mask), mask])
        alpha = mask[..., None].astype(np.uint16)
        return ((colours * alpha + self._behind(mask.shape, aspect) * (255 - alpha) + 127) // 255).astype(np.uint8)

    def _behind(self, size: tuple[int, ...], aspect: Fraction) -> npt.NDArray[np.uint8]:
        """Return the colour, (3,) uint8, or the picture in the frame's size, (H, W, 3) uint8."""
        if isinstance(self.background, str):
            return np.array(rgb(self.background), np.uint8)
        return fit_background(self.background, size[0], size[1], aspect)


def draw_each(
    draws: Sequence[Draw], pixels: Pixels, mask: Mask, aspect: Fraction = Fraction(1)
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield a frame drawn in several ways, in order. What they share is computed once. Arguments: see ``Draw.__call__``."""
    colours: dict[str, Pixels] = {}
    drawn: dict[Draw, npt.NDArray[np.uint8]] = {}
    for draw in draws:
        if draw not in drawn:
            if draw.look != "mask" and draw.foreground not in colours:
                colours[draw.foreground] = estimate_foreground(pixels, mask, draw.foreground)
            drawn[draw] = draw(pixels, mask, aspect, colours.get(draw.foreground))
        yield drawn[draw]
