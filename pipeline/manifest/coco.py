"""Build manifests from COCO annotations."""

from __future__ import annotations

import codecs
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.imaging.rle import decode_counts
from pipeline.log import log
from pipeline.manifest.items import CORNERS
from pipeline.storage import uris
from pipeline.storage.files import Files
from pipeline.types import Size


class CocoObject(NamedTuple):
    """A COCO annotation with its image and category."""

    item_id: str
    image: dict[str, Any]
    annotation: dict[str, Any]
    category: str | None


def coco_objects(annotations: str, files: Files) -> list[CocoObject]:
    """Read the annotated objects of a COCO file, without crowds. Their ids are ``<file name>#<annotation id>``.

    Annotations that cannot be used are left out and counted in a warning, with their reasons.

    Raises:
        ConfigError: The file is not COCO JSON, has no usable annotations, or two of one id in one image.
        FetchError: The file can't be read.
    """
    try:
        content = json.loads(files.read(annotations).removeprefix(codecs.BOM_UTF8))
        images, shared = _coco_images(content["images"])
        categories = {category["id"]: str(category["name"]) for category in content.get("categories") or ()}
        entries = list(content.get("annotations") or ())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{annotations} is not COCO JSON with images and annotations ({type(error).__name__}: {error})"
        ) from error
    objects, left_out = [], Counter[str]()
    places: dict[str, int] = {}
    for place, entry in enumerate(entries):
        try:
            if entry.get("iscrowd"):
                left_out["crowds"] += 1
            elif entry["image_id"] in shared:
                left_out["their image id belongs to two images"] += 1
            else:
                image = images[entry["image_id"]]
                item_id = f"{image['file_name']}#{entry['id']}"
                other = places.setdefault(item_id, place)
                if other != place and entries[other] == entry:
                    left_out["they repeat another annotation"] += 1
                    continue
                if other != place:
                    raise ConfigError(
                        f"{annotations}: its annotations {other + 1} and {place + 1} both have the id {entry['id']} and the "
                        f"image {image['file_name']!r}; give each an id of its own"
                    )
                objects.append(CocoObject(item_id, image, entry, categories.get(entry.get("category_id"))))
        except (KeyError, TypeError, AttributeError):
            left_out["they lack an id, or an image with a file name"] += 1
    if not objects:
        raise ConfigError(f"{annotations} has no annotations{_listed(left_out)}")
    if left_out:
        log.warning(f"{sum(left_out.values())} annotations of {annotations} are left out{_listed(left_out)}")
    return objects


def _coco_images(entries: Iterable[dict[str, Any]]) -> tuple[dict[Any, dict[str, Any]], set[Any]]:
    """Return the images by id, with slashes in their names, and the ids of several images."""
    images: dict[Any, dict[str, Any]] = {}
    shared = set()
    for entry in entries:
        image = entry | {"file_name": str(entry["file_name"]).replace("\\", "/").removeprefix("./")}
        other = images.setdefault(entry["id"], image)
        if other["file_name"] != image["file_name"]:
            shared.add(entry["id"])
    return images, shared


def _listed(left_out: Mapping[str, int]) -> str:
    return f" ({'; '.join(f'{count}: {why}' for why, count in left_out.items())})" if left_out else ""


def from_coco(annotations: str, folder: str, files: Files) -> pa.Table:
    """Build a manifest with one item per annotated object.

    Columns: ``item_id``, ``image_uri``, ``x0, y0, x1, y1``, ``category``, and the file and id of the annotation (``coco_file``,
    ``coco_id``), with which ``matteline dataset --coco`` writes it again. COCO boxes are x, y, width, height
    (https://cocodataset.org/#format-data). An annotation without a box has that of its polygons.

    Raises:
        ConfigError: See ``coco_objects``; or no object has a box.
        FetchError: The file can't be read.
    """
    return coco_table(annotations, coco_objects(annotations, files), folder, files)[0]


def coco_table(annotations: str, objects: Sequence[CocoObject], folder: str, files: Files) -> tuple[pa.Table, list[CocoObject]]:
    """Build the manifest of ``from_coco`` from objects that are already read. Returns it, and the objects of its rows.

    Objects without a box are left out and counted in a warning.

    Raises:
        ConfigError: No object has a box.
    """
    boxes = [(entry, coco_box(entry.annotation)) for entry in objects]
    kept = [(entry, box) for entry, box in boxes if box is not None]
    if not kept:
        raise ConfigError(
            f"no annotation has a bbox of x, y, width and height, or a polygon; the first is {objects[0].item_id}"
        )
    if len(kept) < len(boxes):
        log.warning(f"{len(boxes) - len(kept)} annotations are left out: they have neither a bbox nor a polygon")
    rows: list[dict[str, Any]] = [
        {"item_id": entry.item_id, "image_uri": coco_image_uri(str(entry.image["file_name"]), folder, files)}
        | dict(zip(CORNERS, box, strict=True))
        | {"category": entry.category, "coco_file": annotations, "coco_id": str(entry.annotation["id"])}
        for entry, box in kept
    ]
    return pa.Table.from_pylist(rows), [entry for entry, _ in kept]


def coco_image_uri(file_name: str, folder: str, files: Files) -> str:
    """Return the URI of an image. Of an absolute path, the longest end that exists below the folder is used, if one does."""
    if not file_name.startswith("/"):
        return uris.join(folder, file_name)
    parts = file_name.strip("/").split("/")
    ends = (uris.join(folder, *parts[start:]) for start in range(len(parts)))
    return next((uri for uri in ends if files.exists(uri)), file_name)


def coco_box(annotation: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    """Return x0, y0, x1, y1 of an annotation's bbox, or else of its polygons or run lengths; None if it has none."""
    with suppress(KeyError, TypeError, ValueError):
        x, y, width, height = (float(value) for value in annotation["bbox"])
        if all(map(math.isfinite, (x, y, width, height))) and min(width, height) > 0:
            return x, y, x + width, y + height
    segmentation = annotation.get("segmentation")
    with suppress(KeyError, TypeError, ValueError, IndexError):
        if isinstance(segmentation, dict):
            height_px, width_px = (int(side) for side in segmentation["size"])
            rows, columns = np.nonzero(decode_counts(Size(height_px, width_px), segmentation["counts"]))
            return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)
        corners = np.concatenate([np.array(polygon, np.float64).reshape(-1, 2) for polygon in coco_polygons(segmentation)])
        (x0, y0), (x1, y1) = corners.min(0).tolist(), corners.max(0).tolist()
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None
    return None


def coco_polygons(segmentation: Any) -> list[list[float]]:
    """Return the polygons of a segmentation that have three corners or more.

    Raises:
        ValueError: There are none.
    """
    if isinstance(segmentation, list) and segmentation and not isinstance(segmentation[0], list):
        segmentation = [segmentation]  # some tools write a single polygon without its list
    polygons = [one for one in segmentation or () if isinstance(one, list) and len(one) >= 6 and len(one) % 2 == 0]
    if not polygons:
        raise ValueError("it has no polygon of three corners or more")
    return polygons
