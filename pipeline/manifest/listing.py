"""List a folder of images or tables, and say what is left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from pipeline.log import log
from pipeline.storage.files import Files
from pipeline.storage.uris import name, redact

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".heic", ".heif", ".avif"),
)
"""Suffixes of images in a folder, regardless of case."""

_SYSTEM_FILE = re.compile(
    r"(?:^|/)(?:@eaDir|@Recycle|#recycle|#snapshot|__MACOSX|\$RECYCLE\.BIN|System Volume Information|lost\+found)/"
    r"|(?:^|/)(?:Thumbs\.db|desktop\.ini)$"
)

_SUFFIX = re.compile(r"(?<=[^.])\.[A-Za-z0-9]{1,8}$")

MAX_SUFFIXES = 8
"""Most suffixes in one warning."""


def is_system_file(path: str) -> bool:
    """Return whether a NAS or an operating system has added this file: thumbnails, recycle bins, snapshots."""
    return bool(_SYSTEM_FILE.search(path))


def list_folder(folder: str, files: Files, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield the files below a folder or prefix whose names have one of these suffixes, regardless of case.

    At the end, warnings tell how many files with other suffixes were left out, and which folders were not listed.

    Raises:
        StorageError: The folder can't be listed.
    """
    others = Counter[str]()
    links: list[str] = []
    unreadable: list[str] = []

    def left_out(why: Literal["link", "unreadable"], path: str) -> None:
        (links if why == "link" else unreadable).append(path)

    for info in files.list(folder, left_out=left_out):
        if is_system_file(info.uri.removeprefix(folder)):
            continue
        if info.uri.lower().endswith(suffixes):
            yield info.uri
        else:
            found = _SUFFIX.search(name(info.uri))
            others[found[0].lower() if found else "no suffix"] += 1
    if others:
        counts = [f"{suffix}: {count}" for suffix, count in others.most_common(MAX_SUFFIXES)]
        counts += ["…"] if len(others) > MAX_SUFFIXES else []
        log.warning(f"{redact(folder)}: {others.total()} files are left out, by suffix {', '.join(counts)}")
    if links:
        log.warning(f"{_these(links)}: links to folders are not followed; give the folders that they lead to")
    if unreadable:
        log.warning(f"{_these(unreadable)}: no permission to list; the files in there are left out")


def _these(paths: list[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
