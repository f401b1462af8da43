"""Manifests made from what people have: folders or prefixes of images, with true masks beside them or not, COCO annotations."""

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
from pipeline.manifest.manifest import IMAGE_SUFFIXES
from pipeline.storage import uris
from pipeline.storage.files import Files

BOX = ("x0", "y0", "x1", "y1")
URIS = ("image_uri", "truth_uri")

_DIS5K_NAME = re.compile(r"\d+#([^#]+)#\d+#")


def from_folder(folder: str, files: Files) -> pa.Table:
    """Every image below a folder or prefix: columns ``item_id`` (its path below the folder) and ``image_uri``.

    Raises:
        ConfigError: there is none.
        StorageError: the folder can't be listed.
    """
    found = [info.uri for info in files.list(folder, suffixes=IMAGE_SUFFIXES)]
    if not found:
        raise ConfigError(f"no images below {folder}; names must end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return pa.table({"item_id": [uri.removeprefix(folder).lstrip("/") for uri in found], "image_uri": found})


def from_masks(folder: str, masks: str, files: Files) -> pa.Table:
    """``from_folder`` with a column ``truth_uri``: the mask of the same path below ``masks``, whatever its suffix, or null.

    Raises:
        ConfigError: there are no images, two masks for one of them, or a mask for none.
        StorageError: a folder can't be listed.
    """
    table = from_folder(folder, files)
    found: dict[str, str] = {}
    for info in files.list(masks, suffixes=IMAGE_SUFFIXES):
        stem = _stem(info.uri.removeprefix(masks).lstrip("/"))
        if stem in found:
            raise ConfigError(f"{found[stem]} and {info.uri} are both the mask of {stem!r}; keep one")
        found[stem] = info.uri
    truths = [found.get(_stem(item_id)) for item_id in table["item_id"].to_pylist()]
    if not any(truths):
        raise ConfigError(f"no mask below {masks} is called like an image below {folder}; names must agree up to the suffix")
    return table.append_column("truth_uri", pa.array(truths, pa.string()))


def from_dis5k(folder: str, files: Files) -> pa.Table:
    """DIS5K, or one of its parts: ``im/`` and ``gt/`` in the folder itself, or in folders of it (DIS-VD, DIS-TE1, …).

    Columns ``item_id`` (``<part>/<file name>``), ``image_uri``, ``truth_uri`` and ``tags``: the part, and the group of objects
    that DIS5K's file names say (``1#Accessories#1#Bag#….jpg``), with ``;`` between them.

    Raises:
        ConfigError: no such folders, or as ``from_masks``.
        StorageError: a folder can't be listed.
    """
    parts = [part for part in (folder, *files.folders(folder)) if files.is_folder(uris.join(part, "gt"))]
    if not parts:
        raise ConfigError(f"{folder} isn't laid out as DIS5K: neither it nor a folder in it has im/ and gt/")
    return pa.concat_tables(_dis5k_part(part, files) for part in parts)


def _dis5k_part(folder: str, files: Files) -> pa.Table:
    table, part = from_masks(uris.join(folder, "im"), uris.join(folder, "gt"), files), uris.name(folder)
    names = table["item_id"].to_pylist()
    groups = [_DIS5K_NAME.match(uris.name(name)) for name in names]
    tags = [part if group is None else f"{part};{group[1]}" for group in groups]
    table = table.set_column(0, "item_id", pa.array([f"{part}/{name}" for name in names], pa.string()))
    return table.append_column("tags", pa.array(tags, pa.string()))


class CocoObject(NamedTuple):
    """An annotation of COCO's, and what belongs to it."""

    item_id: str
    image: dict[str, Any]
    annotation: dict[str, Any]
    category: str | None


def coco_objects(annotations: str, files: Files) -> list[CocoObject]:
    """The annotated objects of a file; crowds are left out. Their ids are ``<file name>#<annotation id>``.

    Raises:
        ConfigError: not COCO's JSON, or without usable annotations.
        FetchError: it can't be read.
    """
    try:
        content = json.loads(files.read(annotations))
        images = {image["id"]: image for image in content["images"]}
        kinds = {kind["id"]: str(kind["name"]) for kind in content.get("categories", [])}
        found = []
        for entry in content["annotations"]:
            if not entry.get("iscrowd"):
                image = images[entry["image_id"]]
                name, category = f"{image['file_name']}#{entry['id']}", kinds.get(entry.get("category_id"))
                found.append(CocoObject(name, image, entry, category))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{annotations} is not COCO's JSON with images and annotations: {error!r}") from error
    if not found:
        raise ConfigError(f"{annotations} has no annotations besides crowds")
    return found


def from_coco(annotations: str, folder: str, files: Files) -> pa.Table:
    """One item an annotated object, with its box and its category.

    Columns ``item_id``, ``image_uri``, ``x0, y0, x1, y1`` and ``category``. COCO boxes are x, y, width, height
    (https://cocodataset.org/#format-data).

    Raises:
        ConfigError: see ``coco_objects``.
        FetchError: it can't be read.
    """
    return coco_table(coco_objects(annotations, files), folder)


def coco_table(objects: Sequence[CocoObject], folder: str) -> pa.Table:
    """``from_coco`` of objects that are read already.

    Raises:
        ConfigError: one of them has no box.
    """
    return pa.Table.from_pylist([_coco_item(found, folder) for found in objects])


def _coco_item(found: CocoObject, folder: str) -> dict[str, Any]:
    try:
        x, y, width, height = (float(value) for value in found.annotation["bbox"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"the annotation {found.item_id} has no bbox of x, y, width and height: {error!r}") from error
    corners = dict(zip(BOX, (x, y, x + width, y + height), strict=True))
    image = {"item_id": found.item_id, "image_uri": uris.join(folder, str(found.image["file_name"]))}
    return image | corners | {"category": found.category}


def _stem(path: str) -> str:
    return os.path.splitext(path)[0]  # noqa: PTH122  a URI is no Path


def write_manifest(table: pa.Table, target: str, files: Files) -> None:
    """Write a manifest as CSV, Parquet or JSON Lines, by its name. Images and
    masks below the manifest's folder get relative URIs; a CSV file has lists as JSON text.

    Raises:
        ConfigError: the name ends otherwise.
        WriteError: it can't be written.
    """
    base = uris.parent(target).rstrip("/") + "/"
    for column in set(URIS) & set(table.column_names):
        near = [uri and uri.removeprefix(base) for uri in table[column].to_pylist()]
        table = table.set_column(table.schema.get_field_index(column), column, pa.array(near, pa.string()))
    sink = io.BytesIO()
    match os.path.splitext(target)[1].lower():  # noqa: PTH122  a URI is no Path
        case ".csv":
            pyarrow.csv.write_csv(_flat(table), sink)
        case ".parquet":
            pq.write_table(table, sink)
        case ".jsonl" | ".ndjson":
            sink.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in table.to_pylist())
        case other:
            raise ConfigError(f"a manifest's name must end in .csv, .parquet or .jsonl, not {other or 'nothing'!r}")
    files.write(target, sink.getvalue())


def _flat(table: pa.Table) -> pa.Table:
    """Lists as JSON text."""
    for place, field in enumerate(table.schema):
        if pa.types.is_list(field.type) or pa.types.is_large_list(field.type) or pa.types.is_fixed_size_list(field.type):
            texts = [
                None if value is None else json.dumps(value, ensure_ascii=False) for value in table[field.name].to_pylist()
            ]
            table = table.set_column(place, field.name, pa.array(texts, pa.string()))
    return table
