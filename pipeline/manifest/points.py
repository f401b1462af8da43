"""Read the points on objects from the manifest column ``point``, which is carried into the index."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import pyarrow as pa

from pipeline.errors import ItemRefused
from pipeline.manifest.boxes import Boxes, is_none, label_of, split_text

COLUMN = "point"
"""A list of x and y, or text such as ``310,240``. A column of single numbers, or of another kind, has no points."""

Point = tuple[float, float]
"""x and y in pixels of the upright image."""


def parse_point(given: Any) -> Point | None:
    """Return the point that a value of the column is; None for no point.

    Args:
        given: Two numbers in a list, text in any form that a box may have, or None, NaN, an empty text or list for no point.

    Raises:
        ItemRefused: It is something else.
    """
    parts = split_text(given) if isinstance(given, str) else given
    if is_none(parts) or (isinstance(parts, list) and all(map(is_none, parts))):
        return None
    try:
        x, y = (float(one) for one in parts)
    except (TypeError, ValueError, OverflowError):
        x = y = math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ItemRefused(f"point {str(given)[:100]!r} is not two numbers; give x, y in pixels, or no point")
    return x, y


def points_of(rows: pa.Table) -> list[Point | None]:
    """Return the point of each row of a manifest or of the index; None without one, and for one that cannot be used."""
    found: list[Point | None] = [None] * rows.num_rows
    for row, value in enumerate(_values(rows)):
        with suppress(ItemRefused):  # ``with_points`` has refused the row
            found[row] = parse_point(value)
    return found


def with_points(rows: pa.Table, boxes: Boxes) -> tuple[Boxes, dict[int, str]]:
    """Return the boxes of a manifest's rows together with their points, and messages for rows that cannot be used."""
    texts: dict[int, str] = {}
    errors: dict[int, str] = {}
    for row, value in enumerate(_values(rows)):
        try:
            point = parse_point(value)
        except ItemRefused as error:
            texts[row], errors[row] = str(value)[:100], str(error)
            continue
        if point is not None:
            texts[row] = label_of(point)
            if boxes.valid[row] or row in boxes.invalid:
                errors[row] = "the row has a point and a box; keep one of them"
    return boxes._replace(points=texts), errors


def _values(rows: pa.Table) -> list[Any]:
    return list(rows[COLUMN].to_pylist()) if COLUMN in rows.column_names and _may_have(rows.schema.field(COLUMN).type) else []


def _may_have(kind: pa.DataType) -> bool:
    """Return whether a column of this type may have points."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view
    lists = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    return any(check(kind) for check in (*texts, *lists))
