"""The images to measure with, and manifests of any length over them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.manifest.manifest import open_manifest, read
from pipeline.storage.files import Files
from pipeline.storage.uris import parent
from pipeline.types import Pixels


@dataclass(frozen=True)
class Photos:
    """Image URIs without boxes: everything is measured on complete images."""

    uris: tuple[str, ...]
    allowlist: tuple[str, ...]
    """Folders and prefixes that hold the images, for ``storage.allow_roots``."""


def find_photos(manifest: str, files: Files) -> Photos:
    """List every image of a manifest or folder once.

    Raises:
        ConfigError, StorageError: The manifest is unreadable or empty.
    """
    opened = open_manifest(manifest, files)
    rows = (uri for fragment in opened.fragments for table in read(opened, fragment, files) for uri in table["image_uri"])
    uris = tuple(dict.fromkeys(str(uri) for uri in rows if uri.is_valid))
    return Photos(uris, tuple(sorted({parent(uri) for uri in uris})))


def write_manifest(photos: Photos, items: int, path: Path) -> Path:
    """Write a manifest of ``items`` rows that cycles through the photos."""
    ids = [f"item-{number:08}" for number in range(items)]
    pq.write_table(pa.table({"item_id": ids, "image_uri": list(islice(cycle(photos.uris), items))}), path)
    return path


def copy_photos(photos: Photos, count: int, folder: Path, files: Files) -> Path:
    """Copy ``count`` photos, cycling through them, into a new folder under unique names."""
    folder.mkdir()
    for number, uri in enumerate(islice(cycle(photos.uris), count)):
        (folder / f"photo-{number:05}{Path(uri).suffix}").write_bytes(files.read(uri))
    return folder


def noise(count: int, height: int, width: int) -> Pixels:
    """Return random images, (count, height, width, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)
