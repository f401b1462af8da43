"""A picture that was cut out in this process: its mask, its colours, and its quality."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.config.job import Limits
from pipeline.config.recipe import Recipe
from pipeline.config.rendition import Rendition, load_rendition, parse_colour
from pipeline.errors import ConfigError
from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.picture import PilImage, as_pil, preview
from pipeline.imaging.renditions.plain import FORMATS, encode_plain
from pipeline.imaging.renditions.render import Rendered, render
from pipeline.imaging.trimap import trimap_of
from pipeline.models.backgrounds import pin_backgrounds
from pipeline.models.cascade import Look
from pipeline.models.detectors.detector import Detection
from pipeline.quality.score import Score
from pipeline.storage.files import Files
from pipeline.types import Mask, Pixels


@dataclass(frozen=True, eq=False, repr=False)
class Cutout:
    """One picture, cut out. A notebook shows it; ``print`` gives its size and quality.

    >>> result.save("cup.png")             # or .webp, .tiff, .jpg
    >>> result.image                       # PIL image, RGBA
    >>> mask, cutout = result              # (H, W) and (H, W, 4) uint8

    Its arrays have the height and width of the upright picture.

    Attributes:
        picture: The picture itself, upright and in sRGB: (H, W, 3) uint8 RGB.
        mask: Opacity: (H, W) uint8, 0 transparent, 255 opaque.
        score: Quality, reasons and signals.
        recipe: The settings that made it.
        detection: With ``label``: the box that was found, its score, and the name. None if none was looked for.
        looks: With ``second``: what each model thought, the first model first. Empty without it.
        agreement: Dice of the masks of two models, in [0, 1]; None if one model saw the picture.
    """

    picture: Pixels
    mask: Mask
    score: Score
    recipe: Recipe
    detection: Detection | None = None
    looks: tuple[Look, ...] = ()
    agreement: float | None = None

    @property
    def alpha(self) -> Mask:
        """Another name of ``mask``."""
        return self.mask

    @cached_property
    def cutout(self) -> npt.NDArray[np.uint8]:
        """RGBA with straight alpha, (H, W, 4) uint8: the object's own colours, and the mask."""
        return np.dstack([estimate_foreground(self.picture, self.mask, self.recipe.foreground), self.mask])

    @cached_property
    def image(self) -> PilImage:
        """The cutout as a PIL image of mode RGBA, with straight alpha."""
        return as_pil(self.cutout)

    @cached_property
    def trimap(self) -> Mask:
        """0 background, 255 object, 128 unknown, (H, W) uint8; see ``imaging.trimap``."""
        return trimap_of(self.mask)

    @property
    def quality(self) -> float:
        """Quality in [0, 1], higher is better."""
        return self.score.quality

    @property
    def reasons(self) -> tuple[str, ...]:
        """The signals that lowered the quality most, worst first."""
        return self.score.reasons

    @property
    def signals(self) -> dict[str, float | bool | None]:
        """The measurements behind the quality."""
        return self.score.signals

    def png(self) -> bytes:
        """Return the cutout as the bytes of a PNG file."""
        return encode_plain(self.cutout[..., :3], self.mask, "png")

    def save(self, path: str | os.PathLike[str], background: str | None = None) -> None:
        """Write the cutout to a file. Missing folders are made.

        Args:
            path: Path that ends in .png, .webp, .jpg or .tiff, which chooses the format.
            background: A colour behind the object: ``#f4f1ea``, ``white`` or ``black``. Default: transparent; for JPEG, which
                has no transparency, white.

        Raises:
            ConfigError: The path ends otherwise, or the background is not a colour.
            OSError: The file cannot be written.
            TypeError: This is not a path.
            WriteError: The picture is too large for the format: WebP up to 16,383 pixels per side, JPEG up to 65,500.
        """
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"save takes a path, not a {type(path).__name__}; png() and image.save() serve open files")
        target = Path(path)
        form = FORMATS.get(target.suffix.lower())
        if form is None:
            raise ConfigError(f"{path} must end in .png, .webp, .jpg or .tiff")
        colour = None if background is None else parse_colour(background)
        data = encode_plain(self.cutout[..., :3], self.mask, form, colour)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def rendition(self, which: str | os.PathLike[str] | Rendition) -> list[Rendered]:
        """Return the files of a rendition, one per size. Each has ``name``, ``data`` and ``save(path)``.

        Args:
            which: Name of a bundled rendition, path of a YAML file, or a ``Rendition``.

        Raises:
            ConfigError: There is no such rendition, or its background cannot be read.
        """
        chosen = which if isinstance(which, Rendition) else load_rendition(os.fspath(which))
        pinned, backgrounds = pin_backgrounds([chosen], Files(), Limits())
        return list(render(pinned, self.cutout[..., :3], self.mask, backgrounds, self.picture))

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        return iter((self.mask, self.cutout))

    def __repr__(self) -> str:
        height, width = self.mask.shape
        why = f" ({', '.join(self.reasons)})" if self.reasons else ""
        return f"<Cutout {width} x {height}, quality {self.quality:.2f}{why}>"

    def _repr_png_(self) -> bytes:
        """Return a preview for notebooks."""
        return preview(self.image)
