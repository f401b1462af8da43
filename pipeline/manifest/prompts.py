"""Read which objects are to be found by name, from the manifest columns ``label`` and ``labels`` of items."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow as pa

from pipeline.config.detector import Detector, parse_names, split_names
from pipeline.errors import PromptError

COLUMNS = ("label", "labels")
"""A name, and several: a list, or text such as ``cup; plant``. Both are carried into the index, as other columns are."""


def may_have_names(detector: Detector, columns: Collection[str]) -> bool:
    """Return whether a detector may have to look for a name in rows with these further columns."""
    return bool(detector.label) or any(name in columns for name in COLUMNS)


def prompts_of(rows: pa.Table, detector: Detector | None) -> list[tuple[str, ...] | PromptError]:
    """Return the names that are looked for in each row's image.

    There are none without a detector, for a row with a box, and for the label ``auto``. A row without a label takes
    ``detector.label``.

    Args:
        rows: Items, with their box and carried columns; or rows of the index.
        detector: ``recipe.detector``.

    Returns:
        The names per row, or the error of a row whose label cannot be used.
    """
    if detector is None:
        return [()] * rows.num_rows
    single, several = (rows[name].to_pylist() if name in rows.column_names else [None] * rows.num_rows for name in COLUMNS)
    boxes = rows["box"].is_valid().to_pylist()
    return [() if boxes[row] else _names(single[row], several[row], detector) for row in range(rows.num_rows)]


def _names(label: Any, labels: Any, detector: Detector) -> tuple[str, ...] | PromptError:
    try:
        several = split_names(labels)
        names = parse_names([label, *(several if isinstance(several, list) else [several])])
    except PromptError as error:
        return error
    return detector.label if names is None else names
