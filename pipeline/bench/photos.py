"""The photos that are measured with, and as long a manifest of them as is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.manifest.manifest import open_manifest, read
from pipeline.storage.files import Files
from pipeline.storage.uris import parent


@dataclass(frozen=True)
class Photos:
    """Where they are; boxes of their manifest are left out: everything is measured on whole images."""

    uris: tuple[str, ...]
    allowlist: tuple[str, ...]
    """Folders and prefixes that hold them, for ``storage.allow_roots``."""


def find_photos(manifest: str, files: Files) -> Photos:
    """Every image of a manifest or folder once.

    Raises:
        ConfigError, StorageError: it can't be read, or is empty.
    """
    opened = open_manifest(manifest, files)
    rows = (uri for fragment in opened.fragments for table in read(opened, fragment, files) for uri in table["image_uri"])
    uris = tuple(dict.fromkeys(str(uri) for uri in rows if uri.is_valid))
    return Photos(uris, tuple(sorted({parent(uri) for uri in uris})))


def write_manifest(photos: Photos, items: int, path: Path) -> Path:
    """So many items over these photos, one after the other and again from the first."""
    ids = [f"item-{number:08}" for number in range(items)]
    pq.write_table(pa.table({"item_id": ids, "image_uri": list(islice(cycle(photos.uris), items))}), path)
    return path


def copy_photos(photos: Photos, count: int, folder: Path, files: Files) -> Path:
    """So many files in a folder of their own, under names of their own."""
    folder.mkdir()
    for number, uri in enumerate(islice(cycle(photos.uris), count)):
        (folder / f"photo-{number:05}{Path(uri).suffix}").write_bytes(files.read(uri))
    return folder
