"""Read the index rows with masks in the order of their images, in bounded memory.

The index is read twice: for its columns and values (``survey``), and to sort it. Above 128 MiB of index the rows are spread
over files on the local disk (``TMPDIR``) by ranges of ``image_uri``, and one range is in memory at a time.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.datasets.values import plain
from pipeline.errors import ConfigError, StorageError
from pipeline.manifest.items import has_bytes
from pipeline.output.buckets import Buckets, bucket_count
from pipeline.output.index import read_index
from pipeline.output.layout import REPAIR
from pipeline.output.output import Output
from pipeline.schema import INDEX, carried_name

OWN = (
    *("item_id", "status", "image_uri", "image_sha256", "image_bytes", "height", "width", "mask_path", "quality"),
    *("run_id", "finished_at"),
)
"""Index columns that a data set needs."""

NEEDED = ("image_uri", "height", "width", "quality", "finished_at")

LABELS = ("category", "split", "coco_file", "coco_id")
"""Carried columns with a meaning here. They are text, and null where the manifest has none."""

PRIVATE = ("truth_uri",)
"""Carried columns that mean something only where the manifest is."""

SAMPLE = 97
"""Of so many rows one is looked at to find ranges of equal size."""

CHUNK = 1024

Row = dict[str, Any]


@dataclass
class Survey:
    """Columns and counts of the rows with masks."""

    rows: int = 0
    columns: dict[str, pa.DataType] = field(default_factory=dict)
    """The custom columns with the type that holds all their values."""
    categories: set[str | None] = field(default_factory=set)
    splits: set[str | None] = field(default_factory=set)
    sources: set[tuple[str | None, str | None]] = field(default_factory=set)
    """Pairs of ``coco_file`` and ``split``."""
    has: set[str] = field(default_factory=set)
    """Those of ``LABELS`` that are columns of the index."""
    uris: list[str] = field(default_factory=list)
    """A sample of the images."""


@dataclass(frozen=True)
class LabelColumns:
    """Columns of the index with other names than ``category`` and ``split``; None for the usual names."""

    category: str | None = None
    split: str | None = None

    def read(self, output: Output) -> Iterator[pa.Table]:
        """Yield the index part by part, with the usual names. Another column of such a name is left out.

        Raises:
            StorageError: A part cannot be read, or is damaged.
        """
        for part in read_index(output):
            chosen = {name: carried_name(column) for name, column in self._given.items()}
            rows = part.drop_columns([name for name in part.column_names if name in chosen or name in chosen.values()])
            for name, column in chosen.items():
                if column in part.column_names:
                    rows = rows.append_column(name, part[column])
            yield rows

    @property
    def _given(self) -> dict[str, str]:
        return {name: column for name, column in (("category", self.category), ("split", self.split)) if column is not None}

    def check(self, found: Survey) -> None:
        """Refuse a column that the index lacks.

        Raises:
            ConfigError: It names the option, and the columns that there are.
        """
        for name, column in self._given.items():
            if name not in found.has:
                listed = ", ".join(sorted({*found.columns, *found.has})[:20]) or "none"
                raise ConfigError(f"the index has no column {column!r} (--{name}-column); those of the manifest are: {listed}")


def survey(output: Output, labels: LabelColumns = LabelColumns()) -> Survey:
    """Read the index once.

    Raises:
        ConfigError: There are no masks, or no such columns of labels.
        StorageError: A part cannot be read, or a row lacks a value.
    """
    found = Survey()
    for part in labels.read(output):
        _add_part(found, part, output)
    if not found.rows:
        raise ConfigError(f"no masks in {output.layout.index}; use a recipe with mask in recipe.outputs")
    found.columns = {name: kind for name, kind in found.columns.items() if not pa.types.is_null(kind)}
    labels.check(found)
    return found


def _add_part(found: Survey, part: pa.Table, output: Output) -> None:
    rows = part.filter(pc.is_valid(part["mask_path"]))
    if not rows.num_rows:
        return
    if incomplete := [column for column in NEEDED if rows[column].null_count]:
        raise StorageError(f"a row with a mask has no {incomplete[0]}; {REPAIR}")
    labels = {name: _text(rows, name) for name in LABELS}
    found.has |= {name for name in LABELS if name in rows.column_names}
    found.categories |= set(pc.unique(labels["category"]).to_pylist())
    found.splits |= set(pc.unique(labels["split"]).to_pylist())
    pairs = pa.table({name: labels[name] for name in ("coco_file", "split")}).group_by(["coco_file", "split"]).aggregate([])
    found.sources |= {(row["coco_file"], row["split"]) for row in pairs.to_pylist()}
    for column in rows.schema:
        if _is_custom(column):
            known = found.columns.get(column.name, pa.null())
            found.columns[column.name] = _common(known, column.type)
    start = -found.rows % SAMPLE
    found.uris += rows["image_uri"].take(pa.array(range(start, rows.num_rows, SAMPLE), pa.int64())).to_pylist()
    found.rows += rows.num_rows


class SortedRows:
    """The rows with masks, sorted by image and then by item: ``#2`` before ``#10``. They can be read several times.

    Args:
        output: Where the index is.
        found: Its survey.
        folder: An empty local folder for files.
        labels: As for the survey.

    Raises:
        StorageError: The index cannot be read.
    """

    def __init__(self, output: Output, found: Survey, folder: Path, labels: LabelColumns = LabelColumns()) -> None:
        count = bucket_count(output.parts())
        ordered = sorted(found.uris)
        limits = np.array([ordered[len(ordered) * number // count] for number in range(1, count)], object)

        def number(keys: pa.ChunkedArray) -> npt.NDArray[np.int64]:
            return np.searchsorted(limits, np.array(keys.to_pylist(), object), side="right")

        self._buckets = Buckets(folder, "image_uri", count, number)
        for part in labels.read(output):
            self._buckets.add(_aligned(part.filter(pc.is_valid(part["mask_path"])), found.columns))

    def by_image(self) -> Iterator[list[Row]]:
        """Yield the rows of one image after the other."""
        return (list(group) for _, group in itertools.groupby(self._rows(), key=lambda row: row["image_uri"]))

    def _rows(self) -> Iterator[Row]:
        for number in range(self._buckets.count):
            tables = list(self._buckets.read(number))
            if not tables:
                continue
            rows = pa.concat_tables(tables)
            rows = rows.append_column("length", pc.utf8_length(rows["item_id"]))
            rows = rows.sort_by([("image_uri", "ascending"), ("length", "ascending"), ("item_id", "ascending")])
            for start in range(0, rows.num_rows, CHUNK):
                yield from rows.slice(start, CHUNK).to_pylist()


def _aligned(rows: pa.Table, columns: dict[str, pa.DataType]) -> pa.Table:
    """Return rows with the same columns and types, whatever manifest they are from."""
    aligned = {name: rows[name] for name in OWN} | {name: _text(rows, name) for name in LABELS}
    for name, kind in columns.items():
        if name not in rows.column_names:
            aligned[name] = pa.chunked_array([pa.nulls(rows.num_rows, kind)])
        else:
            aligned[name] = _text(rows, name) if pa.types.is_string(kind) else rows[name].cast(kind, safe=False)
    return pa.table(aligned)


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return the type that holds the values of both; text if there is no other."""
    try:
        schemas = [pa.schema([("column", kind)]) for kind in (one, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").field("column").type
    except pa.ArrowException:
        return pa.string()


def _text(rows: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a column as text, null if it is absent. Texts of spaces are null, and so are NaN."""
    if name not in rows.column_names:
        return pa.chunked_array([pa.nulls(rows.num_rows, pa.string())])
    kind = rows.schema.field(name).type
    if pa.types.is_string(kind):
        texts = rows[name]
    else:
        values = (plain(value) for value in rows[name].to_pylist())
        texts = pa.chunked_array([pa.array([_written(value) for value in values], pa.string())])
    if name not in LABELS:
        return texts
    trimmed = pc.utf8_trim_whitespace(texts)
    return pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)


def _written(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_custom(column: pa.Field) -> bool:
    return column.name not in {*INDEX.names, *LABELS, *PRIVATE} and not has_bytes(column.type)
