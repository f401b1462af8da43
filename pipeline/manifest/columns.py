"""Check a manifest's columns, and warn about columns that are ignored although their names suggest a use."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from itertools import product

import pyarrow as pa

from pipeline.config.columns import Columns
from pipeline.log import log
from pipeline.manifest.items import USUAL, has_bytes, is_list, roles
from pipeline.manifest.json_lines import JSON_TEXT

_PREFIX = re.compile(r"^(?:bbox|box|bndbox|boundingbox|rect|roi)(?=.)")
_CORNERS = (
    *(("xmin", "ymin", "xmax", "ymax"), ("minx", "miny", "maxx", "maxy"), ("left", "top", "right", "bottom")),
    *(("x1", "y1", "x2", "y2"), ("x0", "y0", "x1", "y1"), ("startx", "starty", "endx", "endy")),
    *(("xtl", "ytl", "xbr", "ybr"), ("xstart", "ystart", "xend", "yend")),
)
_STARTS = (("x", "y"), ("left", "top"), ("xmin", "ymin"), ("minx", "miny"), ("x1", "y1"), ("x0", "y0"), ("xtl", "ytl"))
_CENTRES = (("cx", "cy"), ("xcenter", "ycenter"), ("centerx", "centery"), ("xcentre", "ycentre"), ("xc", "yc"))
_SIDES = (("w", "h"), ("width", "height"))  # in this order: besides w and h, the others are those of the image
_LISTS = (
    *("bbox", "bboxes", "boundingbox", "boundingboxes", "bndbox", "bndboxes", "box2d", "boxes2d"),
    *("rect", "rects", "rectangle", "roi", "rois", "xyxy", "xywh"),
)
_NESTED = ("objects", "annotations", "detections", "instances", "regions")
"""Columns of other tools, without their prefix, signs and case: corners of a box, its first corner or its centre, its sides."""


def check_columns(schema: pa.Schema, source: str, chosen: Columns = USUAL) -> None:
    """Check the columns of a manifest, or of its first file.

    Raises:
        ConfigError: See ``roles``.
    """
    used = roles(schema, source, chosen)
    unused = "" if used.boxes else boxes_by_other_names(schema)
    if unused:
        log.warning(f"{source}: no boxes are used, and complete images are cut out. {unused}")
    with_bytes = [repr(field.name) for field in schema if has_bytes(field.type)]
    if with_bytes:
        log.warning(f"{source}: bytes are not carried into the index: {', '.join(with_bytes)}")
    index = _pandas_index(schema)
    if index:
        log.warning(f"{source}: the pandas index {index!r} is not a column of the file; write it with df.reset_index()")


def boxes_by_other_names(schema: pa.Schema) -> str:
    """Return a sentence on how columns that look like boxes can be used. Empty if there are none."""
    plain = {_plain(name): name for name in reversed(schema.names)}
    of_prefix = {_PREFIX.sub("", key): name for key, name in plain.items() if _PREFIX.match(key)}
    for by_key in (plain, of_prefix):
        for keys in _CORNERS:
            if found := _found(by_key, keys):
                return f"If {', '.join(found)} are boxes, add --box-column {shlex.quote(','.join(found))}"
        for starts, sides in product(_STARTS, _SIDES):
            if found := _found(by_key, (*starts, *sides)):
                x, y, width, height = found
                return _to_compute(found, f"{x}, {y}, {x} + {width}, {y} + {height}")
        for centres, sides in product(_CENTRES, _SIDES):
            if found := _found(by_key, (*centres, *sides)):
                x, y, width, height = found
                ends = f"{x} + {width} / 2, {y} + {height} / 2"
                return _to_compute(found, f"{x} - {width} / 2, {y} - {height} / 2, {ends}")
    if (column := next((plain[key] for key in _LISTS if key in plain), None)) is not None:
        return (
            f"If {column!r} has x0, y0, x1, y1, add --box-column {shlex.quote(column)} (--boxes-column for several boxes per "
            "image). If it has x, y, width and height, as in COCO, convert it first"
        )
    for field in schema:
        if nested := _nested_boxes(field):
            return f"If {nested} has boxes, write them to a column boxes: a list of [x0, y0, x1, y1] per image, in pixels"
    return ""


def _to_compute(columns: Sequence[str], formula: str) -> str:
    return f"If {', '.join(columns)} are boxes, write four columns x0, y0, x1, y1: {formula}, in pixels"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _found(by_key: Mapping[str, str], keys: Sequence[str]) -> list[str]:
    """Return the columns of four different keys; none if one is missing."""
    return [by_key[key] for key in keys] if all(key in by_key for key in keys) else []


def _nested_boxes(field: pa.Field) -> str:
    """Return the name of a field in structs that looks like boxes, such as ``objects.bbox`` in data sets on the hub."""
    kind = field.type
    while is_list(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        children = [kind.field(place).name for place in range(kind.num_fields)]
        return next((f"{field.name}.{child}" for child in children if _plain(child) in _LISTS), "")
    is_json = (field.metadata or {}).keys() >= JSON_TEXT.keys()
    return field.name if is_json and _plain(field.name) in _NESTED else ""


def _pandas_index(schema: pa.Schema) -> str | None:
    """Return the name of an index of consecutive numbers, which pandas keeps in the metadata only."""
    try:
        columns = json.loads((schema.metadata or {})[b"pandas"])["index_columns"]
        return next((one["name"] for one in columns if isinstance(one, dict) and one.get("name")), None)
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
