"""Name the files of a data set by their images."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.storage.members import Cell, parse_member
from pipeline.storage.object_names import collision_key, cut_name, object_name

_Keys = npt.NDArray[np.uint64]

_FILE_SUFFIX = re.compile(r"\.(?=(?:txt|tif|gif|bmp|avif|heic)/)", re.IGNORECASE)
"""Of folders. ``object_name`` escapes the dot of ``.png``, ``.jpg``, ``.webp`` and ``.json``."""


def image_path(uri: str, base: str | None) -> str:
    """Return an image's path below the manifest's folder; for an image elsewhere, with its bucket or host in front.

    The file of a picture in a tar archive or in a Parquet file counts as a folder, without its suffix.

    >>> image_path("/shop/photos/shelf/a.JPG", "/shop/photos")
    'shelf/a.JPG'
    >>> image_path("/shop/00000.tar#offset=0&size=99&name=a.jpg", "/shop")
    '00000/a.jpg'
    >>> image_path("/shop/train.parquet#row=17&column=image", "/shop")
    'train/17'
    """
    member = parse_member(uri)
    if member is not None:
        file = image_path(member.container, base)
        folder = file.removesuffix(PurePosixPath(file).suffix)
        name = str(member.row) if isinstance(member, Cell) else member.name
        return "/".join([folder, *(part for part in name.split("/") if part not in ("", ".", ".."))])
    inside = f"{base.rstrip('/')}/" if base is not None else ""
    if inside and uri.startswith(inside):
        return uri.removeprefix(inside).lstrip("/")
    return (uri.partition("://")[2] or uri).lstrip("/")


class Names:
    """Distinct names of files, without a suffix, for the paths of images. Holds 40 bytes per image.

    A name is the path without the suffix of the image. Images that differ in that suffix only keep it. Images that still have
    one name get a hash of their URI at its end. Names are safe (``storage.object_names``): they stay below their folder, and no
    file system confuses two of them.

    Args:
        paths: The paths of all images.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        exact, short, long = array("Q"), array("Q"), array("Q")
        for path in paths:
            exact.append(_hash(path))
            short.append(_key(_short(path)))
            long.append(_key(_safe(path)))
        self._same, self._shared_short, self._shared_long = _repeated(exact), _repeated(short), _repeated(long)
        self._short, self._long = _sorted(short), _sorted(long)

    def is_shared(self, path: str) -> bool:
        """Return whether several images have this path."""
        return _contains(self._same, _hash(path))

    def name(self, path: str, uri: str) -> str:
        """Return the name of one image's files.

        Raises:
            ConfigError: Another image has the name of which this one's hash would be a part.
        """
        short = _short(path)
        if not _contains(self._shared_short, _key(short)):
            return short
        name = _safe(path)
        if not _contains(self._shared_long, _key(name)) and not _contains(self._short, _key(name)):
            return name
        name = cut_name(name, uri)
        if _contains(self._long, _key(name)) or _contains(self._short, _key(name)):
            raise ConfigError(f"another image has the name {name[:200]!r}, which replaces that of {path[:200]!r}; rename one")
        return name


def _short(path: str) -> str:
    return _safe(os.path.splitext(path)[0])  # noqa: PTH122  a URI is no Path


def _safe(text: str) -> str:
    """Return the object name of a text. None of its folders has the suffix of a file of a data set."""
    return _FILE_SUFFIX.sub("%2E", object_name(text))


def _key(name: str) -> int:
    return _hash(collision_key(name))


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _repeated(keys: array[int]) -> _Keys:
    ordered = _sorted(keys)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def _sorted(keys: array[int]) -> _Keys:
    return np.sort(np.frombuffer(keys, np.uint64))


def _contains(ordered: _Keys, key: int) -> bool:
    at = int(np.searchsorted(ordered, np.uint64(key)))
    return at < len(ordered) and int(ordered[at]) == key
