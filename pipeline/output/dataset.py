"""Export the masks of an output as a data set, grouped by image (``matteline dataset``)."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.concurrency import map_ahead
from pipeline.errors import ConfigError, DecodeError, FetchError, StorageError
from pipeline.imaging.png import encode_labels
from pipeline.imaging.rle import HALF, binarize, run_lengths
from pipeline.imaging.validate import decode_mask
from pipeline.output.index import read_index
from pipeline.output.output import Output
from pipeline.storage.object_names import distinct_names
from pipeline.storage.uris import join, name
from pipeline.types import Mask

MAX_OBJECTS = 254
"""Objects per palette image: 0 is the background, and 255 means "void" in Pascal VOC."""

COLUMNS = ("item_id", "image_uri", "image_sha256", "height", "width", "quality", "mask_path", "run_id", "finished_at")

CHUNK = 1024
THREADS = 16


@dataclass
class DatasetReport:
    """Counts of an exported data set."""

    images: int = 0
    objects: int = 0
    empty: int = 0
    """Masks without a pixel above one half. Their images are in the data set, without an annotation."""
    stale: int = 0
    """Masks that are left out, because a newer row has another version of the same image."""


@dataclass
class _Image:
    name: str
    height: int
    width: int
    annotations: list[dict[str, Any]] = field(default_factory=list)
    empty: int = 0
    stale: int = 0


def export_dataset(output: Output, *, coco: str | None = None, indexed: str | None = None) -> DatasetReport:
    """Write all masks as one file of COCO annotations, as one palette PNG per image, or both.

    Images are sorted by URI and the objects of an image by id, so the same index gives the same bytes. Masks are read a few at
    a time. The index's rows and the list of images are held in memory.

    ``coco`` is the path or URI of the JSON file, and ``indexed`` the folder of the PNGs. In a PNG, objects are numbered
    1, 2, …; where they overlap, the more opaque one wins. A PNG has the name of its image without the suffix, as an object name
    (``storage.object_names``); images that differ in the suffix only keep it.

    Raises:
        ConfigError: There are no masks, or an image has too many for a palette.
        StorageError: The index or a mask cannot be read.
        WriteError: A file cannot be written.
    """
    rows, report, images = _rows_with_masks(output), DatasetReport(), []
    names = _names(pc.unique(rows["image_uri"]).to_pylist())
    palettes = dict(zip(names, distinct_names([(_stem(one), one) for one in names.values()]), strict=True))
    with ThreadPoolExecutor(THREADS) as pool, TemporaryFile() as annotations:
        make = partial(_make_image, output, names, palettes, indexed)
        for image in map_ahead(pool, make, _by_image(rows), 2 * THREADS):
            report.images += 1
            report.empty += image.empty
            report.stale += image.stale
            images.append({"id": report.images, "file_name": image.name, "height": image.height, "width": image.width})
            for annotation in image.annotations:
                report.objects += 1
                entry = {"id": report.objects, "image_id": report.images} | annotation
                annotations.write(b",\n" * (report.objects > 1) + _json(entry))
        if coco is not None:
            annotations.seek(0)
            head = b'{"info":' + _json({"description": f"{name(output.folder)}, cut out by Matteline"})
            categories = _json([{"id": 1, "name": "object", "supercategory": ""}])
            lists = b',"categories":' + categories + b',\n"images":' + _json(images) + b',\n"annotations":['
            output.files.write(coco, b"".join([head, lists, annotations.read(), b"]}\n"]))
    return report


def _rows_with_masks(output: Output) -> pa.Table:
    """Return the index's rows with masks, sorted by image and then by item: ``#2`` before ``#10``."""
    parts = [part.filter(pc.is_valid(part["mask_path"])).select(COLUMNS) for part in read_index(output, COLUMNS)]
    rows = pa.concat_tables(parts) if parts else None
    if rows is None or not rows.num_rows:
        raise ConfigError(f"no masks in {output.layout.index}; use a recipe with mask in recipe.outputs")
    needed = ("image_uri", "height", "width", "quality", "finished_at")
    if incomplete := [column for column in needed if rows[column].null_count]:
        raise StorageError(f"a row with a mask has no {incomplete[0]}; run matteline verify {output.folder}")
    rows = rows.append_column("length", pc.utf8_length(rows["item_id"]))
    return rows.sort_by([("image_uri", "ascending"), ("length", "ascending"), ("item_id", "ascending")])


def _by_image(rows: pa.Table) -> Iterator[list[dict[str, Any]]]:
    each = (row for start in range(0, rows.num_rows, CHUNK) for row in rows.slice(start, CHUNK).to_pylist())
    return (list(group) for _, group in itertools.groupby(each, key=lambda row: row["image_uri"]))


def _names(uris: list[str]) -> dict[str, str]:
    """Return the images' paths below their deepest common folder."""
    folder = os.path.commonprefix(uris).rpartition("/")[0]  # noqa: RUF071  of URIs, cut at a slash
    return {uri: uri[len(folder) :].lstrip("/") for uri in uris}


def _make_image(
    output: Output, names: Mapping[str, str], palettes: Mapping[str, str], indexed: str | None, rows: list[dict[str, Any]]
) -> _Image:
    """Return the annotations of one image, without ids, and write its PNG."""
    newest = max(rows, key=lambda row: (row["run_id"] or "", row["finished_at"]))
    current = [row for row in rows if row["image_sha256"] == newest["image_sha256"]]
    image = _Image(names[newest["image_uri"]], newest["height"], newest["width"], stale=len(rows) - len(current))
    if indexed is not None and len(current) > MAX_OBJECTS:
        raise ConfigError(
            f"{newest['image_uri']} has {len(current)} objects, but a palette holds {MAX_OBJECTS}; use --coco without --indexed"
        )
    shape = (image.height, image.width)
    for number, row in enumerate(current, start=1):
        mask = _read(output, row["mask_path"], shape)
        if number == 1:  # not earlier: the size may be wrong, and large
            labels, strongest = np.zeros(shape, np.uint8), np.full(shape, HALF - 1, np.uint8)
        if indexed is not None:
            wins = mask > strongest
            labels[wins], strongest[wins] = number, mask[wins]
        geometry = run_lengths(binarize(mask))
        if not geometry["area"]:
            image.empty += 1
            continue
        segmentation = {"size": geometry["size"], "counts": geometry["counts"]}
        facts = {"category_id": 1, "iscrowd": 0, "bbox": geometry["bbox"], "area": geometry["area"]}
        score = round(row["quality"], 6)
        image.annotations.append(facts | {"segmentation": segmentation, "score": score, "item_id": row["item_id"]})
    if indexed is not None:
        output.files.write(join(indexed, f"{palettes[newest['image_uri']]}.png"), encode_labels(labels))
    return image


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122  a URI is no Path


def _read(output: Output, path: str, shape: tuple[int, int]) -> Mask:
    try:
        mask = decode_mask(output.read(path))
    except (FetchError, DecodeError) as error:
        raise StorageError(f"the mask {path} cannot be read: {error}; run matteline verify") from error
    if mask.shape != shape:
        raise StorageError(f"the mask {path} does not have its image's size; run matteline verify")
    return mask


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
