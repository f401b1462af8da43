"""Parquet with the bytes of photos and masks, ready for the Hugging Face hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.datasets.form import Object, Photo, Picture
from pipeline.datasets.hub import TRAIN, Columns, mask_name, write_card
from pipeline.storage.files import Files
from pipeline.storage.uris import join

ROW_GROUP_ROWS, ROW_GROUP_BYTES = 100, 64 * 1024 * 1024
"""Size of a row group, at most. Readers of the hub page through pictures by row groups."""

FILE_BYTES = 500 * 1024 * 1024
"""Size of a Parquet file, at most, as ``datasets`` writes them."""

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_SIMPLE = re.compile(r"string|bool|float32|float64|u?int(8|16|32|64)")
"""Types whose feature is named; ``datasets`` infers the features of all others."""


class ParquetForm:
    """Write ``data/<split>-00000.parquet``, ….

    Args:
        folder: Where to write.
        splits: The splits; None for the only one of a set without splits, which is named ``train``.
        columns: The columns.
        several: Whether a picture of the set has several masks.
        scratch: A local folder for temporary files.
        files: Access to storage.
    """

    needs_photo = True

    def __init__(
        self, folder: str, splits: Iterable[str | None], columns: Columns, several: bool, scratch: Path, files: Files
    ) -> None:
        self.folder, self.columns, self.several, self.files, self.written = folder, columns, several, files, [folder]
        schema = _schema(columns)
        self._files = {split or TRAIN: _Shards(folder, split or TRAIN, schema, scratch, files) for split in splits}

    def check(self, picture: Picture) -> None:
        """Accept every picture."""

    def begin(self, picture: Picture, photo: Photo | None) -> _ParquetRows:
        """Start the rows of a picture."""
        assert photo is not None
        return _ParquetRows(self, picture, photo)

    def add(self, picture: Picture, made: list[dict[str, Any]]) -> None:
        """Write the rows of a picture."""
        for row in made:
            self._files[picture.split or TRAIN].add(row)

    def close(self) -> None:
        """Write the last files, and the card."""
        for shards in self._files.values():
            shards.close()
        write_card(self.folder, {split: f"data/{split}-*.parquet" for split in self._files}, self.columns, self.files)


class _ParquetRows:
    def __init__(self, form: ParquetForm, picture: Picture, photo: Photo) -> None:
        self.form, self.picture = form, picture
        self.image = {"bytes": photo.data, "path": f"{picture.name}.{photo.suffix}"}
        self.rows: list[dict[str, Any]] = []

    def add(self, one: Object) -> None:
        name = mask_name(self.picture, len(self.rows) + 1, self.form.several)
        mask = {"bytes": one.png, "path": f"{name}.png"}
        self.rows.append({"image": self.image, "mask": mask} | self.form.columns.values(one.row))

    def finish(self) -> list[dict[str, Any]]:
        return self.rows


class _Shards:
    """The Parquet files of one split. One row group is in memory, and one file on the local disk."""

    def __init__(self, folder: str, split: str, schema: pa.Schema, scratch: Path, files: Files) -> None:
        self.folder, self.split, self.schema, self.files = folder, split, schema, files
        self.path = Path(mkdtemp(dir=scratch)) / "shard.parquet"
        self.count = self.waiting_bytes = 0
        self.waiting: list[dict[str, Any]] = []
        self.writer: pq.ParquetWriter | None = None

    def add(self, row: dict[str, Any]) -> None:
        self.waiting.append(row)
        self.waiting_bytes += len(row["image"]["bytes"]) + len(row["mask"]["bytes"])
        if len(self.waiting) == ROW_GROUP_ROWS or self.waiting_bytes >= ROW_GROUP_BYTES:
            self._write_group()
            if self.path.stat().st_size >= FILE_BYTES - ROW_GROUP_BYTES:
                self._end_file()

    def close(self) -> None:
        if self.waiting or not self.count:
            self._write_group()
        if self.writer is not None:
            self._end_file()

    def _write_group(self) -> None:
        if self.writer is None:
            self.writer = pq.ParquetWriter(self.path, self.schema, write_page_index=True)
        rows = {name: [row[name] for row in self.waiting] for name in self.schema.names}
        arrays = [pa.array(rows[field.name], field.type) for field in self.schema]
        self.writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema))
        self.waiting, self.waiting_bytes = [], 0

    def _end_file(self) -> None:
        assert self.writer is not None
        self.writer.close()
        self.files.upload(join(self.folder, "data", f"{self.split}-{self.count:05}.parquet"), self.path)
        self.writer, self.count = None, self.count + 1


def _schema(columns: Columns) -> pa.Schema:
    """Return the schema with the metadata by which ``datasets`` knows pictures from structs."""
    features: dict[str, Any] = {"image": {"_type": "Image"}, "mask": {"_type": "Image"}}
    for name, kind in columns.types.items():
        dtype = {"double": "float64", "float": "float32"}.get(str(kind), str(kind))
        if _SIMPLE.fullmatch(dtype):
            features[name] = {"dtype": dtype, "_type": "Value"}
    fields = [("image", _IMAGE), ("mask", _IMAGE), *columns.types.items()]
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})
