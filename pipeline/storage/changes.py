"""Which items' sources are others than when their rows were made: asked for with ``--changed``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ItemError, StorageError
from pipeline.storage.digests import Digests, contains, digest, gather
from pipeline.storage.files import Files
from pipeline.storage.index import read_index
from pipeline.storage.layout import Layout
from pipeline.storage.manifest import Manifest, read
from pipeline.storage.uris import unsigned

COLUMNS = ["item_id", "image_uri", "box", "image_sha256", "image_version", "error_code"]
AT_ONCE = 32
"""Images that are asked about at the same time."""


def changed(manifest: Manifest, layout: Layout, files: Files, max_bytes: int) -> Digests:
    """The sorted digests of the items in the index whose manifest row, or whose image, is another now.

    A row is compared by URI and box. An image is compared by its version (ETag, or size and time), one question an image;
    where that differs, or there is none, it is read and compared by its hash. What can't be read is left as it is, and so
    are items whose image was never had (``--retry fetch`` does those again).

    Raises:
        StorageError: the index can't be read.
    """
    pieces = []
    for fragment in manifest.fragments:
        pieces += [_requests(items) for items in read(manifest, fragment, files) if items.num_rows]
    asked = gather(pieces)
    found = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for rows in read_index(layout, files, COLUMNS):
            same = pa.array(contains(asked, _requests(rows)))
            found.append(digest(rows.filter(pc.invert(same))["item_id"]))
            kept = rows.filter(pc.and_(same, pc.is_valid(rows["image_sha256"])))
            is_other = pool.map(partial(_is_other, manifest, files, max_bytes), kept.to_pylist())
            found.append(digest(kept["item_id"])[np.fromiter(is_other, np.bool_, kept.num_rows)])
    return gather(found)


def _requests(rows: pa.Table) -> Digests:
    """A digest of each row's id, URI and box together."""

    def texts() -> Iterator[str]:
        for row in rows.select(["item_id", "image_uri", "box"]).to_pylist():
            uri = row["image_uri"] and unsigned(row["image_uri"])
            yield f"{row['item_id']}\0{uri}\0{row['box']}"

    return digest(pa.array(texts(), pa.string()))


def _is_other(manifest: Manifest, files: Files, max_bytes: int, row: dict[str, Any]) -> bool:
    version, sha256 = row["image_version"], row["image_sha256"]
    try:
        uri = manifest.roots.real_path(row["image_uri"])
        if version is not None and files.version(uri) == version:
            return False
        return bool(hashlib.sha256(files.read(uri, max_bytes=max_bytes)).hexdigest() != sha256)
    except (ItemError, StorageError):
        return False
