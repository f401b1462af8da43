"""List a folder of images or tables, and say what is left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from pipeline.errors import StorageError
from pipeline.log import log
from pipeline.manifest.snapshot import Snapshot, only_ready
from pipeline.manifest.videos import VIDEO_SUFFIXES, folder_suffixes
from pipeline.storage.backend import FileInfo
from pipeline.storage.files import Files
from pipeline.storage.uris import name, redact, scheme

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".heic", ".heif", ".avif"),
)
"""Suffixes of images in a folder, regardless of case."""

_SYSTEM_FILE = re.compile(
    r"(?:^|/)(?:@eaDir|@tmp|@sharebin|@sharesnap|@SynoResource|@Recycle|@Recently-Snapshot|#recycle|#snapshot|__MACOSX"
    r"|\$RECYCLE\.BIN|System Volume Information|lost\+found|[^/]*\.lrdata)/"
    r"|(?:^|/)(?:Thumbs\.db|desktop\.ini)$",
    re.IGNORECASE,
)

_SUFFIX = re.compile(r"(?<=[^.])\.[A-Za-z0-9]{1,8}$")

_WILDCARD = r"[*?\[]"

MAX_SUFFIXES = 8
"""Most suffixes in one warning."""


def is_system_file(path: str) -> bool:
    """Return whether a NAS, an operating system or Lightroom has added this file: thumbnails, recycle bins, snapshots."""
    return bool(_SYSTEM_FILE.search(path))


def list_folder(folder: str, files: Files, suffixes: tuple[str, ...], ready: Snapshot | None = None) -> Iterator[str]:
    """Yield the files below a folder or prefix whose names have one of these suffixes, regardless of case.

    With ``ready``, only the files in that snapshot. At the end, warnings tell how many files with other suffixes were left
    out, and which folders were not listed.

    Raises:
        StorageError: The folder can't be listed.
    """
    others = Counter[str]()
    links: list[str] = []
    unreadable: list[str] = []

    def left_out(why: Literal["link", "unreadable"], path: str) -> None:
        (links if why == "link" else unreadable).append(path)

    for info in only_ready(files.list(folder, left_out=left_out), ready):
        if is_system_file(info.uri.removeprefix(folder)):
            continue
        if info.uri.lower().endswith(suffixes):
            yield info.uri
        else:
            found = _SUFFIX.search(name(info.uri))
            others[found[0].lower() if found else "no suffix"] += 1
    if others:
        counts = [f"{suffix}: {count}" for suffix, count in others.most_common(MAX_SUFFIXES)]
        lacks_extra = not folder_suffixes() and not others.keys().isdisjoint(VIDEO_SUFFIXES)
        hint = "; for videos: pip install 'matteline[video]'" if lacks_extra else ""
        counts += ["…"] if len(others) > MAX_SUFFIXES else []
        left = "1 file is" if others.total() == 1 else f"{others.total()} files are"
        log.warning(f"{redact(folder)}: {left} left out, by suffix {', '.join(counts)}{hint}")
    if links:
        log.warning(f"{_these(links)}: links to folders are not followed; give the folders that they lead to")
    if unreadable:
        log.warning(f"{_these(unreadable)}: no permission to list; the files in there are left out")


def list_sources(uri: str, files: Files) -> Iterator[FileInfo]:
    """Yield the files that a manifest is made of: its file, those of its pattern, or all in its folder but system files.

    Raises:
        StorageError: It is missing, or cannot be listed. A prefix of a bucket may be empty.
    """
    if is_pattern(uri, files):
        yield from map(files.stat, files.glob(split_pattern(uri, files)[1]))
    elif files.exists(uri):
        yield files.stat(uri)
    elif not scheme(uri) and not files.is_folder(uri):
        raise StorageError(f"{uri} does not exist")  # a listing would be empty, also if a disk is no longer mounted
    else:
        listed = files.list(uri, left_out=lambda _why, _path: None)
        yield from (info for info in listed if not is_system_file(info.uri.removeprefix(uri)))


def is_pattern(uri: str, files: Files) -> bool:
    """Return whether an absolute path or URI is a pattern, and not a name with a bracket in it.

    Raises:
        StorageError: The storage is inaccessible.
    """
    if not re.search(_WILDCARD, uri) or files.exists(uri) or files.is_folder(uri):
        return False
    return bool(re.search(_WILDCARD, uri.removeprefix(split_pattern(uri, files)[0])))


def split_pattern(uri: str, files: Files) -> tuple[str, str]:
    """Return the folder before the first wildcard, and the pattern, in which names of folders with a bracket are escaped.

    Raises:
        StorageError: The storage is inaccessible.
    """
    parts = uri.split("/")
    known = 0
    for number, part in enumerate(parts[:-1], 1):
        if re.search(_WILDCARD, part) and not files.is_folder("/".join(parts[:number])):
            break
        known = number
    folder = "/".join(parts[:known])
    return folder or "/", "/".join([re.sub(_WILDCARD, r"[\g<0>]", folder), *parts[known:]])


def _these(paths: list[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
