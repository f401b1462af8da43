"""A manifest's photos and true masks: the same manifests as everywhere, local or on S3."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.job import Limits
from pipeline.errors import ConfigError
from pipeline.log import log
from pipeline.manifest.items import resolve_all
from pipeline.manifest.manifest import Manifest, open_manifest, read
from pipeline.schema import carried_name
from pipeline.storage.files import Files
from pipeline.training.samples import Item, Photos, held_out


def read_photos(uri: str, truth: str, files: Files, held_out_of: int) -> tuple[Photos, Photos]:
    """Photos to learn from, and those held out, by their ids.

    Args:
        truth: the column that names the true masks.

    Raises:
        ConfigError: no such column, or too few rows that can be used.
        StorageError: the manifest can't be read.
    """
    manifest = open_manifest(uri, files)
    column = carried_name(truth)
    if column not in manifest.carried.names:
        listed = ", ".join(manifest.carried.names[:8]) or "none besides those of every manifest"
        raise ConfigError(f"the manifest has no column {truth!r}; --truth names one of its further columns: {listed}")
    found = [
        item
        for fragment in manifest.fragments
        for rows in read(manifest, fragment, files)
        for item in _items(rows, manifest, column)
    ]
    parts: dict[bool, list[Item]] = {False: [], True: []}
    for item in sorted(found, key=lambda one: one.item_id):
        parts[held_out(item.item_id, held_out_of)].append(item)
    if not parts[False] or not parts[True]:
        raise ConfigError(
            f"{uri} has {len(parts[False])} items to learn from and {len(parts[True])} to measure on that name a photo and its "
            "true mask; there must be some of both: give more items, or a smaller held_out_of"
        )
    limits = Limits()
    return Photos(parts[False], files, limits), Photos(parts[True], files, limits)


def _items(rows: pa.Table, manifest: Manifest, column: str) -> list[Item]:
    written = pc.fill_null(rows[column].cast(pa.string()), "").combine_chunks()
    truths, _ = resolve_all(written, manifest.base)
    outside_roots = manifest.allowlist.outside(truths)
    usable = []
    named = zip(
        rows["item_id"].to_pylist(),
        rows["image_uri"].to_pylist(),
        rows["error_code"].to_pylist(),
        truths.to_pylist(),
        outside_roots,
        strict=True,
    )
    for item_id, image, error, truth, stray in named:
        if error or stray or not truth:
            log.warning(f"left out: {item_id} has no usable photo and true mask")
        else:
            usable.append(Item(item_id, image, truth))
    return usable
