"""Draw a frame with its mask as it is to be shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.config.rendition import rgb
from pipeline.imaging.extend import extend_colours
from pipeline.imaging.foreground import estimate_foreground
from pipeline.types import Mask, Pixels
from pipeline.video.forms import Look

WHITE = "#ffffff"


@dataclass(frozen=True)
class Draw:
    """Draws frames.

    Attributes:
        look: What is shown.
        foreground: As ``recipe.foreground``.
        background: The colour for the look ``colour``.
    """

    look: Look
    foreground: Literal["multilevel", "ben2", "none"] = "multilevel"
    background: str | None = None

    @property
    def clear(self) -> bool:
        """Return whether frames are RGBA."""
        return self.look == "cutout"

    def __call__(self, pixels: Pixels, mask: Mask) -> npt.NDArray[np.uint8]:
        """Return (H, W, 4) straight RGBA if ``clear``, else (H, W, 3) RGB, uint8.

        Args:
            pixels: (H, W, 3) uint8.
            mask: (H, W) uint8.
        """
        if self.look == "mask":
            return np.repeat(mask[..., None], 3, axis=2)
        colours = estimate_foreground(pixels, mask, self.foreground)
        if self.look == "cutout":
            return np.dstack([extend_colours(colours, mask), mask])
        alpha = mask[..., None].astype(np.uint16)
        behind = np.array(rgb(self.background or WHITE), np.uint16)
        return ((colours * alpha + behind * (255 - alpha) + 127) // 255).astype(np.uint8)
