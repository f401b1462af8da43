"""Build manifests with ground-truth masks from COCO annotations and from Parquet data sets with image bytes."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.job import Limits
from pipeline.errors import ConfigError, DecodeError, ItemError
from pipeline.imaging.decode import decode
from pipeline.imaging.png import encode_mask
from pipeline.imaging.polygons import decode_polygons
from pipeline.imaging.rle import decode_counts
from pipeline.imaging.sniff import SUFFIXES, sniff
from pipeline.manifest.cells import IMAGE, MASK
from pipeline.manifest.coco import CocoObject, LeftOut, check_size, coco_objects, coco_polygons, coco_table, rle_size
from pipeline.manifest.items import has_bytes
from pipeline.manifest.table_files import translate_errors
from pipeline.storage import uris
from pipeline.storage.files import Files
from pipeline.storage.object_names import FileNames
from pipeline.types import Mask, Size

ROWS, THREADS = 16, 8


def from_coco_masks(annotations: str, folder: str, target: str, files: Files) -> pa.Table:
    """Add a column ``truth_uri`` to ``from_coco``: polygons and run lengths as PNG masks, written below ``target``.

    An object without a usable segmentation has no ground truth.

    Raises:
        ConfigError: See ``coco_objects``.
        FetchError: The annotations can't be read.
        WriteError: A mask can't be written.
    """
    table, objects = coco_table(annotations, coco_objects(annotations, files), folder, files)

    names = FileNames()
    targets = [uris.join(target, f"{names.name(entry.item_id)}.png") for entry in objects]

    photos, without = table["image_uri"].to_pylist(), LeftOut()

    def write(entry: CocoObject, photo: str, uri: str) -> str | None:
        try:
            mask = coco_mask(entry, lambda: _size_of(photo, folder, files))
        except ValueError as error:
            without.add(str(error), entry.item_id)
            return None
        files.write(uri, encode_mask(mask * 255))
        return uri

    with ThreadPoolExecutor(THREADS) as pool:
        written = list(pool.map(write, objects, photos, targets))
    without.warn(f"annotations of {annotations} have no ground truth")
    return table.append_column("truth_uri", pa.array(written, pa.string()))


def _size_of(photo: str, folder: str, files: Files) -> Size:
    """Return the size of a photo below the folder.

    Raises:
        ValueError: It is elsewhere, or cannot be read.
    """
    if not posixpath.normpath(photo).startswith(f"{folder.rstrip('/')}/") and "://" not in photo:
        raise ValueError("the file has no height and width of its image, and the photo is not below the folder of photos")
    try:
        return Size(*decode(files.read(photo, max_bytes=Limits().max_bytes), Limits()).shape[:2])
    except ItemError as error:
        raise ValueError("the file has no height and width of its image, and the photo cannot be read") from error


def coco_mask(entry: CocoObject, size_of: Callable[[], Size]) -> Mask:
    """Decode an annotation's mask, (H, W) uint8 of 0 and 1.

    Args:
        entry: The object.
        size_of: Returns the size of its photo; called if the file gives none.

    Raises:
        ValueError: The image has no size or an excessive one, or the segmentation has an unknown form.
    """
    segmentation = entry.annotation.get("segmentation")
    try:
        size = Size(int(entry.image["height"]), int(entry.image["width"]))
        if min(size) < 1:
            raise ValueError("some tools write 0 for an unknown size")
    except (KeyError, TypeError, ValueError, OverflowError):
        size = rle_size(segmentation) or size_of()
    check_size(size)
    if isinstance(segmentation, dict):
        if list(segmentation.get("size", ())) != list(size):
            raise ValueError("its run lengths have another size than its image")
        return decode_counts(size, segmentation.get("counts"))
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("it has no segmentation")
    return decode_polygons(size, coco_polygons(segmentation))


def from_hub(source: str, target: str, files: Files) -> pa.Table:
    """Unpack the image and mask bytes of a Parquet file or folder below ``target``, as data sets on the hub have them.

    Images are in the column ``image``, or else in the first column of bytes. Columns: ``item_id`` (from the data set, or the
    file's path below the folder and the row), ``image_uri``, ``truth_uri`` if there is a column ``mask``, and all others but
    bytes.

    Raises:
        ConfigError: The file is not Parquet, has no column of bytes, or has two rows of one id.
        StorageError: The source can't be read or listed.
        WriteError: A file can't be written.
    """
    sources = [source] if files.exists(source) else [info.uri for info in files.list(source, suffixes=(".parquet",))]
    if not sources:
        raise ConfigError(f"no Parquet file at or below {source}; give a .parquet file, or a folder that contains some")
    names = FileNames()
    tables = [part for uri in sources for part in _unpack(uri, _below(uri, source), target, files, names)]
    if not tables:
        raise ConfigError(f"{source} has no rows")
    return pa.concat_tables(tables, promote_options="permissive")


def _below(uri: str, folder: str) -> str:
    """Return a file's path below a folder; its name, if it was given itself."""
    return uris.name(uri) if uri == folder else uri.removeprefix(f"{folder.rstrip('/')}/")


def _unpack(source: str, file_name: str, target: str, files: Files, names: FileNames) -> Iterator[pa.Table]:
    """Unpack a Parquet file in batches of ``ROWS``. ``file_name`` begins the ids of rows without one."""

    def write(uri: str, data: bytes | None) -> str | None:
        if data is None:
            return None
        files.write(uri, data)
        return uri

    stem, row = file_name.rpartition(".")[0] or file_name, 0
    with (
        translate_errors(source, "Parquet file"),
        files.open_input(source) as stream,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        file = pq.ParquetFile(stream)
        image = _image_column(file.schema_arrow)
        if image is None:
            listed = ", ".join(file.schema_arrow.names[:12])
            raise ConfigError(f"{source} has no column with the bytes of images; its columns are {listed}")
        with_masks = MASK in file.schema_arrow.names
        for batch in file.iter_batches(ROWS):
            rows = pa.Table.from_batches([batch])
            given = rows["item_id"].to_pylist() if "item_id" in rows.column_names else [None] * rows.num_rows
            ids = [f"{stem}-{row + place:06}" if one in (None, "") else str(one) for place, one in enumerate(given)]
            stems = [names.name(item_id, f"row {row + place} of {file_name}") for place, item_id in enumerate(ids, 1)]
            columns = {"item_id": pa.array(ids, pa.string())}
            for column, folder, name in (("image_uri", "images", image), *[("truth_uri", "masks", MASK)] * with_masks):
                contents = [_bytes(value) for value in rows[name].to_pylist()]
                targets = [uris.join(target, folder, stem + _suffix(data)) for stem, data in zip(stems, contents, strict=True)]
                columns[column] = pa.array(list(pool.map(write, targets, contents)), pa.string())
            yield pa.table(columns | {field.name: rows[field.name] for field in rows.schema if _is_carried(field)})
            row += rows.num_rows


def _image_column(schema: pa.Schema) -> str | None:
    holds_bytes = [field.name for field in schema if has_bytes(field.type) and field.name != MASK]
    return IMAGE if IMAGE in holds_bytes else next(iter(holds_bytes), None)


def _suffix(data: bytes | None) -> str:
    """Return the suffix of an image's format."""
    try:
        return f".{SUFFIXES[sniff(data or b'')]}"
    except DecodeError:
        return ".bin"  # decoding reports the error for this item


def _bytes(value: Any) -> bytes | None:
    content = value.get("bytes") if isinstance(value, dict) else value
    return content if isinstance(content, bytes) else None


def _is_carried(field: pa.Field) -> bool:
    """Accept numbers, booleans, text, and lists of those; reject file contents."""
    kind = field.type.value_type if pa.types.is_list(field.type) else field.type
    nested = pa.types.is_nested(kind) or has_bytes(kind)
    return not nested and field.name not in ("item_id", "image_uri", "truth_uri", IMAGE, MASK)
