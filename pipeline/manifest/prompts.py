"""Read which objects are to be found by name, from the manifest columns ``label`` and ``labels`` of items."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pipeline.config.columns import Columns
from pipeline.config.detector import Detector, parse_names, split_names
from pipeline.errors import ItemError, ItemRefused, PromptError
from pipeline.manifest.items import is_list
from pipeline.manifest.points import Point, points_of

COLUMNS = ("label", "labels")
"""A name, and several: a list, or text such as ``cup; plant``. Both are carried into the index, as other columns are."""


def may_have_names(detector: Detector, carried: pa.Schema) -> bool:
    """Return whether a detector may have to look for a name in rows with these carried columns."""
    return bool(detector.label) or any(field.name in COLUMNS and not _is_numeric(field.type) for field in carried)


def unused_names(detector: Detector | None, carried: pa.Schema, chosen: Columns) -> str | None:
    """Return a sentence about a column of names that is not used, and the setting that changes that; None without one."""
    found = {chosen.original(field.name): _is_numeric(field.type) for field in carried if field.name in COLUMNS}
    numbers = [name for name, numeric in found.items() if numeric]
    texts = [name for name, numeric in found.items() if not numeric]
    if detector is None and texts:
        return (
            f"the manifest's column {texts[0]!r} is not used to find objects, because no detector is set; add --set "
            "recipe.detector=nanodet or another detector, or --label-column '' if it has no names of objects"
        )
    if detector is not None and numbers:
        return (
            f"the manifest's column {numbers[0]!r} has numbers, not names of objects, and is not used; name another column "
            "with --label-column"
        )
    return None


def _is_numeric(kind: pa.DataType) -> bool:
    """Return whether a column has numbers, such as those of classes, or lists of numbers."""
    while pa.types.is_dictionary(kind) or is_list(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_boolean(kind)
    )


def prompts_of(rows: pa.Table, detector: Detector | None) -> list[tuple[str, ...] | ItemError]:
    """Return the names that are looked for in each row's image.

    There are none without a detector, for a row with a box or a point, and for the label ``auto``. A row without a label takes
    ``detector.label``. A column of numbers, such as those of classes, has no names.

    Args:
        rows: Items, with their box and carried columns; or rows of the index.
        detector: ``recipe.detector``.

    Returns:
        The names per row, or the error of a row whose label cannot be used, or that has a point, too.
    """
    if detector is None:
        return [()] * rows.num_rows
    single, several = (rows[name].to_pylist() if _has_names(rows.schema, name) else [None] * rows.num_rows for name in COLUMNS)
    boxes, points = rows["box"].is_valid().to_pylist(), points_of(rows)
    return [() if boxes[row] else _names(single[row], several[row], points[row], detector) for row in range(rows.num_rows)]


def _has_names(schema: pa.Schema, name: str) -> bool:
    return name in schema.names and not _is_numeric(schema.field(name).type)


def _names(label: Any, labels: Any, point: Point | None, detector: Detector) -> tuple[str, ...] | ItemError:
    try:
        several = split_names(labels)
        names = parse_names([label, *(several if isinstance(several, list) else [several])])
    except PromptError as error:
        return error
    if point is not None:
        return ItemRefused("the row has a point and a label; keep one of them") if names else ()
    return detector.label if names is None else names
