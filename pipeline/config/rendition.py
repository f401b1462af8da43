"""Define renditions: further files made from an item's mask and cutout, as a shop or a data set needs them.

A rendition is named (``configs/renditions/<name>.yaml``), or given as the path of a YAML file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from pipeline.config.sections import Section, build, bundled_file, bundled_names, from_beside, read_yaml
from pipeline.errors import ConfigError
from pipeline.paths import RENDITIONS

RENDITIONS_VERSION = 1
"""Part of every fingerprint. Raise it when the same settings give other files."""

RESERVED = ("masks", "cutouts", "trimaps", "index", "segments")
"""Folders of an output, after which no rendition may be named."""

LONGEST_SIDE_PX = 16_383
"""Largest side of a rendition: the limit of WebP (RFC 9649); JPEG's is hardly larger."""

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


class Shadow(Section):
    """A soft contact shadow around the object's lowest row, or the photo's own. Lengths are shares of the object's height."""

    kind: Literal["contact", "natural"] = Field(
        default="contact", description="contact: drawn, as the other keys say. natural: the photo's own, on plain ground."
    )
    opacity: float = Field(default=0.4, gt=0, le=1, description="Opacity at the darkest point; 1 is black.")
    softness: float = Field(default=0.02, ge=0.001, le=0.3, description="Standard deviation of the blur.")
    depth: float = Field(default=0.08, gt=0, le=1, description="Depth on the ground, before the blur.")
    drop: float = Field(default=0.0, ge=-0.5, le=0.5, description="Distance of its middle below the object's lowest row.")

    @model_validator(mode="after")
    def _natural_is_as_it_is(self) -> Shadow:
        given = self.model_fields_set - {"kind"}
        if self.kind == "natural" and given:
            raise ValueError(f"the photo's own shadow is kept as it is; remove {min(given)}")
        return self


class File(NamedTuple):
    """One file of a rendition: its name, and its longer side in pixels (None: not resized)."""

    name: str
    size_px: int | None


