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

from pipeline.config.job import Limits
from pipeline.errors import ConfigError
from pipeline.imaging.rle import bounds_of
from pipeline.log import log
from pipeline.manifest.coco_images import find_images
from pipeline.manifest.items import CORNERS
from pipeline.manifest.json_lines import parse_json
from pipeline.storage.files import Files
from pipeline.types import Size

MAX_PIXELS = Limits().max_pixels

MAX_REASONS = 10
"""Reasons in one message."""

_NO_CROWD = (None, 0, "", "0", "false", "False")
"""Values of ``iscrowd`` of an object."""


class CocoObject(NamedTuple):
    """A COCO annotation with its image and category."""

    item_id: str
    image: dict[str, Any]
    annotation: dict[str, Any]
    category: str | None


class LeftOut:
    """Counts what cannot be used by its reason, with the first one."""

    def __init__(self) -> None:
        self._counts = Counter[str]()
        self._first: dict[str, str] = {}

    def add(self, reason: str, name: str) -> None:
        """Count one."""
        self._counts[reason] += 1
        self._first.setdefault(reason, name[:100])

    def warn(self, what: str) -> None:
        """Log the counts, if there are some: ``3 annotations of a.json are left out (…)``."""
        if self._counts:
            log.warning(f"{self._counts.total()} {what}{self}")

    def __str__(self) -> str:
        """Return the counts in parentheses, of the most frequent reasons; empty if there are none."""
        told = [f"{count}: {reason}, first {self._first[reason]}" for reason, count in self._counts.most_common(MAX_REASONS)]
        told += ["…"] if len(self._counts) > MAX_REASONS else []
        return f" ({'; '.join(told)})" if told else ""


def coco_objects(annotations: str, files: Files) -> list[CocoObject]:
    """Read the annotated objects of a COCO file, without crowds. Their ids are ``<file name>#<annotation id>``.

    Annotations that cannot be used are left out and counted in a warning, with their reasons. A category without a name counts
    as none.

    Raises:
        ConfigError: The file is not COCO JSON, has no usable annotations, or two of one id in one image.
        FetchError: The file can't be read.
    """
    data = files.read(annotations).removeprefix(codecs.BOM_UTF8)
    try:
        content = parse_json(data.decode(json.detect_encoding(data)))
        images, shared = _images(list(content["images"]))
        categories = _names(list(content.get("categories") or ()))
        entries = list(content.get("annotations") or ())
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{annotations} is not COCO JSON with images and annotations ({type(error).__name__}: {error})"
        ) from error
    objects: list[CocoObject] = []
    places: dict[str, int] = {}
    left_out = LeftOut()
    for place, entry in enumerate(entries):
        reason = _unusable(entry, images, shared)
        if reason is None:
            image = images[id_text(entry["image_id"])]
            item_id = f"{image['file_name']}#{id_text(entry['id'])}"
            other = places.setdefault(item_id, place)
            if other == place:
                objects.append(CocoObject(item_id, image, entry, categories.get(id_text(entry.get("category_id")))))
            elif entries[other] == entry:
                reason = "they repeat another annotation"
            else:
                raise ConfigError(
                    f"{annotations}: its annotations {other + 1} and {place + 1} both have the id {entry['id']} and the image "
                    f"{image['file_name']!r}; give each an id of its own"
                )
        if reason is not None:
            left_out.add(reason, _place(entry, place))
    if not objects:
        raise ConfigError(f"{annotations} has no annotations{left_out}")
    left_out.warn(f"annotations of {annotations} are left out")
    return objects


def _unusable(entry: Any, images: Mapping[str, dict[str, Any]], shared: set[str]) -> str | None:
    """Return why an annotation cannot be used; None if it can."""
    if not isinstance(entry, dict) or entry.get("id") is None or entry.get("image_id") is None:
        return "they lack an id or an image_id"
    if entry.get("iscrowd") not in _NO_CROWD:
        return "crowds"
    if id_text(entry["image_id"]) in shared:
        return "their image id belongs to two images"
    if id_text(entry["image_id"]) not in images:
        return "no image with a file_name has their image_id"
    return None


def _place(entry: Any, place: int) -> str:
    number = entry.get("id") if isinstance(entry, dict) else None
    return f"number {place + 1}" + (f" (id {str(number)[:40]})" if number is not None else "")


