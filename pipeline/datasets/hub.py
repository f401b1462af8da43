"""Data sets for Hugging Face: a folder of images and masks with ``metadata.jsonl``, or Parquet with the pictures in it.

Both have one row per object: ``image``, ``mask``, ``item_id``, ``category``, ``status``, ``quality``, then the custom columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline.datasets.classes import class_of
from pipeline.datasets.form import Object, Photo, Picture
from pipeline.datasets.photos import PhotoWriter
from pipeline.datasets.rows import Row
from pipeline.datasets.values import plain, to_json
from pipeline.storage.files import Files
from pipeline.storage.uris import join

TRAIN = "train"
"""The split of a set without splits."""

ROW_GROUP_ROWS, ROW_GROUP_BYTES = 100, 64 * 1024 * 1024
"""Size of a row group, at most. Readers of the hub page through pictures by row groups."""

FILE_BYTES = 500 * 1024 * 1024
"""Size of a Parquet file, at most, as ``datasets`` writes them."""

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_OWN = {"item_id": pa.string(), "category": pa.string(), "status": pa.string(), "quality": pa.float32()}
_READ_AS_FILE = re.compile(r"(?:^|_)file_names?$")


class Columns:
    """The columns of a row besides image and mask.

    Args:
        custom: The custom columns with their types. One whose name means something else here gets an underscore at its end.
    """

    def __init__(self, custom: Mapping[str, pa.DataType]) -> None:
        self._custom: dict[str, str] = {}
        for name in custom:
            free = name
            while free in {"image", "mask", *_OWN, *self._custom} or _READ_AS_FILE.search(free):
                free += "_"
            self._custom[free] = name
        self.types: dict[str, pa.DataType] = _OWN | {free: custom[name] for free, name in self._custom.items()}

    def values(self, row: Row) -> dict[str, Any]:
        """Return the values of a row, as Python has them."""
        own = {"item_id": row["item_id"], "category": class_of(row), "status": row["status"], "quality": row["quality"]}
        return own | {free: row[name] for free, name in self._custom.items()}


def mask_name(picture: Picture, number: int, several: bool) -> str:
    """Return the name of a mask, without a suffix. If any picture has several, all names end in the mask's number, from 1."""
    return f"{picture.name}-{number}" if several else picture.name


class FolderForm:
    """Write ``<split>/images``, ``<split>/masks`` and ``<split>/metadata.jsonl``, which ``imagefolder`` reads.

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
        self._lists: dict[str, IO[bytes]] = {split or TRAIN: (made / (split or TRAIN)).open("wb") for split in splits}

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
        self._lists[picture.split or TRAIN].writelines(to_json(row) + b"\n" for row in made)

    def close(self) -> None:
        """Write the lists to their places, and the card."""
        for split, file in self._lists.items():
            file.close()
            self.files.upload(join(self.folder, split, "metadata.jsonl"), Path(file.name))
        write_card(self.folder, {split: f"{split}/**" for split in self._lists}, self.columns, self.files)


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


class ParquetForm:
    """Write ``data/<split>-00000.parquet``, …, with the bytes of photos and masks, ready for the Hugging Face hub.

    The arguments are those of ``FolderForm``.
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
        if not pa.types.is_nested(kind):
            features[name] = {"dtype": dtype, "_type": "Value"}
    fields = [("image", _IMAGE), ("mask", _IMAGE), *columns.types.items()]
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def write_card(folder: str, paths: Mapping[str, str], columns: Columns, files: Files) -> None:
    """Write ``README.md``, which tells ``datasets`` and the hub where the splits are."""
    config = {"config_name": "default", "data_files": [{"split": split, "path": path} for split, path in paths.items()]}
    head = yaml.safe_dump({"task_categories": ["image-segmentation"], "configs": [config]}, sort_keys=False)
    text = (
        "One row per object. `image` is the photo, `mask` the object's opacity in it (8-bit, 0 to 255), made by Matteline. "
        "`quality` is Matteline's score of the mask, from 0 to 1; `status` is `review` where it is low.\n\nColumns: "
    )
    named = ", ".join(f"`{name}`" for name in ("image", "mask", *columns.types))
    files.write(join(folder, "README.md"), f"---\n{head}---\n\n{text}{named}.\n".encode())