class Rendition(Section):
    """One rendition. Of the mask (``what`` is not ``cutout``), it takes only ``trim`` to ``size_px``, and ``haze``."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$", description="Name of its folder and of its entries in the index.")
    about: str = Field(default="", exclude=True, description="One line for `matteline renditions`.")
    what: Literal["cutout", "alpha", "binary", "rle", "indexed"] = Field(
        default="cutout",
        description="A picture; or the mask as 8-bit alpha, as 0 and 255, as COCO run lengths (JSON), or as a palette PNG.",
    )

    trim: float | None = Field(
        default=None, ge=0, le=2, description="Crop to the object with this margin, as a share of its longer side."
    )
    fill: float | None = Field(
        default=None, gt=0, le=1, description="Share of the frame that the object fills, along the side that limits it."
    )
    aspect: tuple[float, float] | None = Field(default=None, description='Aspect ratio "width:height" of the frame.')
    size_px: tuple[int, ...] = Field(default=(), description="Longer side of the frame in pixels; a list: one file each.")

    background: str = Field(default="none", description='none, a colour such as "#ffffff", or path or URI of a picture.')
    background_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="Its expected SHA-256.")
    shadow: Shadow | None = Field(default=None, description="true, natural, or a mapping (see shadow).")
    haze: float = Field(
        default=0.0, ge=0, le=0.5, description="Opacity up to this value becomes 0; the rest is stretched to [0, 1]."
    )
    hue: float | str | None = Field(
        default=None, description='Rotation of the hues in degrees, or a colour such as "#c0392b" whose hue the object gets.'
    )
    saturation: float = Field(default=1.0, ge=0, le=4, description="Factor on the saturation; 0 makes grey.")

    format: Literal["png", "webp", "jpeg"] = Field(default="png", description="File format of a cutout rendition.")
    quality: int | None = Field(
        default=None, ge=60, le=100, description="Quality of WebP (default 90; 100 is lossless) or JPEG (default 95)."
    )
    dpi: int | None = Field(
        default=None, ge=1, le=10_000, description="Pixels per inch that a PNG or JPEG names for printing. Changes no pixel."
    )

    @field_validator("aspect", mode="before")
    @classmethod
    def _aspect_is_two_numbers(cls, aspect: Any) -> Any:
        if isinstance(aspect, int | float):
            raise ValueError('write it in quotes, as in aspect: "4:5", because YAML reads 4:5 as a number')  # noqa: TRY004
        return tuple(aspect.split(":")) if isinstance(aspect, str) else aspect

    @field_validator("aspect")
    @classmethod
    def _aspect_can_be(cls, aspect: tuple[float, float] | None) -> tuple[float, float] | None:
        if aspect is not None and not (min(aspect) > 0 and 1 / 20 <= aspect[0] / aspect[1] <= 20):
            raise ValueError("width and height must be above 0, and neither more than 20 times the other")
        return aspect

    @field_validator("size_px", mode="before")
    @classmethod
    def _one_size_is_a_list_too(cls, sizes: Any) -> Any:
        return (sizes,) if isinstance(sizes, int) else () if sizes is None else sizes

    @field_validator("size_px")
    @classmethod
    def _sizes_can_be(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(sizes)) != len(sizes) or not all(8 <= size <= LONGEST_SIDE_PX for size in sizes):
            raise ValueError(f"name each size once, from 8 to {LONGEST_SIDE_PX} pixels")
        return tuple(sorted(sizes))

    @field_validator("background", mode="before")
    @classmethod
    def _background_is_not_a_comment(cls, background: Any) -> Any:
        if background is None:
            raise ValueError('it is empty; write a colour in quotes, as in "#ffffff", because # starts a comment in YAML')
        return background

    @field_validator("background")
    @classmethod
    def _colours_have_six_digits(cls, background: str) -> str:
        if background.startswith("#") and not _COLOUR.fullmatch(background):
            raise ValueError(f'{background!r} is not a colour; give six hex digits, as in "#ffffff"')
        return background.lower() if background.startswith("#") else background

    @field_validator("shadow", mode="before")
    @classmethod
    def _shadow_may_be_a_word(cls, shadow: Any) -> Any:
        if isinstance(shadow, bool):
            return {} if shadow else None
        return {"kind": shadow} if isinstance(shadow, str) else shadow

    @field_validator("hue")
    @classmethod
    def _hue_is_an_angle_or_a_colour(cls, hue: float | str | None) -> float | str | None:
        if isinstance(hue, str) and not _COLOUR.fullmatch(hue):
            raise ValueError(f'{hue!r} is neither degrees nor a colour, as in "#c0392b"')
        return hue.lower() if isinstance(hue, str) else hue

    @model_validator(mode="after")
    def _is_coherent(self) -> Rendition:
        if self.trim is not None and self.fill is not None:
            raise ValueError("trim and fill both set the margin around the object; set one of them")
        if self.what != "cutout":
            given = self.model_fields_set & {"background", "shadow", "hue", "saturation", "format", "quality", "dpi"}
            if given:
                raise ValueError(
                    f"{min(given)} needs what: cutout, and this rendition has what: {self.what}; remove {min(given)}"
                )
        if self.format == "jpeg" and self.background == "none":
            raise ValueError('JPEG has no transparency; set a background such as "#ffffff", or use png or webp')
        if self.format == "png" and self.quality is not None:
            raise ValueError("PNG is lossless and has no quality; remove it, or use webp or jpeg")
        if self.format == "webp" and self.dpi is not None:
            raise ValueError("WebP has no field for dpi; remove it, or use png or jpeg")
        if self.background_sha256 is not None and self.picture is None:
            raise ValueError("background_sha256 needs a background that is a picture")
        return self

    @property
    def colour(self) -> tuple[int, int, int] | None:
        """RGB of a plain background, 0 to 255 each; None for others."""
        return rgb(self.background) if self.background.startswith("#") else None

    @property
    def picture(self) -> str | None:
        """Path or URI of a background picture; None for others."""
        return None if self.background == "none" or self.colour else self.background

    @property
    def needs_photo(self) -> bool:
        """Return whether the photo is needed besides mask and cutout."""
        return self.shadow is not None and self.shadow.kind == "natural"

    @property
    def suffix(self) -> str:
        """Suffix of its files, without a dot."""
        return "json" if self.what == "rle" else {"png": "png", "webp": "webp", "jpeg": "jpg"}[self.format]

    @property
    def files(self) -> tuple[File, ...]:
        """Files per item: one, or one per size, with their names in the index."""
        if len(self.size_px) < 2:
            return (File(self.name, self.size_px[0] if self.size_px else None),)
        return tuple(File(f"{self.name}-{size}", size) for size in self.size_px)

    def facts(self) -> dict[str, Any]:
        """Return everything that changes its files, as JSON: a background picture by hash, not by path.

        Raises:
            ConfigError: The hash of the picture is not known yet.
        """
        if self.picture and self.background_sha256 is None:
            raise ConfigError(f"rendition {self.name} has no background_sha256 yet; call pin_backgrounds first")
        return self.model_dump(mode="json", exclude={"background"} if self.picture else None)

    def fingerprint(self) -> str:
        """Return a hash of everything that changes its files, 12 hex digits.

        Raises:
            ConfigError: As ``facts``.
        """
        text = json.dumps(self.facts() | {"version": RENDITIONS_VERSION}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


COLOURS = {"white": "#ffffff", "black": "#000000"}
"""Colours that may be given by name."""


def is_colour(background: str) -> bool:
    """Return whether a text means a colour, which may be wrong, and not a picture."""
    return background.startswith("#") or background.lower() in COLOURS


def parse_colour(text: str) -> str:
    """Return ``#f4f1ea``, ``white`` or ``black`` as six hexadecimal digits after a #.

    Raises:
        ConfigError: It is none of these.
    """
    colour = COLOURS.get(text.lower(), text) if isinstance(text, str) else text
    if not isinstance(colour, str) or not _COLOUR.fullmatch(colour):
        raise ConfigError(f'the background {text!r} is not a colour; give six hex digits such as "#f4f1ea", white or black')
    return colour.lower()


def parse_background(text: str) -> str:
    """Return a colour as ``parse_colour`` does; the path or URI of a picture as it is.

    Raises:
        ConfigError: It is empty, or a colour that is none.
    """
    return text if text and not is_colour(text) else parse_colour(text)


def rgb(colour: str) -> tuple[int, int, int]:
    """Parse ``#rrggbb`` to red, green and blue, 0 to 255 each."""
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def rendition_names() -> list[str]:
    """Return the names of the bundled renditions, sorted."""
    return bundled_names(RENDITIONS)


