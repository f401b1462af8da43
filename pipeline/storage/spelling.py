"""Find the file that is meant by a path that does not exist.

People and their tools write names in other ways than the disk has them: with Windows separators, as in a web address
(``%20``, ``+``), as in HTML (``&amp;``), in quotes, in another case, in another normal form of Unicode, below a drive.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from html import unescape
from urllib.parse import unquote

from pipeline.storage.object_names import collision_key

MAX_NAMES = 20_000
"""Names of one folder that are compared, at most."""

MAX_PARTS = 30
"""Folders in a path that is searched for, at most."""

Names = Callable[[str], Mapping[str, str]]
"""Returns the names in a folder by what ``fold`` makes of them; empty if there is no such folder."""

_DRIVE = re.compile(r"[A-Za-z]:")


def other_spelling(folder: str, path: str, names: Names) -> str | None:
    """Return an existing path below a folder that ``path`` may mean; None if there is none.

    Args:
        folder: A folder or bucket that exists.
        path: The path below it.
        names: Lists a folder.
    """
    parts = [part for part in path.split("/") if part]
    while len(parts) > 1 and names(f"{folder}/{parts[0]}"):  # it is there as it is written
        folder, parts = f"{folder}/{parts[0]}", parts[1:]
    meant = [part for part in _plain("/".join(parts)).split("/") if part][:MAX_PARTS]
    has_drive = bool(meant) and bool(_DRIVE.fullmatch(meant[0].strip("\"' ")))
    found = (_walk(folder, meant[start:], names) for start in (range(1, len(meant)) if has_drive else range(1)))
    return next((one for one in found if one is not None and one != f"{folder}/{'/'.join(parts)}"), None)


def by_fold(names: Iterable[str]) -> dict[str, str]:
    """Return names by what ``fold`` makes of them. Of several with the same result, the first one counts."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(fold(name), name)
    return found


def fold(name: str) -> str:
    """Return what all spellings of a name have in common."""
    return collision_key(" ".join(_plain(name).strip("\"' ").replace("+", " ").split()))


def _plain(text: str) -> str:
    """Return a path without escapes, with slashes."""
    for _ in range(2):  # an escape may be escaped
        text = unquote(unescape(text))
    return text.replace("\\", "/")


def _walk(folder: str, parts: list[str], names: Names) -> str | None:
    for part in parts:
        name = names(folder).get(fold(part))
        if name is None:
            return None
        folder = f"{folder}/{name}"
    return folder if parts else None
