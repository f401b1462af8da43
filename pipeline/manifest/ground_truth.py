"""Manifests with true masks from files that hold the masks in another form: COCO annotations, Parquet files of the hub."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.job import Limits
from pipeline.errors import ConfigError, DecodeError
from pipeline.imaging.encode import encode_mask
from pipeline.imaging.polygons import decode_polygons
from pipeline.imaging.rle import decode_counts
from pipeline.imaging.sniff import recognise
from pipeline.manifest.build import CocoObject, coco_objects, coco_table
from pipeline.manifest.tables import reading
from pipeline.storage import uris
from pipeline.storage.files import Files
from pipeline.storage.object_names import object_name
from pipeline.types import Mask, Size

IMAGE, MASK = "image", "mask"
"""Columns of a data set on the hub: structs of ``bytes`` and ``path``, or the bytes alone."""

ROWS, THREADS = 16, 8

_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WebP": "webp", "TIFF": "tif", "GIF": "gif", "BMP": "bmp", "AVIF": "avif"}


def from_coco_masks(annotations: str, folder: str, target: str, files: Files) -> pa.Table:
    """``from_coco`` with a column ``truth_uri``: polygons and run lengths as PNG masks written below ``target``.

    An object whose segmentation can't be used has no truth.

    Raises:
        ConfigError: see ``coco_objects``.
        FetchError: the annotations can't be read.
        WriteError: a mask can't be written.
    """
    objects = coco_objects(annotations, files)
    table = coco_table(objects, folder)

    def write(found: CocoObject) -> str | None:
        try:
            mask = coco_mask(found)
        except ValueError:
            return None
        uri = uris.join(target, f"{object_name(found.item_id)}.png")
        files.write(uri, encode_mask(mask * 255))
        return uri

    with ThreadPoolExecutor(THREADS) as pool:
        return table.append_column("truth_uri", pa.array(list(pool.map(write, objects)), pa.string()))


def coco_mask(found: CocoObject) -> Mask:
    """An annotation's mask, (H, W) uint8 of 0 and 1.

    Raises:
        ValueError: its image has no size, a wanton one, or its segmentation is none of COCO's kinds.
    """
    try:
        size = Size(int(found.image["height"]), int(found.image["width"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError("its image has no height and width") from error
    if min(size) < 1 or size.height * size.width > Limits().max_pixels:
        raise ValueError(f"its image is {size.width} wide and {size.height} high")
    segmentation = found.annotation.get("segmentation")
    if isinstance(segmentation, dict):
        if list(segmentation.get("size", ())) != list(size):
            raise ValueError("its run lengths aren't of its image's size")
        return decode_counts(size, segmentation.get("counts"))
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("it has no segmentation")
    return decode_polygons(size, segmentation)


def from_hub(source: str, target: str, files: Files) -> pa.Table:
    """Parquet with image and mask bytes, as data sets on the Hugging Face hub have it, unpacked below ``target``.

    Columns ``item_id`` (the data set's, or file and row), ``image_uri``, ``truth_uri``, and all others that are no bytes.

    Args:
        source: a file, or a folder of such.

    Raises:
        ConfigError: no Parquet, or without the columns ``image`` and ``mask``.
        StorageError: it can't be read or listed.
        WriteError: a file can't be written.
    """
    sources = [source] if files.exists(source) else [info.uri for info in files.list(source, suffixes=(".parquet",))]
    if not sources:
        raise ConfigError(f"no Parquet file at or below {source}")
    tables = [part for one in sources for part in _unpacked(one, target, files)]
    if not tables:
        raise ConfigError(f"{source} has no rows")
    return pa.concat_tables(tables, promote_options="permissive")


def _unpacked(source: str, target: str, files: Files) -> Iterator[pa.Table]:
    """A few rows at a time."""

    def write(uri: str, data: bytes | None) -> str | None:
        if data is None:
            return None
        files.write(uri, data)
        return uri

    stem, row = uris.name(source).rpartition(".")[0] or uris.name(source), 0
    with (
        reading(source, "Parquet file"),
        files.open_input(source) as stream,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        file = pq.ParquetFile(stream)
        for name in (IMAGE, MASK):
            if name not in file.schema_arrow.names:
                listed = ", ".join(file.schema_arrow.names[:12])
                raise ConfigError(f"{source} has no column {name!r}; its columns are {listed}")
        for batch in file.iter_batches(ROWS):
            rows = pa.Table.from_batches([batch])
            ids = [str(value) for value in rows["item_id"].to_pylist()] if "item_id" in rows.column_names else None
            ids = ids or [f"{stem}-{row + place:06}" for place in range(rows.num_rows)]
            written = {}
            for column, folder, called in (("image_uri", "images", IMAGE), ("truth_uri", "masks", MASK)):
                contents = [_bytes(value) for value in rows[called].to_pylist()]
                places = [uris.join(target, folder, _called(item, data)) for item, data in zip(ids, contents, strict=True)]
                written[column] = pa.array(list(pool.map(write, places, contents)), pa.string())
            kept = rows.select([field.name for field in rows.schema if _is_kept(field)])
            yield pa.table(
                {"item_id": pa.array(ids, pa.string()), **written, **{name: kept[name] for name in kept.column_names}}
            )
            row += rows.num_rows


def _called(item_id: str, data: bytes | None) -> str:
    """A file's name: whatever the id is made of, it stays below its folder."""
    try:
        suffix = _SUFFIXES.get(recognise(data or b""), "bin")
    except DecodeError:
        suffix = "bin"  # what it is meant to be is its own item's error later on
    return f"{object_name(item_id)}.{suffix}"


def _bytes(value: Any) -> bytes | None:
    found = value.get("bytes") if isinstance(value, dict) else value
    return found if isinstance(found, bytes) else None


def _is_kept(field: pa.Field) -> bool:
    """Facts of the items, not files: numbers, truth values, text, lists of those."""
    kind = field.type.value_type if pa.types.is_list(field.type) else field.type
    nested = pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return not nested and field.name not in ("item_id", "image_uri", "truth_uri", IMAGE, MASK)
