"""Build manifests with ground-truth masks from COCO annotations."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from pipeline.config.job import Limits
from pipeline.errors import ItemError
from pipeline.imaging.decode import decode
from pipeline.imaging.png import encode_mask
from pipeline.imaging.polygons import decode_polygons
from pipeline.imaging.rle import decode_counts
from pipeline.manifest.coco import CocoObject, LeftOut, check_size, coco_objects, coco_polygons, coco_table, rle_size
from pipeline.storage import uris
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files
from pipeline.storage.object_names import FileNames
from pipeline.types import Mask, Size

THREADS = 8


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

    photos, allowlist = table["image_uri"].to_pylist(), AllowList((folder,))

    def write(entry: CocoObject, photo: str, uri: str) -> str | None:
        """Write a mask. Returns the reason if there is none."""
        try:
            mask = coco_mask(entry, lambda: _size_of(photo, allowlist, files))
        except ValueError as error:
            return str(error)
        files.write(uri, encode_mask(mask * 255))
        return None

    with ThreadPoolExecutor(THREADS) as pool:
        reasons = list(pool.map(write, objects, photos, targets))
    without = LeftOut()
    for entry, reason in zip(objects, reasons, strict=True):
        if reason is not None:
            without.add(reason, entry.item_id)
    without.warn(f"annotations of {annotations} have no ground truth")
    truths = [uri if reason is None else None for uri, reason in zip(targets, reasons, strict=True)]
    return table.append_column("truth_uri", pa.array(truths, pa.string()))


def _size_of(photo: str, allowlist: AllowList, files: Files) -> Size:
    """Return the size of a photo below the folder. Annotations can name any location.

    Raises:
        ValueError: It is elsewhere, or cannot be read.
    """
    if not allowlist.allows(photo):
        raise ValueError("the file has no height and width of its image, and the photo is not below the folder of photos")
    try:
        return Size(*decode(files.read(allowlist.real_path(photo), max_bytes=Limits().max_bytes), Limits()).shape[:2])
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
        if rle_size(segmentation) != size:
            raise ValueError("its run lengths have another size than its image")
        return decode_counts(size, segmentation.get("counts"))
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("it has no segmentation")
    return decode_polygons(size, coco_polygons(segmentation))
