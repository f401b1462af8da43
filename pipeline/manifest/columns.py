"""Check a manifest's columns, and warn about columns that are ignored although their names suggest a use."""

from __future__ import annotations

import json
import shlex

import pyarrow as pa

from pipeline.config.columns import Columns
from pipeline.log import log
from pipeline.manifest.items import USUAL, has_bytes, roles

_CORNERS = (("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"))
_SIZES = (("x", "y", "width", "height"), ("x", "y", "w", "h"))
_LISTS = ("bbox", "bboxes", "bounding_box", "bounding_boxes")


def check_columns(schema: pa.Schema, source: str, chosen: Columns = USUAL) -> None:
    """Check the columns of a manifest, or of its first file.

    Raises:
        ConfigError: See ``roles``.
    """
    used = roles(schema, source, chosen)
    unused = "" if used.boxes else _boxes_by_other_names(schema.names)
    if unused:
        log.warning(f"{source}: no boxes are used, and complete images are cut out. {unused}")
    with_bytes = [repr(field.name) for field in schema if has_bytes(field.type)]
    if with_bytes:
        log.warning(f"{source}: bytes are not carried into the index: {', '.join(with_bytes)}")
    index = _pandas_index(schema)
    if index:
        log.warning(f"{source}: the pandas index {index!r} is not a column of the file; write it with df.reset_index()")


def _boxes_by_other_names(names: list[str]) -> str:
    """Return a sentence on how columns that look like boxes can be used. Empty if there are none."""
    by_key = {name.lower(): name for name in names}
    for keys in (*_CORNERS, *_SIZES):
        if all(key in by_key for key in keys):
            listed = ", ".join(by_key[key] for key in keys)
            if keys in _CORNERS:
                return f"If {listed} are boxes, add --box-column {shlex.quote(listed.replace(', ', ','))}"
            return f"If {listed} are boxes, compute x + width and y + height, and name the four columns x0, y0, x1, y1"
    found = next((by_key[key] for key in _LISTS if key in by_key), None)
    if found is None:
        return ""
    return (
        f"If {found!r} has x0, y0, x1, y1, add --box-column {found} (--boxes-column for several boxes per image). If it has "
        "x, y, width and height, as in COCO, convert it first"
    )


def _pandas_index(schema: pa.Schema) -> str | None:
    """Return the name of an index of consecutive numbers, which pandas keeps in the metadata only."""
    try:
        columns = json.loads((schema.metadata or {})[b"pandas"])["index_columns"]
        return next((one["name"] for one in columns if isinstance(one, dict) and one.get("name")), None)
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
