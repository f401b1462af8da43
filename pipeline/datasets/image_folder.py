"""A folder of photos and masks with ``metadata.jsonl``, which ``imagefolder`` of Hugging Face ``datasets`` reads."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.datasets.form import Object, Photo, Picture
from pipeline.datasets.hub import TRAIN, Columns, mask_name, write_card
from pipeline.datasets.photos import PhotoWriter
from pipeline.datasets.values import json_type, plain, to_json
from pipeline.storage.files import Files
from pipeline.storage.uris import join

READ_AT_ONCE = 10 * 2**20
"""Bytes of ``metadata.jsonl`` from which ``datasets`` infers the types of all columns. They must be the same in all splits."""

CONVERTED_ROWS = 10_000


class FolderForm:
    """Write ``<split>/images``, ``<split>/masks`` and ``<split>/metadata.jsonl``, which ``imagefolder`` reads.

    If a column has values in some splits only, the list is ``metadata.parquet``: JSON has no type for a column without values.

    Args:
        folder: Where to write.
        splits: The splits; None for the only one of a set without splits, which is named ``train``.
        columns: The columns.
        several: Whether a picture of the set has several masks.
        photos: Copies or links photos.
        scratch: A local folder for temporary files.
        files: Access to storage.
    """

    needs_photo = True

    def __init__(
        self,
        folder: str,
        splits: Iterable[str | None],
        columns: Columns,
        several: bool,
        photos: PhotoWriter,
        scratch: Path,
        files: Files,
    ) -> None:
        self.folder, self.columns, self.several, self.photos, self.files = folder, columns, several, photos, files
        self.written = [folder]
        made = Path(mkdtemp(dir=scratch))
        self._lists = {split or TRAIN: _List(made / (split or TRAIN)) for split in splits}

    def check(self, picture: Picture) -> None:
        """Check that the photo can be copied or linked."""
        self.photos.check(picture)

    def begin(self, picture: Picture, photo: Photo | None) -> _FolderRows:
        """Write the photo."""
        assert photo is not None
        name = f"images/{picture.name}.{photo.suffix}"
        self.photos.write(photo, join(self.folder, picture.split or TRAIN, name))
        return _FolderRows(self, picture, name)

    def add(self, picture: Picture, made: list[dict[str, Any]]) -> None:
        """Write the rows of a picture."""
        for row in made:
            self._lists[picture.split or TRAIN].add(row)

    def close(self) -> None:
        """Write the lists to their places, and the card."""
        lists = self._lists.values()
        as_parquet = any(one.known != set().union(*(other.filled for other in lists)) for one in lists)
        for split, one in self._lists.items():
            one.file.close()
            if as_parquet:
                one.convert(self.columns)
            suffix = "parquet" if as_parquet else "jsonl"
            self.files.upload(join(self.folder, split, f"metadata.{suffix}"), one.path)
        write_card(self.folder, {split: f"{split}/**" for split in self._lists}, self.columns, self.files)


class _List:
    """The rows of one split, as lines of JSON in a local file."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, path.open("wb")
        self.filled: set[str] = set()
        """The columns with a value."""
        self.known: set[str] = set()
        """Those of them whose type is known to a reader of the beginning."""

    def add(self, row: dict[str, Any]) -> None:
        line = to_json(row) + b"\n"
        filled = {name for name, value in row.items() if _has_type(value)}
        self.filled |= filled
        if self.file.tell() + len(line) < READ_AT_ONCE:
            self.known |= filled
        self.file.write(line)

    def convert(self, columns: Columns) -> None:
        """Rewrite the file as Parquet, which has types for columns without a value."""
        names = [("file_name", pa.string()), ("mask_file_name", pa.string())]
        schema = pa.schema([*names, *((name, json_type(kind)) for name, kind in columns.types.items())])
        source, self.path = self.path, self.path.with_suffix(".parquet")
        with source.open("rb") as lines, pq.ParquetWriter(self.path, schema) as writer:
            while rows := [json.loads(line) for line in itertools.islice(lines, CONVERTED_ROWS)]:
                writer.write_table(pa.Table.from_pylist(rows, schema))


def _has_type(value: Any) -> bool:
    """Return whether a type can be told from a JSON value: not from null, nor from a list or object of nothing else."""
    if isinstance(value, list | dict):
        return any(map(_has_type, value.values() if isinstance(value, dict) else value))
    return value is not None


class _FolderRows:
    def __init__(self, form: FolderForm, picture: Picture, image: str) -> None:
        self.form, self.picture, self.image = form, picture, image
        self.rows: list[dict[str, Any]] = []

    def add(self, one: Object) -> None:
        name = f"masks/{mask_name(self.picture, len(self.rows) + 1, self.form.several)}.png"
        self.form.files.write(join(self.form.folder, self.picture.split or TRAIN, name), one.png)
        values = {key: plain(value) for key, value in self.form.columns.values(one.row).items()}
        self.rows.append({"file_name": self.image, "mask_file_name": name} | values)

    def finish(self) -> list[dict[str, Any]]:
        return self.rows
