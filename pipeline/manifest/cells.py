"""Find pictures that a Parquet file holds in its cells, and name them by URI: data sets on the Hugging Face hub, and others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DecodeError
from pipeline.imaging.sniff import sniff
from pipeline.manifest.hub_columns import CATEGORY, class_names, named_classes
from pipeline.storage.members import cell_prefix, cell_suffix
from pipeline.storage.parquet_cells import holds_pictures

IMAGE, MASK = "image", "mask"
"""Columns of data sets on the hub: structs of ``bytes`` and ``path``, or bytes."""

TRUTH = "truth_uri"
"""Column of ground truth, as ``matteline evaluate`` expects it."""

FIRST_ROWS = 16
"""Rows in which a picture, or else a path, is looked for."""


class Column(NamedTuple):
    """A column of a file."""

    raw: str
    """Name in the file."""
    name: str
    """Usual name."""
    kind: pa.DataType


@dataclass(frozen=True)
class Cells:
    """The columns of pictures in a Parquet file."""

    image: str
    """Column of the pictures, as it is called in the file."""
    name: str
    """The same column under its usual name."""
    truth: str | None
    """Column of ground truth; None if there is none."""
    has_paths: bool = False
    """True if the structs hold paths and no bytes."""
    classes: tuple[str, tuple[str, ...]] | None = None
    """Column of class numbers under its usual name, and the names of the classes; None if there is none."""
    stem: str = ""
    """Begin of the ids of rows without one: the file's path below the manifest's folder, without its suffix."""

    @property
    def read(self) -> list[str]:
        """Columns to read in order to name the pictures."""
        return [f"{self.image}.path"] if self.has_paths else []

    def fields(self, schema: pa.Schema) -> pa.Schema:
        """Replace the columns of pictures by those of their URIs."""
        kept = [field for field in schema if field.name != self.name and not (self.truth and field.name == MASK)]
        added = ["image_uri", *(["item_id"] if "item_id" not in schema.names else []), *([TRUTH] if self.truth else [])]
        added += [CATEGORY] if self.classes else []
        return pa.schema([*kept, *(pa.field(name, pa.string()) for name in added)], metadata=schema.metadata)

    def add_columns(self, table: pa.Table, paths: pa.ChunkedArray | None, uri: str, first_row: int) -> pa.Table:
        """Add ``image_uri``, and what is needed of ``item_id``, ``truth_uri`` and ``category``.

        ``table`` has rows of the file ``uri`` from ``first_row`` on.
        ``paths`` are the structs with the paths of the images, if these are not stored in the file.
        """
        rows = pa.array(range(first_row, first_row + table.num_rows), pa.int64()).cast(pa.string())
        if paths is None:
            images = pc.binary_join_element_wise(cell_prefix(uri), rows, cell_suffix(self.image), "")
        else:
            images = pc.fill_null(pc.struct_field(paths, "path").cast(pa.string()), "")
        table = table.append_column("image_uri", images)
        if "item_id" not in table.column_names:
            numbers = pc.utf8_lpad(rows, 6, "0")
            table = table.append_column("item_id", pc.binary_join_element_wise(self.stem, numbers, "-"))
        if self.truth is not None:
            table = table.append_column(TRUTH, pc.binary_join_element_wise(cell_prefix(uri), rows, cell_suffix(self.truth), ""))
        if self.classes is not None:
            column, names = self.classes
            table = table.append_column(CATEGORY, named_classes(table[column], names))
        return table


def find_cells(file: Any, columns: Sequence[Column], chosen: str | None) -> Cells | None:
    """Return the columns of pictures of an open Parquet file; None if a column names the images by text, or there are none.

    The images are in the column of the usual name ``image_uri``, or else in ``image``, or else in the first column of pictures.
    A column that is not ``chosen`` by the user is one of pictures if its first value is.
    """
    by_name = {column.name: column for column in columns}
    named = by_name.get("image_uri")
    if (named is not None and not holds_pictures(named.kind)) or (named is None and chosen is not None):
        return None
    candidates = [column for column in columns if column.name != MASK and holds_pictures(column.kind)]
    candidates = [named] if named is not None else sorted(candidates, key=lambda column: column.name != IMAGE)
    mask = by_name.get(MASK)
    truth = mask.raw if mask is not None and holds_pictures(mask.kind) and TRUTH not in by_name else None
    classes = _classes(file, columns)
    for column in candidates:
        data, path = _first_value(file, column)
        if data is None and path is not None:
            return Cells(column.raw, column.name, truth, has_paths=True, classes=classes)
        if chosen is not None or data is None or _is_picture(data):
            return Cells(column.raw, column.name, truth, classes=classes)
    return None


def _classes(file: Any, columns: Sequence[Column]) -> tuple[str, tuple[str, ...]] | None:
    """Return the column of class numbers and their names: ``label``, or the only such column. None if there is a category."""
    if any(column.name == CATEGORY for column in columns):
        return None
    names = class_names(file.schema_arrow.metadata)
    found = {column.name: names[column.raw] for column in columns if column.raw in names and pa.types.is_integer(column.kind)}
    if len(found) > 1:
        found = {name: some for name, some in found.items() if name == "label"}
    return next(iter(found.items()), None)


def _first_value(file: Any, column: Column) -> tuple[bytes | None, str | None]:
    """Return the first bytes, or else the first path, of the first rows; None for neither."""
    if not file.num_row_groups:
        return None, None
    path = None
    for batch in islice(file.iter_batches(1, row_groups=[0], columns=[column.raw], use_threads=False), FIRST_ROWS):
        value = batch.column(0)[0].as_py()
        found = value if isinstance(value, dict) else {"bytes": value}
        if found.get("bytes") is not None:
            return found["bytes"], None
        path = path or (found["path"] if isinstance(found.get("path"), str) else None)
    return None, path


def _is_picture(data: bytes) -> bool:
    try:
        sniff(data)
    except DecodeError:
        return False
    return True
