"""Parse the boxes of a manifest: lists, four columns, or text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ItemRefused
from pipeline.manifest.pieces import pieces
from pipeline.types import Box


class InvalidBox(NamedTuple):
    """A box that can't be used."""

    label: str
    message: str


class TooManyBoxes(NamedTuple):
    """Stands for the boxes of an image that has more than ``MAX_PER_IMAGE``."""

    message: str


class Boxes(NamedTuple):
    """The boxes of N rows."""

    coordinates: npt.NDArray[np.float64]
    """(N, 4): x0, y0, x1, y1 in pixels; undefined where ``valid`` is False."""
    valid: npt.NDArray[np.bool_]
    """(N,): The row has a valid box."""
    invalid: dict[int, InvalidBox]
    """Invalid boxes by row. A row that is neither valid nor invalid has no box."""
    points: Mapping[int, str] = MappingProxyType({})
    """Points by row, as text (``manifest.points``). They stand in ids where a box would."""

    def column(self) -> pa.Array:
        """Return the items' ``box`` column: list<float64>, null without a box."""
        offsets = np.concatenate([[0], np.cumsum(self.valid * 4)]).astype(np.int32)
        values = pa.array(self.coordinates[self.valid].ravel(), pa.float64())
        return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~self.valid))

    def label(self, row: int) -> str:
        """Return the text that distinguishes a row's box or point in an id: ``10,20,30.5,40``; empty without one."""
        if row in self.invalid:
            return self.invalid[row].label
        return label_of(self.coordinates[row].tolist()) if self.valid[row] else self.points.get(row, "")


def no_boxes(rows: int) -> Boxes:
    """Return ``Boxes`` for rows without a box."""
    return Boxes(np.zeros((rows, 4)), np.zeros(rows, dtype=np.bool_), {})


def from_lists(column: pa.Array) -> Boxes:
    """Parse lists of numbers of any length and type. Null, empty, or four times null or NaN is no box."""
    lists = column.cast(pa.list_(pa.float64()), safe=False)
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    complete = lengths == 4
    coordinates = np.full((len(column), 4), np.nan)
    flat = pc.list_flatten(lists.filter(pa.array(complete)))
    coordinates[complete] = flat.to_numpy(zero_copy_only=False).reshape(-1, 4)
    given = (lengths > 0) & ~(complete & np.isnan(coordinates).all(axis=1))
    return _check(coordinates, given, lambda row: column[row].as_py())


def from_columns(columns: Sequence[pa.Array]) -> Boxes:
    """Parse four columns of numbers. Null in all four is no box; null in some of them is invalid."""
    numbers = [column.cast(pa.float64(), safe=False) for column in columns]
    coordinates = np.column_stack([column.to_numpy(zero_copy_only=False) for column in numbers])
    missing = np.column_stack([column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False) for column in numbers])
    coordinates[missing] = np.nan
    return _check(coordinates, missing.sum(axis=1) < 4, lambda row: [column[row].as_py() for column in columns])


def from_values(values: Sequence[Any]) -> Boxes:
    """Parse one Python value per row: a list, text such as ``[1, 2, 3, 4]`` or ``1,2,3,4``, or None for no box."""
    boxes = no_boxes(len(values))
    for row, value in enumerate(values):
        if isinstance(value, TooManyBoxes):
            boxes.invalid[row] = InvalidBox("", value.message)
            continue
        box = split_text(value) if isinstance(value, str) else value
        if is_none(box) or box == [] or _is_no_box(box):
            continue
        if not isinstance(box, list):
            box = [box]
        if isinstance(value, str) and not _are_numbers(box):
            message = f"box {value[:100]!r} is not four numbers; give x0, y0, x1, y1 in pixels, or no box"
            boxes.invalid[row] = InvalidBox(label_of(box), message)
            continue
        try:
            boxes.coordinates[row] = Box.parse(box)
            boxes.valid[row] = True
        except ItemRefused as error:
            boxes.invalid[row] = InvalidBox(label_of(box), str(error))
        except OverflowError:
            boxes.invalid[row] = InvalidBox(label_of(box), "box has a number that is too large; correct it")
    return boxes


def parse_box(text: str) -> Box:
    """Parse one box, in any form that a text column of a manifest may have.

    Raises:
        ItemRefused: It is none.
    """
    boxes = from_values([text])
    if 0 in boxes.invalid:
        raise ItemRefused(boxes.invalid[0].message)
    if not boxes.valid[0]:
        raise ItemRefused(f"box {text!r} is empty; give x0, y0, x1, y1 in pixels, or no box")
    return Box(*boxes.coordinates[0].tolist())


def _are_numbers(parts: Sequence[str]) -> bool:
    try:
        return len([float(part) for part in parts]) == 4
    except ValueError:
        return False


MAX_PER_IMAGE = 10_000
"""Boxes of one image, at most."""

TEXT_BYTES = 100
"""Bytes of a box as text, at most, on average."""

LIST_BYTES = 36
"""Bytes of a box in a list."""

CUT_BYTES = 2**20
"""Bytes of ``boxes`` in one table of rows, at most, unless a single row has more: about 30,000 boxes."""


def cut(table: pa.Table) -> Iterator[pa.Table]:
    """Cut a table of rows into tables whose column ``boxes`` is small. One item per box needs a multiple of its memory."""
    if "boxes" not in table.column_names:
        yield table
        return
    is_text, lengths = _lengths(table["boxes"])
    yield from pieces(table, lengths if is_text else lengths * LIST_BYTES, CUT_BYTES)


