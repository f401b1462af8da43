"""Boxes as manifests write them: lists, four columns, or text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ItemRefused
from pipeline.types import Box


class Boxes(NamedTuple):
    """The boxes of N rows."""

    coordinates: npt.NDArray[np.float64]
    """(N, 4): x0, y0, x1, y1 in pixels; meaningless where ``valid`` is false."""
    valid: npt.NDArray[np.bool_]
    """(N,): the row has a box, and it is one."""
    faults: dict[int, Fault]
    """Rows whose box can't be used. A row that is neither valid nor here has no box."""

    def column(self) -> pa.Array:
        """As the items' ``box`` column: list<float64>, null without a box."""
        offsets = np.concatenate([[0], np.cumsum(self.valid * 4)]).astype(np.int32)
        values = pa.array(self.coordinates[self.valid].ravel(), pa.float64())
        return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~self.valid))

    def label(self, row: int) -> str:
        """What tells this row's box from others of its image: ``10,20,30.5,40``; empty without a box."""
        if row in self.faults:
            return self.faults[row].written
        return _written(self.coordinates[row].tolist()) if self.valid[row] else ""


class Fault(NamedTuple):
    """A box that is none."""

    written: str
    detail: str


def no_boxes(rows: int) -> Boxes:
    """No row has a box."""
    return Boxes(np.zeros((rows, 4)), np.zeros(rows, dtype=np.bool_), {})


def from_lists(column: pa.Array) -> Boxes:
    """From lists of numbers of any length and type; null or empty is no box."""
    lists = column.cast(pa.list_(pa.float64()), safe=False)
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    whole = lengths == 4
    coordinates = np.full((len(column), 4), np.nan)
    flat = pc.list_flatten(lists.filter(pa.array(whole)))
    coordinates[whole] = flat.to_numpy(zero_copy_only=False).reshape(-1, 4)
    return _checked(coordinates, lengths > 0, lambda row: column[row].as_py())


def from_columns(columns: Sequence[pa.Array]) -> Boxes:
    """From four columns of numbers; null in all four is no box, in some of them a fault."""
    numbers = [column.cast(pa.float64(), safe=False) for column in columns]
    coordinates = np.column_stack([column.to_numpy(zero_copy_only=False) for column in numbers])
    missing = np.column_stack([column.is_null().to_numpy(zero_copy_only=False) for column in numbers])
    coordinates[missing] = np.nan
    return _checked(coordinates, missing.sum(axis=1) < 4, lambda row: [column[row].as_py() for column in columns])


def from_values(values: Sequence[Any]) -> Boxes:
    """From Python values, one a row: a list, text such as ``[1, 2, 3, 4]`` or ``1,2,3,4``, or None for no box."""
    boxes = no_boxes(len(values))
    for row, value in enumerate(values):
        given = _from_text(value) if isinstance(value, str) else value
        if given is None or given == []:
            continue
        if not isinstance(given, list):
            given = [given]
        try:
            boxes.coordinates[row] = Box.parse(given)
            boxes.valid[row] = True
        except ItemRefused as error:
            boxes.faults[row] = Fault(_written(given), str(error))
        except OverflowError:
            boxes.faults[row] = Fault(_written(given), "box has a number too large for a pixel; correct it")
    return boxes


def spread(values: Sequence[Any]) -> tuple[list[int], list[Any], list[str]]:
    """A column of lists of boxes, one item each.

    Returns:
        for every item: its row, its box (None if its row has none) and the suffix that its id gets (``#0``, ``#1``, …).
    """
    rows: list[int] = []
    boxes: list[Any] = []
    suffixes: list[str] = []
    for row, value in enumerate(values):
        several = _from_json(value) if isinstance(value, str) else value
        if not isinstance(several, list):
            several = None if several is None else [several]
        rows += [row] * max(1, len(several or ()))
        # None within a list is a box that is missing, not an item without one.
        boxes += [[None] if box is None or box == [] else box for box in several] if several else [None]
        suffixes += [f"#{place}" for place in range(len(several))] if several else [""]
    return rows, boxes, suffixes


def _checked(coordinates: npt.NDArray[np.float64], given: npt.NDArray[np.bool_], value_of: Any) -> Boxes:
    x0, y0, x1, y1 = coordinates.T
    with np.errstate(invalid="ignore"):
        valid = np.asarray(given & np.isfinite(coordinates).all(axis=1) & (x1 > x0) & (y1 > y0))
    faults: dict[int, Fault] = {}
    for row in np.flatnonzero(given & ~valid).tolist():
        value = list(value_of(row))
        try:
            Box.parse(value)
        except ItemRefused as error:
            faults[row] = Fault(_written(value), str(error))
    return Boxes(coordinates, valid, faults)


def _from_text(text: str) -> list[Any]:
    inner = text.strip()
    if inner[:1] + inner[-1:] in ("[]", "()"):
        inner = inner[1:-1].strip()
    return [part.strip() for part in inner.split(",")] if inner else []


def _from_json(text: str) -> Any:
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return [text]


def _written(values: Sequence[Any]) -> str:
    return ",".join(str(int(value)) if isinstance(value, float) and value.is_integer() else str(value) for value in values)
