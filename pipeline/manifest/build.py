"""Build manifests from folders or prefixes of images, with or without ground truth, and from COCO annotations."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.errors import ConfigError
from pipeline.manifest.items import CORNERS
from pipeline.manifest.names import IMAGE_SUFFIXES, is_litter, printable
from pipeline.storage import uris
from pipeline.storage.files import Files

_URI_COLUMNS = ("image_uri", "truth_uri")

_DIS5K_NAME = re.compile(r"\d+#([^#]+)#\d+#")


def from_folder(folder: str, files: Files) -> pa.Table:
    """List the images below a folder or prefix: columns ``item_id`` (path below the folder) and ``image_uri``.

    Raises:
        ConfigError: There are no images.
        StorageError: The folder can't be listed.
    """
    found = [info.uri for info in files.list(folder, suffixes=IMAGE_SUFFIXES)]
    images = [printable(uri) for uri in found if not is_litter(uri.removeprefix(folder))]
    if not images:
        raise ConfigError(f"no images below {folder}; names must end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return pa.table({"item_id": [uri.removeprefix(folder).lstrip("/") for uri in images], "image_uri": images})


def from_masks(folder: str, masks: str, files: Files) -> pa.Table:
    """Add a column ``truth_uri`` to ``from_folder``: the mask of the same path below ``masks`` with any suffix, or null.

    Raises:
        ConfigError: There are no images, an image has two masks, or no image has a mask.
        StorageError: A folder can't be listed.
    """
    table = from_folder(folder, files)
    by_stem: dict[str, str] = {}
    for info in files.list(masks, suffixes=IMAGE_SUFFIXES):
        stem = _stem(info.uri.removeprefix(masks).lstrip("/"))
        if stem in by_stem:
            raise ConfigError(f"{by_stem[stem]} and {info.uri} are both masks of {stem!r}; keep one")
        by_stem[stem] = info.uri
    truths = [by_stem.get(_stem(item_id)) for item_id in table["item_id"].to_pylist()]
    if not any(truths):
        raise ConfigError(f"no mask below {masks} has the name of an image below {folder}; names must match up to the suffix")
    return table.append_column("truth_uri", pa.array(truths, pa.string()))


def from_dis5k(folder: str, files: Files) -> pa.Table:
    """Build a manifest of DIS5K or one of its parts: ``im/`` and ``gt/`` in the folder, or in its subfolders (DIS-VD, …).

    Columns: ``item_id`` (``<part>/<file name>``), ``image_uri``, ``truth_uri`` and ``tags``, the part and the category of
    objects in DIS5K's file names (``1#Accessories#1#Bag#….jpg``), separated by ``;``.

    Raises:
        ConfigError: No such folders exist, or as for ``from_masks``.
        StorageError: A folder can't be listed.
    """
    parts = [part for part in (folder, *files.folders(folder)) if files.is_folder(uris.join(part, "gt"))]
    if not parts:
        raise ConfigError(f"{folder} does not have the layout of DIS5K: neither it nor a subfolder has im/ and gt/")
    return pa.concat_tables(_dis5k_part(part, files) for part in parts)


def _dis5k_part(folder: str, files: Files) -> pa.Table:
    table, part = from_masks(uris.join(folder, "im"), uris.join(folder, "gt"), files), uris.name(folder)
    names = table["item_id"].to_pylist()
    categories = [_DIS5K_NAME.match(uris.name(name)) for name in names]
    tags = [part if category is None else f"{part};{category[1]}" for category in categories]
    table = table.set_column(0, "item_id", pa.array([f"{part}/{name}" for name in names], pa.string()))
    return table.append_column("tags", pa.array(tags, pa.string()))


class CocoObject(NamedTuple):
    """A COCO annotation with its image and category."""

    item_id: str
    image: dict[str, Any]
    annotation: dict[str, Any]
    category: str | None


def coco_objects(annotations: str, files: Files) -> list[CocoObject]:
    """Read the annotated objects of a COCO file, without crowds. Their ids are ``<file name>#<annotation id>``.

    Raises:
        ConfigError: The file is not COCO JSON, or has no usable annotations.
        FetchError: The file can't be read.
    """
    try:
        content = json.loads(files.read(annotations))
        images = {image["id"]: image for image in content["images"]}
        categories = {category["id"]: str(category["name"]) for category in content.get("categories", [])}
        objects = []
        for entry in content["annotations"]:
            if not entry.get("iscrowd"):
                image = images[entry["image_id"]]
                item_id, category = f"{image['file_name']}#{entry['id']}", categories.get(entry.get("category_id"))
                objects.append(CocoObject(item_id, image, entry, category))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{annotations} is not COCO JSON with images and annotations: {error!r}") from error
    if not objects:
        raise ConfigError(f"{annotations} has no annotations besides crowds")
    return objects


def from_coco(annotations: str, folder: str, files: Files) -> pa.Table:
    """Build a manifest with one item per annotated object.

    Columns: ``item_id``, ``image_uri``, ``x0, y0, x1, y1`` and ``category``. COCO boxes are x, y, width, height
    (https://cocodataset.org/#format-data).

    Raises:
        ConfigError: See ``coco_objects``.
        FetchError: The file can't be read.
    """
    return coco_table(coco_objects(annotations, files), folder)


def coco_table(objects: Sequence[CocoObject], folder: str) -> pa.Table:
    """Build the manifest of ``from_coco`` from objects that are already read.

    Raises:
        ConfigError: An object has no box.
    """
    return pa.Table.from_pylist([_coco_row(entry, folder) for entry in objects])


def _coco_row(entry: CocoObject, folder: str) -> dict[str, Any]:
    try:
        x, y, width, height = (float(value) for value in entry.annotation["bbox"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"the annotation {entry.item_id} has no bbox of x, y, width and height: {error!r}") from error
    corners = dict(zip(CORNERS, (x, y, x + width, y + height), strict=True))
    image = {"item_id": entry.item_id, "image_uri": uris.join(folder, str(entry.image["file_name"]))}
    return image | corners | {"category": entry.category}


def _stem(path: str) -> str:
    return os.path.splitext(path)[0]  # noqa: PTH122  a URI is no Path


def write_manifest(table: pa.Table, target: str, files: Files) -> None:
    """Write a manifest as CSV (lists as JSON text), Parquet or JSON Lines, depending on its name.

    URIs of images and masks below the manifest's folder become relative.

    Raises:
        ConfigError: The name has another suffix.
        WriteError: The file can't be written.
    """
    base = uris.parent(target).rstrip("/") + "/"
    for column in set(_URI_COLUMNS) & set(table.column_names):
        relative = [uri and uri.removeprefix(base) for uri in table[column].to_pylist()]
        table = table.set_column(table.schema.get_field_index(column), column, pa.array(relative, pa.string()))
    sink = io.BytesIO()
    match os.path.splitext(target)[1].lower():  # noqa: PTH122  a URI is no Path
        case ".csv":
            pyarrow.csv.write_csv(_with_json_lists(table), sink)
        case ".parquet":
            pq.write_table(table, sink)
        case ".jsonl" | ".ndjson":
            sink.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in table.to_pylist())
        case other:
            raise ConfigError(f"a manifest's name must end in .csv, .parquet or .jsonl, not {other or 'nothing'!r}")
    files.write(target, sink.getvalue())


def _with_json_lists(table: pa.Table) -> pa.Table:
    for index, field in enumerate(table.schema):
        if pa.types.is_list(field.type) or pa.types.is_large_list(field.type) or pa.types.is_fixed_size_list(field.type):
            values = table[field.name].to_pylist()
            texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
            table = table.set_column(index, field.name, pa.array(texts, pa.string()))
    return table
