"""Parse what a request asks for: model, box, and the form of the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from pipeline.config.detector import parse_names, split_names
from pipeline.config.rendition import Rendition, parse_colour
from pipeline.errors import ConfigError, ItemRefused, PromptError
from pipeline.imaging.renditions.plain import FORMATS, Format
from pipeline.serve.refusals import RequestRefused
from pipeline.types import Box

Output = Literal["cutout", "mask", "trimap", "json"]

MOST_RENDITIONS = 8
"""Renditions of one request, at most."""

NAMES = ("preset", "box", "label", "point", "output", "rendition", "format", "background")
"""Names of the options, in the query or in a form."""


FORMAT_NAMES = tuple(suffix.lstrip(".") for suffix in FORMATS)
"""Values of the option ``format``."""


@dataclass(frozen=True)
class Asked:
    """The options of a request.

    Attributes:
        preset: A configured preset.
        box: Box around the object, in pixels of the upright picture.
        names: Names of the object, which a detector looks for; None: what the preset's detector looks for by default, if any.
        point: A point on the object, x and y in pixels of the upright picture; without a box and names.
        output: ``cutout``: a picture. ``mask``, ``trimap``: an 8-bit PNG. ``json``: cutout and mask, with quality and signals.
        renditions: In JSON, they stand beside cutout and mask. Otherwise there is at most one, in place of the cutout.
        form: Format of the cutout.
        background: Colour behind the cutout, as ``#rrggbb``; None: transparent, or white in JPEG.
    """

    preset: str
    box: Box | None = None
    names: tuple[str, ...] | None = None
    point: tuple[float, float] | None = None
    output: Output = "cutout"
    renditions: tuple[Rendition, ...] = ()
    form: Format = "png"
    background: str | None = None


def parse_asked(given: Mapping[str, str], presets: tuple[str, ...], renditions: Mapping[str, Rendition]) -> Asked:
    """Parse the options of a request.

    Args:
        given: Options by name. Empty values count as absent.
        presets: Names of the configured presets, the default first.
        renditions: Renditions by the name of their file.

    Raises:
        RequestRefused: 400, with the option and its possible values.
        ItemRefused: The box cannot be used.
    """
    unknown = sorted(set(given) - set(NAMES))
    if unknown:
        raise _refused(f"there is no option {unknown[0][:40]!r}; use {', '.join(NAMES)}")
    options = {name: value.strip() for name, value in given.items() if value.strip()}
    output = _one_of("output", options.get("output", "cutout"), get_args(Output))
    form = options.get("format", "png").lower()
    form = FORMATS[f".{_one_of('format', form, FORMAT_NAMES)}"]
    wanted = _rendition_names(options.get("rendition", ""), renditions)
    if wanted and output != "json" and ({"format", "background"} & set(options) or output != "cutout"):
        raise _refused(
            "a rendition has its own format and background; leave format, background and output out, or give output=json"
        )
    if len(wanted) > 1 and output != "json":
        raise _refused("several renditions need output=json; give it, or one rendition")
    if output in {"mask", "trimap"} and (options.get("background") or form != "png"):
        raise _refused(f"a {output} is a PNG without a background; leave format and background out")
    names = _names(options["label"]) if "label" in options else None
    if "box" in options and names:
        raise _refused("a box says already where the object is; leave box or label out")
    if "point" in options and ("box" in options or names):
        raise _refused("a point says already where the object is; leave point, box or label out")
    return Asked(
        preset=_one_of("preset", options.get("preset", presets[0]), presets),
        box=parse_box(options["box"]) if "box" in options else None,
        names=names,
        point=_point(options["point"]) if "point" in options else None,
        output=cast(Output, output),
        renditions=tuple(renditions[name] for name in wanted),
        form=form,
        background=_colour(options["background"]) if "background" in options else None,
    )


def parse_box(text: str) -> Box:
    """Parse ``x0,y0,x1,y1``, or the same as a JSON list.

    Raises:
        ItemRefused: It is not four numbers, or has no area.
    """
    inner = text.strip()
    try:
        values: Any = json.loads(inner) if inner.startswith("[") else inner.split(",")
    except (ValueError, RecursionError):
        values = []
    if not isinstance(values, list) or len(values) != 4 or any(isinstance(value, bool | list | dict) for value in values):
        raise ItemRefused(f"box {text[:60]!r} is not four numbers; give x0,y0,x1,y1 in pixels")
    return Box.parse(values)


def _rendition_names(text: str, known: Mapping[str, Rendition]) -> list[str]:
    """Return the names in a list with commas, each once."""
    names = list(dict.fromkeys(name for name in (part.strip() for part in text.split(",")) if name))
    for name in names:
        _one_of("rendition", name, list(known))
    if len(names) > MOST_RENDITIONS:
        raise _refused(f"rendition has {len(names)} names; give at most {MOST_RENDITIONS}")
    return names


def _point(text: str) -> tuple[float, float]:
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise _refused(f"point {text[:40]!r} is not two numbers; give x,y in pixels") from None
    return x, y


def _names(text: str) -> tuple[str, ...] | None:
    try:
        return parse_names(split_names(text))
    except PromptError as error:
        raise _refused(f"label: {error}") from None


def _one_of(name: str, value: str, known: Any) -> str:
    if value not in known:
        listed = ", ".join(known)
        raise _refused(f"{name} {value[:40]!r} is unknown; choose from {listed}")
    return value


def _colour(text: str) -> str:
    try:
        return parse_colour(text)
    except ConfigError:
        raise _refused(
            f'background {text[:40]!r} is not a colour; give six hex digits such as "#f4f1ea", white or black'
        ) from None


def _refused(message: str) -> RequestRefused:
    return RequestRefused(400, "request", message)