def _lengths(column: pa.ChunkedArray) -> tuple[bool, npt.NDArray[np.int64]]:
    """Return whether the boxes are text, and bytes per row if they are, else boxes per row."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type):
        return False, np.zeros(len(column), np.int64)
    is_text = not pa.types.is_nested(column.type)
    lengths = pc.binary_length(column.cast(pa.large_string())) if is_text else pc.list_value_length(column)
    return is_text, pc.fill_null(lengths, 0).to_numpy().astype(np.int64)


def to_values(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column ``boxes``. Python objects are made for no more boxes than an image may have."""
    is_text, lengths = _lengths(column)
    per_box = TEXT_BYTES if is_text else 1
    is_large = lengths > MAX_PER_IMAGE * per_box
    if not is_large.any():
        return list(column.to_pylist())
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    values = list(pc.if_else(pa.array(is_large), pa.scalar(None, column.type), column).to_pylist())
    for row in np.flatnonzero(is_large).tolist():
        values[row] = [_too_many(int(lengths[row]) // per_box)]
    return values


def _too_many(count: int) -> TooManyBoxes:
    return TooManyBoxes(f"boxes has {count} boxes; an image may have {MAX_PER_IMAGE}")


def is_none(value: Any) -> bool:
    """Return whether a value stands for nothing: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_no_box(value: Any) -> bool:
    """Return whether a value is four times null or NaN, as arrays are filled up."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_none, value))


def expand(values: Sequence[Any]) -> tuple[list[int], list[Any], list[str]]:
    """Expand a column with lists of boxes to one item per box.

    Returns:
        For each item: its row, its box (None if the row has none) and the suffix of its id (``#0``, ``#1``, …).
    """
    rows: list[int] = []
    boxes: list[Any] = []
    suffixes: list[str] = []
    for row, value in enumerate(values):
        row_boxes = _parse_text(value) if isinstance(value, str) else value
        if not isinstance(row_boxes, list):
            row_boxes = [] if is_none(row_boxes) else [row_boxes]
        if any(map(_is_number, row_boxes)) or _is_no_box(row_boxes):
            row_boxes = [row_boxes]  # one box without its list
        row_boxes = [box for box in row_boxes if not _is_no_box(box)]
        if len(row_boxes) > MAX_PER_IMAGE:
            row_boxes = [_too_many(len(row_boxes))]
        rows += [row] * max(1, len(row_boxes))
        # None in a list is an invalid box, not an item without a box.
        boxes += [[None] if box is None or box == [] else box for box in row_boxes] or [None]
        suffixes += [f"#{number}" for number in range(len(row_boxes))] or [""]
    return rows, boxes, suffixes


def _check(coordinates: npt.NDArray[np.float64], given: npt.NDArray[np.bool_], value_of: Any) -> Boxes:
    x0, y0, x1, y1 = coordinates.T
    with np.errstate(invalid="ignore"):
        of_one = (x1 <= 1) & (y1 <= 1)
        shares = of_one & ((x0 == 0) & (y0 == 0) | (coordinates != np.floor(coordinates)).any(axis=1))
        valid = np.asarray(given & np.isfinite(coordinates).all(axis=1) & (x1 > x0) & (y1 > y0) & ~shares)
    invalid: dict[int, InvalidBox] = {}
    for row in np.flatnonzero(given & ~valid).tolist():
        value = list(value_of(row))
        try:
            Box.parse(value)
        except ItemRefused as error:
            invalid[row] = InvalidBox(label_of(value), str(error))
    return Boxes(coordinates, valid, invalid)


NO_BOX = ("", "nan", "none", "null", "na", "n/a", "[]", "()")
"""Texts, in lower case, that mean that there is no box."""


def split_text(text: str) -> list[Any]:
    """Split ``[1, 2, 3, 4]``, ``(1 2 3 4)``, ``1;2;3;4`` and the like."""
    inner = text.strip().strip("\"'").strip()
    if inner.lower() in NO_BOX:
        return []
    if inner[:1] + inner[-1:] in ("[]", "()"):
        inner = inner[1:-1].strip()
    parts = [part.strip("\"'") for part in re.split(r"\s*[,;]\s*|\s+", inner)]
    return [] if all(part.lower() in NO_BOX for part in parts) else parts


def _parse_text(text: str) -> Any:
    """Parse JSON, or boxes as people and Python write them: ``(1,2,3,4),(5,6,7,8)``, ``1 2 3 4; 5 6 7 8``, one per line."""
    if text.strip().lower() in NO_BOX:
        return None
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    found = _IN_BRACKETS.findall(text)
    if found and not _BETWEEN.fullmatch(_IN_BRACKETS.sub("", text)):
        return [text]
    found = found or [part for part in re.split(r"[;|\n]", text) if part.strip()]
    return found if all(len(split_text(one)) == 4 for one in found) else [text]


_IN_BRACKETS = re.compile(r"[\[(][^\[\]()]*[\])]")
_BETWEEN = re.compile(r"(?:[\s,;|\[\]()\"']|array)*")
"""Separators between boxes in brackets."""


def _is_number(value: Any) -> bool:
    """Return whether a value is a number, also as text."""
    if isinstance(value, int | float):
        return True
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


def label_of(values: Sequence[Any]) -> str:
    """Return numbers as they stand in ids: with commas, and whole ones without a point."""
    return ",".join(str(int(value)) if isinstance(value, float) and value.is_integer() else str(value) for value in values)
