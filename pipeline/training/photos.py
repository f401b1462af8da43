"""Read the photos and the ground truth that a manifest names, local or on S3."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.columns import Columns
from pipeline.errors import ConfigError
from pipeline.log import log
from pipeline.manifest.items import USUAL, resolve_all
from pipeline.manifest.manifest import Manifest, open_manifest, read
from pipeline.schema import carried_name
from pipeline.storage.files import Files
from pipeline.training.samples import Item, Photos, id_hash, is_held_out


def read_photos(uri: str, truth: str, files: Files, held_out_of: int, columns: Columns = USUAL) -> tuple[Photos, Photos]:
    """Return the photos to train on, and those held out for validation (one in ``held_out_of``, by id, and at least one).

    ``uri`` is the manifest, ``truth`` its column of ground truth, ``columns`` those with other names than the usual ones.

    Raises:
        ConfigError: There is no such column, or fewer than two rows can be used.
        StorageError: The manifest cannot be read.
    """
    manifest = open_manifest(uri, files, chosen=columns)
    column = carried_name(truth)
    if column not in manifest.carried.names:
        listed = ", ".join(manifest.carried.names[:8]) or "none besides those of every manifest"
        raise ConfigError(f"the manifest has no column {truth!r}; --truth names one of its further columns: {listed}")
    usable = [
        item
        for fragment in manifest.fragments
        for rows in read(manifest, fragment, files)
        for item in _usable_items(rows, manifest, column)
    ]
    if len(usable) < 2:
        raise ConfigError(
            f"{uri} has {len(usable)} usable {'item' if len(usable) == 1 else 'items'}, and training needs at least two, "
            "one of them for validation: add items with an image and a ground truth"
        )
    training, held_out = _split(usable, held_out_of)
    return Photos(training, files), Photos(held_out, files)


def _split(items: list[Item], held_out_of: int) -> tuple[list[Item], list[Item]]:
    """Return the items to train on and those held out, by id each. Of few items, hashes may hold out none, or all."""
    ordered = sorted(items, key=lambda one: one.item_id)
    held_out = [item for item in ordered if is_held_out(item.item_id, held_out_of)]
    if not held_out or len(held_out) == len(ordered):
        held_out = [min(ordered, key=lambda one: id_hash(one.item_id))]
    ids = {item.item_id for item in held_out}
    return [item for item in ordered if item.item_id not in ids], held_out


def _usable_items(rows: pa.Table, manifest: Manifest, column: str) -> list[Item]:
    truth = pc.fill_null(rows[column].cast(pa.string()), "").combine_chunks()
    truth_uris, _ = resolve_all(truth, manifest.base)
    outside_roots = manifest.allowlist.outside(truth_uris)
    usable = []
    names = ("item_id", "image_uri", "error_code")
    for item_id, image, error, truth_uri, outside in zip(
        *(rows[name].to_pylist() for name in names), truth_uris.to_pylist(), outside_roots, strict=True
    ):
        if error or outside or not truth_uri:
            log.warning(f"skipped: {item_id} has no usable image and ground truth")
        else:
            usable.append(Item(item_id, image, truth_uri))
    return usable
