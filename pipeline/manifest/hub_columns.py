"""Find the columns that Hugging Face data sets keep in their folders, file names and metadata: ``split`` and ``category``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage.uris import printable

SPLIT, CATEGORY = "split", "category"
"""Columns with a meaning for ``matteline dataset``."""

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Names of splits in folders and file names, and what ``datasets`` calls them."""

_PREFIX = re.compile(rf"({'|'.join(sorted(_SPLITS, key=len, reverse=True))})(?![a-z0-9])", re.IGNORECASE)

MAX_CLASSES, MAX_CHARS = 10_000, 1000
"""Names of a ``ClassLabel``, and characters of a name, at most."""

MAX_CATEGORIES = 10_000
"""Folders of classes, at most."""


def split_of(path: str) -> str | None:
    """Return the split that a path below the manifest's folder names: by a folder, or else by the begin of the file's name.

    >>> split_of("data/train-00000-of-00002.parquet"), split_of("val/metadata.csv"), split_of("trainers.csv")
    ('train', 'validation', None)
    """
    *folders, file = path.split("/")
    named = next((_SPLITS[folder.lower()] for folder in folders if folder.lower() in _SPLITS), None)
    begin = _PREFIX.match(file)
    return named or (_SPLITS[begin[1].lower()] if begin else None)


def splits_of(paths: Sequence[str]) -> list[str] | None:
    """Return the splits of the files of a manifest; None unless all have one. A file that was given itself has none."""
    if len(paths) == 1 and "/" not in paths[0]:
        return None
    found = [split_of(path) for path in paths]
    splits = [one for one in found if one is not None]
    return splits if len(splits) == len(found) else None


def folders_of(path: str) -> tuple[str | None, str | None]:
    """Return split and class of an image by its folders, ``<split>/<class>/<file>``: None for what there is not.

    >>> folders_of("train/cat/1.jpg"), folders_of("data/test/2.jpg"), folders_of("shelf/cat/1.jpg")
    (('train', 'cat'), ('test', None), (None, None))
    """
    folders = path.split("/")[:-1]
    place = next((number for number, folder in enumerate(folders) if folder.lower() in _SPLITS), None)
    if place is None:
        return None, None
    below = folders[place + 1 :]
    return _SPLITS[folders[place].lower()], below[0] if len(below) == 1 else None


class FolderColumns:
    """Finds out, path by path, which columns the folders of images have: those that are there for every image."""

    def __init__(self) -> None:
        self._has_split = self._has_class = True
        self._classes: set[str] = set()

    def add(self, path: str) -> None:
        """Look at one path."""
        if not self._has_split:
            return
        split, category = folders_of(path)
        self._has_split = split is not None
        self._has_class = self._has_class and category is not None
        if self._has_class and len(self._classes) <= MAX_CATEGORIES:
            self._classes.add(str(category))

    @property
    def schema(self) -> pa.Schema:
        """The columns, as text."""
        has_class = self._has_class and 1 < len(self._classes) <= MAX_CATEGORIES
        names = [SPLIT, *([CATEGORY] if has_class else [])] if self._has_split else []
        return pa.schema([(name, pa.string()) for name in names])


def with_folder_columns(table: pa.Table, paths: Iterable[str], columns: pa.Schema) -> pa.Table:
    """Add the columns of ``FolderColumns`` to the images at these paths."""
    if not columns.names:
        return table
    found = dict(zip((SPLIT, CATEGORY), zip(*map(folders_of, paths), strict=True), strict=True))
    for name in columns.names:
        table = table.append_column(name, pa.array(found[name], pa.string()))
    return table


def class_names(metadata: Any) -> dict[str, tuple[str, ...]]:
    """Return the names of the classes by column, from the metadata that ``datasets`` writes into a Parquet file's schema.

    Columns of other types are left out, and so is what is damaged.
    """
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        found = {
            str(column): tuple(feature["names"])
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list)
        }
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}
    return {column: names for column, names in found.items() if 0 < len(names) <= MAX_CLASSES and all(map(_is_usable, names))}


def _is_usable(name: Any) -> bool:
    return isinstance(name, str) and len(name) <= MAX_CHARS and printable(name) == name


def named_classes(numbers: pa.ChunkedArray, names: Sequence[str]) -> pa.ChunkedArray:
    """Return the names of numbers, null for those without one, such as -1."""
    places = numbers.cast(pa.int64(), safe=False)
    inside = pc.and_(pc.greater_equal(places, 0), pc.less(places, len(names)))
    return pc.take(pa.array(names, pa.string()), pc.if_else(inside, places, pa.scalar(None, pa.int64())))
