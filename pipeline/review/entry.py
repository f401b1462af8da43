"""One item of a page with its pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from pipeline.errors import ItemError
from pipeline.imaging.views import Picture, Views
from pipeline.review.entries import MAX_CHARS

T = TypeVar("T")


class Missing(NamedTuple):
    """A picture that should be there and cannot be shown: photo, mask, cutout or the name of a rendition; and why."""

    kind: str
    reason: str


class Shown(NamedTuple):
    """A rendition. ``picture`` is None if there is no picture of it: a JSON file, or one that is missing."""

    name: str
    path: str | None
    note: str
    picture: Picture | None


class Played(NamedTuple):
    """A video that the page plays: its media type, bytes and size."""

    kind: str
    data: bytes
    width: int
    height: int


@dataclass
class Entry:
    """One item with its pictures."""

    row: dict[str, Any]
    views: Views | None = None
    renditions: list[Shown] = field(default_factory=list)
    played: Played | None = None
    missing: list[Missing] = field(default_factory=list)


def read_picture(entry: Entry, kind: str, read: Callable[[], T]) -> T | None:
    """Return what ``read`` returns, or record that this kind of picture is missing."""
    try:
        return read()
    except ItemError as error:
        entry.missing.append(Missing(kind, str(error)[:MAX_CHARS]))
        return None
