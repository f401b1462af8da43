"""What every kind of storage can do: local disks, S3, other object stores, the web.

Places speak the language of their library and raise its exceptions; ``Files`` is the door that turns both into ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from pipeline.errors import FetchError
from pipeline.storage.uris import shown


class FileInfo(NamedTuple):
    """A file or object as its storage describes it."""

    uri: str
    size: int
    """In bytes."""
    etag: str
    """Changes whenever the content does: the storage's own mark, else size and time; empty where it tells neither."""
    modified: float
    """Seconds since 1970, UTC; 0 where unknown."""


class Content(NamedTuple):
    """What was read, and which version of the object it is."""

    data: bytes
    etag: str
    """As in ``FileInfo``."""


class StorageBackend(Protocol):
    """One kind of storage. ``timeout_s`` bounds one attempt; folders and prefixes are given without a trailing slash."""

    def read(self, uri: str, max_bytes: int | None, timeout_s: float) -> Content: ...

    def stat(self, uri: str, timeout_s: float) -> FileInfo: ...

    def is_folder(self, uri: str, timeout_s: float) -> bool: ...

    def write(self, uri: str, data: bytes, timeout_s: float) -> None: ...

    def create(self, uri: str, data: bytes, timeout_s: float) -> bool: ...

    def delete(self, uri: str, timeout_s: float) -> None: ...

    def walk(self, uri: str, timeout_s: float, *, hidden: bool = False) -> Iterator[FileInfo]: ...

    def folders(self, uri: str, timeout_s: float) -> tuple[str, ...]: ...

    def glob(self, uri: str, timeout_s: float) -> tuple[str, ...]: ...

    def open(self, uri: str, sequential: bool) -> Any: ...

    def check_folder(self, uri: str, timeout_s: float) -> None: ...


def check_size(uri: str, size: int, max_bytes: int | None) -> None:
    """Refuse an object above the limit.

    Raises:
        FetchError: it is larger.
    """
    if max_bytes is not None and size > max_bytes:
        raise FetchError(f"{shown(uri)}: it has {size} bytes or more; limits.max_bytes is {max_bytes}")


def is_hidden(path: str) -> bool:
    """A part of this relative path begins with a dot: ours while it is written, or the system's."""
    return path.startswith(".") or "/." in path
