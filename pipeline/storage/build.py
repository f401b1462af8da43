"""Manifests made from what people have: a folder or prefix of images, or COCO annotations."""

from __future__ import annotations

import io
import json
import os
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.errors import ConfigError
from pipeline.storage import uris
from pipeline.storage.files import Files
from pipeline.storage.manifest import IMAGE_SUFFIXES

BOX = ("x0", "y0", "x1", "y1")


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


def from_coco(annotations: str, folder: str, files: Files) -> pa.Table:
    """One item an annotated object, with its box and its category; crowds are left out.

    Columns ``item_id`` (``<file name>#<annotation id>``), ``image_uri``, ``x0, y0, x1, y1`` and ``category``. COCO boxes
    are x, y, width, height (https://cocodataset.org/#format-data).

    Raises:
        ConfigError: not COCO's JSON, or without usable annotations.
        FetchError: it can't be read.
    """
    try:
        content = json.loads(files.read(annotations))
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        kinds = {kind["id"]: str(kind["name"]) for kind in content.get("categories", [])}
        rows = [_coco_item(entry, names, kinds, folder) for entry in content["annotations"] if not entry.get("iscrowd")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{annotations} is not COCO's JSON with images and annotations: {error!r}") from error
    if not rows:
        raise ConfigError(f"{annotations} has no annotations besides crowds")
    return pa.Table.from_pylist(rows)


def _coco_item(entry: dict[str, Any], names: dict[Any, str], kinds: dict[Any, str], folder: str) -> dict[str, Any]:
    x, y, width, height = (float(value) for value in entry["bbox"])
    name = names[entry["image_id"]]
    corners = dict(zip(BOX, (x, y, x + width, y + height), strict=True))
    image = {"item_id": f"{name}#{entry['id']}", "image_uri": uris.join(folder, name)}
    return image | corners | {"category": kinds.get(entry.get("category_id"))}


def write_manifest(table: pa.Table, target: str, files: Files) -> None:
    """Write a manifest as CSV, Parquet or JSON Lines, by its name. Images below the manifest's folder get relative URIs.

    Raises:
        ConfigError: the name ends otherwise.
        WriteError: it can't be written.
    """
    base = uris.parent(target).rstrip("/") + "/"
    near = [uri.removeprefix(base) if uri.startswith(base) else uri for uri in table["image_uri"].to_pylist()]
    table = table.set_column(table.schema.get_field_index("image_uri"), "image_uri", pa.array(near, pa.string()))
    sink = io.BytesIO()
    match os.path.splitext(target)[1].lower():  # noqa: PTH122  a URI is no Path
        case ".csv":
            pyarrow.csv.write_csv(table, sink)
        case ".parquet":
            pq.write_table(table, sink)
        case ".jsonl" | ".ndjson":
            sink.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in table.to_pylist())
        case other:
            raise ConfigError(f"a manifest's name must end in .csv, .parquet or .jsonl, not {other or 'nothing'!r}")
    files.write(target, sink.getvalue())