def _images(entries: Iterable[Any]) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """Return the images by ``id_text`` of their id, with slashes in their names, and the ids of several images."""
    images: dict[str, dict[str, Any]] = {}
    shared = set()
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("id") is None or entry.get("file_name") in (None, ""):
            continue
        image = entry | {"file_name": str(entry["file_name"]).replace("\\", "/").removeprefix("./")}
        other = images.setdefault(id_text(entry["id"]), image)
        if other["file_name"] != image["file_name"]:
            shared.add(id_text(entry["id"]))
    return images, shared


def _names(categories: Iterable[Any]) -> dict[str, str]:
    named = [one for one in categories if isinstance(one, dict) and one.get("name") not in (None, "")]
    return {id_text(one.get("id")): str(one["name"]) for one in named}


def id_text(number: Any) -> str:
    """Return a text that is equal for an id as 1, 1.0 and "1", which tools mix."""
    return str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)


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
    kept: list[tuple[CocoObject, tuple[float, ...]]] = []
    left_out = LeftOut()
    for entry in objects:
        try:
            kept.append((entry, coco_box(entry.annotation)))
        except ValueError as error:
            left_out.add(str(error), entry.item_id)
    if not kept:
        raise ConfigError(f"no annotation of {annotations} has a box{left_out}")
    left_out.warn(f"annotations of {annotations} are left out")
    images = find_images({str(entry.image["file_name"]): None for entry, _ in kept}, folder, files)
    rows: list[dict[str, Any]] = [
        {"item_id": entry.item_id, "image_uri": images[str(entry.image["file_name"])]}
        | dict(zip(CORNERS, box, strict=True))
        | {"category": entry.category, "coco_file": annotations, "coco_id": id_text(entry.annotation["id"])}
        for entry, box in kept
    ]
    return pa.Table.from_pylist(rows), [entry for entry, _ in kept]


def coco_box(annotation: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Return x0, y0, x1, y1 of an annotation's bbox, or else of its polygons or run lengths.

    Raises:
        ValueError: It has none of them, or run lengths of more than ``MAX_PIXELS``.
    """
    with suppress(KeyError, TypeError, ValueError, OverflowError):
        x, y, width, height = (float(value) for value in annotation["bbox"])
        if all(map(math.isfinite, (x, y, width, height))) and min(width, height) > 0:
            return x, y, x + width, y + height
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict) and (size := rle_size(segmentation)) is not None:
        check_size(size)
        with suppress(ValueError):
            if (bounds := bounds_of(size, segmentation.get("counts"))) is not None:
                x0, y0, x1, y1 = map(float, bounds)
                return x0, y0, x1, y1
    with suppress(ValueError):
        corners = np.concatenate([np.array(polygon, np.float64).reshape(-1, 2) for polygon in coco_polygons(segmentation)])
        (x0, y0), (x1, y1) = corners.min(0).tolist(), corners.max(0).tolist()
        if x1 > x0 and y1 > y0:
            return x0, y0, x1, y1
    raise ValueError("they have neither a bbox nor a polygon or run lengths")


def rle_size(segmentation: Any) -> Size | None:
    """Return the size that run lengths claim; None for others."""
    try:
        height, width = (int(side) for side in segmentation["size"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return Size(height, width)


def check_size(size: Size) -> None:
    """Check that an image of this size can be processed, before memory is taken for it.

    Raises:
        ValueError: It can't.
    """
    if min(size) < 1 or size.height * size.width > MAX_PIXELS:
        raise ValueError(f"the image has {size.width} x {size.height} pixels; allowed are 1 to {MAX_PIXELS}")


def coco_polygons(segmentation: Any) -> list[list[float]]:
    """Return the polygons of a segmentation that have three corners or more, all of finite numbers.

    Raises:
        ValueError: There are none.
    """
    if isinstance(segmentation, list) and segmentation and not isinstance(segmentation[0], list):
        segmentation = [segmentation]  # some tools write a single polygon without its list
    polygons = list(map(_finite, segmentation)) if isinstance(segmentation, list) else []
    polygons = [one for one in polygons if len(one) >= 6 and len(one) % 2 == 0]
    if not polygons:
        raise ValueError("it has no polygon of three corners or more")
    return polygons


def _finite(polygon: Any) -> list[float]:
    """Return the numbers of a polygon; none, if one is not finite."""
    try:
        numbers = [float(value) for value in polygon]
    except (TypeError, ValueError, OverflowError):
        return []
    return numbers if all(map(math.isfinite, numbers)) else []
