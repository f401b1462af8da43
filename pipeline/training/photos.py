"""Read the photos and the ground truth that a manifest names, local or on S3."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.columns import Columns
from pipeline.errors import ConfigError
from pipeline.log import log
from pipeline.manifest.ground_truth import check_truth, truth_of
from pipeline.manifest.items import USUAL
from pipeline.manifest.manifest import Manifest, open_manifest, read
from pipeline.schema import carried_name
from pipeline.storage.files import Files
from pipeline.training.samples import Item, Photos, id_hash, is_held_out


def read_photos(uri: str, truth: str, files: Files, held_out_of: int, columns: Columns = USUAL) -> tuple[Photos, Photos]:
    """Return the photos to train on, and those held out for validation (one in ``held_out_of``, by id, and at least one).

    All items of a photo are either in the one or in the other: those with the same value in the column ``group``, or without
    one, with the same image. ``uri`` is the manifest, ``truth`` its column of ground truth, ``columns`` those with other names
    than the usual ones.

    Raises:
        ConfigError: There is no such column, or fewer than two photos can be used.
        StorageError: The manifest cannot be read.
    """
    manifest = open_manifest(uri, files, chosen=columns)
    check_truth(manifest, truth)
    groups: dict[str, list[Item]] = {}
    for fragment in manifest.fragments:
        for rows in read(manifest, fragment, files):
            for group, item in _usable_items(rows, manifest, truth):
                groups.setdefault(group, []).append(item)
    if len(groups) < 2:
        raise ConfigError(
            f"{uri} has {len(groups)} usable {'photo' if len(groups) == 1 else 'photos'}, and training needs at least two, "
            "one of them for validation: add photos with ground truth, or correct what the warnings name"
        )
    training, held_out = _split(groups, held_out_of)
    return Photos(training, files), Photos(held_out, files)


def _split(groups: dict[str, list[Item]], held_out_of: int) -> tuple[list[Item], list[Item]]:
    """Return the items to train on and those held out, by id each. Of few photos, hashes may hold out none, or all.

    ``groups`` are the items of each photo. The lowest id of a photo decides.
    """
    photos = [sorted(items, key=lambda one: one.item_id) for items in groups.values()]
    held_out = [items for items in photos if is_held_out(items[0].item_id, held_out_of)]
    if not held_out or len(held_out) == len(photos):
        held_out = [min(photos, key=lambda items: id_hash(items[0].item_id))]
    ids = {item.item_id for items in held_out for item in items}
    ordered = sorted((item for items in photos for item in items), key=lambda one: one.item_id)
    return [item for item in ordered if item.item_id not in ids], [item for item in ordered if item.item_id in ids]


def _usable_items(rows: pa.Table, manifest: Manifest, truth: str) -> Iterator[tuple[str, Item]]:
    """Yield the items with an image and ground truth, each with its group: that of the manifest, or else its image."""
    truth_uris, reasons = truth_of(rows, manifest, truth)
    name = carried_name("group")
    groups = rows[name].cast(pa.string()) if name in rows.column_names else pa.nulls(rows.num_rows, pa.string())
    named = pc.coalesce(groups, rows["image_uri"]).to_pylist()
    names = ("item_id", "image_uri", "error_detail", "box")
    found = zip(*(rows[name].to_pylist() for name in names), truth_uris.to_pylist(), reasons, named, strict=True)
    for item_id, image, error, box, truth_uri, reason, group in found:
        if error or reason or not truth_uri:
            log.warning(f"skipped: {item_id}: {error or reason or f'it has no {truth}'}")
        else:
            yield group, Item(item_id, image, truth_uri, boxed=box is not None)
