"""What a rendition is: one more file made from an item's mask and cutout, as a shop or a data set wants it.

A name stands for a bundled one (``configs/renditions/<name>.yaml``), the path of a YAML file for one's own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from pipeline.config.sections import Section, build, bundled_file, bundled_names, from_beside, read_yaml
from pipeline.errors import ConfigError
from pipeline.paths import RENDITIONS

RENDITIONS_VERSION = 1
"""Part of the fingerprint of recipes with renditions; raised when the same settings start to give other files."""

LONGEST_SIDE_PX = 16_383
"""Of any rendition: no WebP file can be larger (RFC 9649), nor a JPEG much."""

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


class Shadow(Section):
    """A soft shadow where the object stands, around its lowest row. All lengths are shares of the object's height."""

    opacity: float = Field(default=0.4, gt=0, le=1, description="how dark it is where it is darkest: 1 is black")
    softness: float = Field(default=0.02, ge=0.001, le=0.3, description="standard deviation of the blur")
    depth: float = Field(default=0.08, gt=0, le=1, description="how deep it lies, before the blur")
    drop: float = Field(default=0.0, ge=-0.5, le=0.5, description="how far its middle lies below the object's lowest row")


class File(NamedTuple):
    """One file of a rendition: its name, and the longer side in pixels (None: as large as it comes)."""

    name: str
    size_px: int | None


class Rendition(Section):
    """One more way to show an item. Masks (``what`` other than ``cutout``) take ``trim``, ``fill``, ``aspect``, ``size_px``."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$", description="names its folder and its rows in the index")
    about: str = Field(default="", exclude=True, description="one line for the list of renditions")
    what: Literal["cutout", "alpha", "binary", "rle", "indexed"] = Field(
        default="cutout",
        description="a picture; or the mask as 8-bit alpha, as 0 and 255, as COCO's run lengths (JSON), as a palette PNG",
    )

    trim: float | None = Field(
        default=None, ge=0, le=2, description="cut down to the object, with a margin: a share of its longer side"
    )
    fill: float | None = Field(
        default=None, gt=0, le=1, description="the object's share of the frame, along the side that limits it"
    )
    aspect: tuple[float, float] | None = Field(default=None, description='of the frame, "width:height"')
    size_px: tuple[int, ...] = Field(default=(), description="longer side of the frame; several give a file each")

    background: str = Field(default="none", description='none, a colour as "#ffffff", or the path or URI of a picture')
    background_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="what the picture must hash to")
    shadow: Shadow | None = None
    haze: float = Field(
        default=0.0, ge=0, le=0.5, description="opacity up to here is none; above it begins from nothing, full stays full"
    )
    hue: float | str | None = Field(
        default=None, description='degrees by which the hues turn, or a colour as "#c0392b" whose hue becomes the object\'s'
    )
    saturation: float = Field(default=1.0, ge=0, le=4, description="factor; 0 leaves greys")

    format: Literal["png", "webp", "jpeg"] = "png"
    quality: int | None = Field(
        default=None, ge=60, le=100, description="of WebP (absent, 90; 100 is lossless) and JPEG (absent, 95)"
    )

    @field_validator("aspect", mode="before")
    @classmethod
    def _aspect_is_two_numbers(cls, aspect: Any) -> Any:
        if isinstance(aspect, int | float):
            raise ValueError('put it in quotes, as in aspect: "4:5", for YAML takes 4:5 for a number')  # noqa: TRY004
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
            raise ValueError('it is empty; put a colour in quotes, as in "#ffffff", for YAML takes what follows # for a remark')
        return background

    @field_validator("background")
    @classmethod
    def _colours_have_six_digits(cls, background: str) -> str:
        if background.startswith("#") and not _COLOUR.fullmatch(background):
            raise ValueError(f'{background!r} is no colour; give six hex digits, as in "#ffffff"')
        return background.lower() if background.startswith("#") else background

    @field_validator("shadow", mode="before")
    @classmethod
    def _shadow_may_be_yes_or_no(cls, shadow: Any) -> Any:
        return (Shadow() if shadow else None) if isinstance(shadow, bool) else shadow

    @field_validator("hue")
    @classmethod
    def _hue_is_an_angle_or_a_colour(cls, hue: float | str | None) -> float | str | None:
        if isinstance(hue, str) and not _COLOUR.fullmatch(hue):
            raise ValueError(f'{hue!r} is neither degrees nor a colour, as in "#c0392b"')
        return hue.lower() if isinstance(hue, str) else hue

    @model_validator(mode="after")
    def _is_coherent(self) -> Rendition:
        if self.trim is not None and self.fill is not None:
            raise ValueError("trim and fill both say how much room the object has; give one of them")
        if self.what != "cutout":
            given = self.model_fields_set & {"background", "shadow", "hue", "saturation", "format", "quality"}
            if given:
                raise ValueError(f"{min(given)} is for cutouts; a rendition of the mask ({self.what}) has none")
        if self.format == "jpeg" and self.background == "none":
            raise ValueError('JPEG knows no transparency; give a background, such as "#ffffff", or take png or webp')
        if self.format == "png" and self.quality is not None:
            raise ValueError("PNG loses nothing and has no quality; leave it out, or take webp or jpeg")
        if self.background_sha256 is not None and self.picture is None:
            raise ValueError("background_sha256 is for a background that is a picture")
        return self

    @property
    def colour(self) -> tuple[int, int, int] | None:
        """Of a plain background, 0 to 255 each."""
        return rgb(self.background) if self.background.startswith("#") else None

    @property
    def picture(self) -> str | None:
        """Path or URI of a background that is a picture."""
        return None if self.background == "none" or self.colour else self.background

    @property
    def suffix(self) -> str:
        """How its files' names end."""
        return "json" if self.what == "rle" else {"png": "png", "webp": "webp", "jpeg": "jpg"}[self.format]

    @property
    def files(self) -> tuple[File, ...]:
        """What is made of every item: one file, or one a size, by the names that the index has."""
        if len(self.size_px) < 2:
            return (File(self.name, self.size_px[0] if self.size_px else None),)
        return tuple(File(f"{self.name}-{size}", size) for size in self.size_px)

    def facts(self) -> dict[str, Any]:
        """All that decides its files, as JSON: a background's picture by hash, not by place.

        Raises:
            ConfigError: the hash of the picture isn't known yet.
        """
        if self.picture and self.background_sha256 is None:
            raise ConfigError(f"rendition {self.name} has no background_sha256 yet; fetch its background first")
        return self.model_dump(mode="json", exclude={"background"} if self.picture else None)


def rgb(colour: str) -> tuple[int, int, int]:
    """``#rrggbb`` as red, green, blue, 0 to 255."""
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def rendition_names() -> list[str]:
    """Names of the bundled renditions, sorted."""
    return bundled_names(RENDITIONS)


def load_rendition(name_or_path: str) -> Rendition:
    """A bundled rendition by name, or a user's own by the path of its YAML file; its background may lie beside that file.

    Raises:
        ConfigError: no such rendition, an unknown key, a value out of range.
    """
    path = bundled_file(name_or_path, RENDITIONS, "rendition")
    content = read_yaml(path)
    content.setdefault("name", path.stem)
    rendition = build(Rendition, content, path.name)
    if rendition.picture is None:
        return rendition
    return rendition.model_copy(update={"background": from_beside(path, rendition.picture)})


def check_apart(renditions: Iterable[Rendition]) -> None:
    """Refuse two files of one name.

    Raises:
        ValueError: naming it.
    """
    names = Counter(file.name for rendition in renditions for file in rendition.files)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ValueError(f"two renditions would be called {twice[0]}; rename one of them")
