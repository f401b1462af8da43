"""The masks of an output as a data set, object by object united to images: ``matteline dataset``."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
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
from pipeline.imaging.encode import encode_labels
from pipeline.imaging.rle import HALF, is_object, run_lengths
from pipeline.imaging.validate import decode_mask
from pipeline.output.index import read_index
from pipeline.output.layout import Layout
from pipeline.storage.files import Files
from pipeline.storage.uris import join
from pipeline.types import Mask

MOST_OBJECTS = 254
"""Of an image with numbered objects: 0 is the background, and 255 means "void" in Pascal VOC."""

COLUMNS = ("item_id", "image_uri", "image_sha256", "height", "width", "quality", "mask_uri", "finished_at")

CHUNK = 1024
THREADS = 16


@dataclass
class United:
    """What went into a data set, and what didn't."""

    images: int = 0
    objects: int = 0
    empty: int = 0
    """Masks without a pixel above one half: no annotation, but their images are there."""
    stale: int = 0
    """Masks of an image that has changed since, beside newer ones of the same image."""


@dataclass
class _Image:
    name: str
    height: int
    width: int
    annotations: list[dict[str, Any]] = field(default_factory=list)
    empty: int = 0
    stale: int = 0


def unite(layout: Layout, files: Files, *, coco: str | None = None, indexed: str | None = None) -> United:
    """Write all masks as one file of COCO annotations, as a palette PNG an image, or both.

    Images come in the order of their URIs, the objects of an image in that of their ids, whatever parts the index has: the same
    index gives the same bytes. Masks are read a few at a time; the index's rows and COCO's text are held in memory.

    Args:
        coco: where the JSON goes: a path or a URI.
        indexed: the folder of the PNGs. Objects have the numbers 1, 2, …; where they overlap, the more opaque one wins.

    Raises:
        ConfigError: there are no masks, or one image has too many for a palette.
        StorageError: the index or a mask can't be read.
        WriteError: something can't be written.
    """
    rows, united, images = _masks(layout, files), United(), []
    names = _names(pc.unique(rows["image_uri"]).to_pylist())
    stems = Counter(_stem(name) for name in names.values())
    with ThreadPoolExecutor(THREADS) as pool, TemporaryFile() as annotations:
        make = partial(_make, files, names, stems, indexed)
        for image in map_ahead(pool, make, _grouped(rows), 2 * THREADS):
            united.images += 1
            united.empty += image.empty
            united.stale += image.stale
            images.append({"id": united.images, "file_name": image.name, "height": image.height, "width": image.width})
            for annotation in image.annotations:
                united.objects += 1
                entry = {"id": united.objects, "image_id": united.images} | annotation
                annotations.write(b",\n" * (united.objects > 1) + _json(entry))
        if coco is not None:
            annotations.seek(0)
            head = b'{"info":' + _json({"description": f"{layout.recipe_folder}, cut out by Matteline"})
            kinds = _json([{"id": 1, "name": "object", "supercategory": ""}])
            lists = b',"categories":' + kinds + b',\n"images":' + _json(images) + b',\n"annotations":['
            files.write(coco, b"".join([head, lists, annotations.read(), b"]}\n"]))
    return united


def _masks(layout: Layout, files: Files) -> pa.Table:
    """The index's rows with masks, by image, and then by item: ``#2`` before ``#10``."""
    parts = [part.filter(pc.is_valid(part["mask_uri"])).select(COLUMNS) for part in read_index(layout, files, COLUMNS)]
    rows = pa.concat_tables(parts) if parts else None
    if rows is None or not rows.num_rows:
        raise ConfigError(f"no masks in {layout.index}; a data set needs a recipe whose outputs have mask")
    rows = rows.append_column("length", pc.utf8_length(rows["item_id"]))
    return rows.sort_by([("image_uri", "ascending"), ("length", "ascending"), ("item_id", "ascending")])


def _grouped(rows: pa.Table) -> Iterator[list[dict[str, Any]]]:
    """All rows of an image at a time."""
    each = (row for start in range(0, rows.num_rows, CHUNK) for row in rows.slice(start, CHUNK).to_pylist())
    return (list(group) for _, group in itertools.groupby(each, key=lambda row: row["image_uri"]))


def _names(uris: list[str]) -> dict[str, str]:
    """The images' paths below the deepest folder that has them all."""
    folder = os.path.commonprefix(uris).rpartition("/")[0]  # noqa: RUF071  of URIs, cut at a slash
    return {uri: uri[len(folder) :].lstrip("/") for uri in uris}


def _make(
    files: Files, names: Mapping[str, str], stems: Mapping[str, int], indexed: str | None, rows: list[dict[str, Any]]
) -> _Image:
    """One image: its annotations, without ids, and its PNG written."""
    newest = max(rows, key=lambda row: row["finished_at"])
    current = [row for row in rows if row["image_sha256"] == newest["image_sha256"]]
    image = _Image(names[newest["image_uri"]], newest["height"], newest["width"], stale=len(rows) - len(current))
    if indexed is not None and len(current) > MOST_OBJECTS:
        raise ConfigError(
            f"{newest['image_uri']} has {len(current)} objects, a palette numbers {MOST_OBJECTS}; use --coco alone"
        )
    shape = (image.height, image.width)
    labels, strongest = np.zeros(shape, np.uint8), np.full(shape, HALF - 1, np.uint8)
    for number, row in enumerate(current, start=1):
        mask = _read(files, row["mask_uri"], shape)
        if indexed is not None:
            wins = mask > strongest
            labels[wins], strongest[wins] = number, mask[wins]
        geometry = run_lengths(is_object(mask))
        if not geometry["area"]:
            image.empty += 1
            continue
        segmentation = {"size": geometry["size"], "counts": geometry["counts"]}
        facts = {"category_id": 1, "iscrowd": 0, "bbox": geometry["bbox"], "area": geometry["area"]}
        score = round(row["quality"], 6)
        image.annotations.append(facts | {"segmentation": segmentation, "score": score, "item_id": row["item_id"]})
    if indexed is not None:
        stem = _stem(image.name)  # of a.jpg and a.webp each keeps its suffix
        files.write(join(indexed, f"{stem if stems[stem] == 1 else image.name}.png"), encode_labels(labels))
    return image


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122  a URI is no Path


def _read(files: Files, uri: str, shape: tuple[int, int]) -> Mask:
    try:
        mask = decode_mask(files.read(uri))
    except (FetchError, DecodeError) as error:
        raise StorageError(f"the mask {uri} can't be read: {error}; see matteline verify") from error
    if mask.shape != shape:
        raise StorageError(f"the mask {uri} isn't of its image's size; see matteline verify")
    return mask


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