def load_rendition(name_or_path: str) -> Rendition:
    """Load a bundled rendition by name, or a user's own by path. Its background may be relative to that file.

    Raises:
        ConfigError: There is no such rendition, a key is unknown, or a value is out of range.
    """
    path = bundled_file(name_or_path, RENDITIONS, "rendition")
    content = read_yaml(path)
    content.setdefault("name", path.stem)
    rendition = build(Rendition, content, path.name)
    if rendition.picture is None:
        return rendition
    return rendition.model_copy(update={"background": from_beside(path, rendition.picture)})


def check_unique_names(renditions: Sequence[Rendition]) -> None:
    """Refuse two files with the same name, and names of an output's own folders.

    Raises:
        ValueError: A file name is used twice, or a rendition has a reserved name. The message names it.
    """
    for rendition in renditions:
        if rendition.name in RESERVED:
            raise ValueError(f"a rendition cannot be named {rendition.name}, because outputs have a folder of that name")
        if renditions.count(rendition) > 1:
            raise ValueError(
                f"the rendition {rendition.name} is given twice; name it once (matteline serve offers all bundled ones)"
            )
    names = Counter(file.name for rendition in renditions for file in rendition.files)
    duplicates = [name for name, count in names.items() if count > 1]
    if duplicates:
        raise ValueError(f"two renditions have a file named {duplicates[0]}; rename one of them")
