"""The interface of a storage backend: local disks, S3, other object stores.

A backend raises the exceptions of its library. ``Files`` maps them to the errors of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import pyarrow as pa

from pipeline.errors import FetchError
from pipeline.storage.uris import redact

LISTED = pa.schema([("path", pa.binary()), ("size", pa.int64()), ("modified", pa.float64())])
"""A listing: path below the listed folder (UTF-8, on local disks any bytes), size in bytes, time as in ``FileInfo``."""


class FileInfo(NamedTuple):
    """Metadata of a file or object."""

    uri: str
    size: int
    """Size in bytes."""
    etag: str
    """Version of the content: the ETag, else size and time. Empty where the storage has neither."""
    modified: float
    """Time of the last change, in seconds since 1970 UTC. 0 where unknown."""


class Content(NamedTuple):
    """The bytes of an object and their version."""

    data: bytes
    etag: str
    """Version of the content, as in ``FileInfo``."""


LeftOut = Callable[[Literal["link", "unreadable"], str], None]
"""Called with a folder that is not listed: a link to a folder, or a folder below the first one that may not be read."""


class StorageBackend(Protocol):
    """One kind of storage. ``timeout_s`` limits one attempt; folders and prefixes come without a trailing slash."""

    def read(self, uri: str, max_bytes: int | None, timeout_s: float) -> Content:
        """Read a complete object."""

    def read_range(self, uri: str, start: int, length: int, timeout_s: float) -> Content:
        """Read some bytes of an object; fewer if it ends before. The version is that of the object."""

    def stat(self, uri: str, timeout_s: float) -> FileInfo:
        """Return the metadata of an object."""

    def is_folder(self, uri: str, timeout_s: float) -> bool:
        """Check whether a folder, or an object below this prefix, exists."""

    def write(self, uri: str, data: bytes, timeout_s: float) -> None:
        """Write or replace an object atomically."""

    def upload(self, uri: str, path: Path, timeout_s: float) -> None:
        """Write or replace an object atomically by the content of a local file."""

    def create(self, uri: str, data: bytes, timeout_s: float) -> bool:
        """Write an object atomically unless it exists; return whether it was written."""

    def delete(self, uri: str, timeout_s: float) -> None:
        """Delete an object if it exists."""

    def walk(self, uri: str, timeout_s: float, *, left_out: LeftOut | None = None) -> Iterator[FileInfo]:
        """List all files below a folder or prefix without hidden ones.

        An unreadable folder is an error unless ``left_out`` is told of it.
        """

    def scan(self, uri: str, timeout_s: float, after: str = "") -> Iterator[pa.Table]:
        """List all files below a folder or prefix, hidden ones too, in tables with the schema ``LISTED`` and in any order.

        ``after`` is a path: the listing begins behind it, in the order of the store. Only ``S3Backend`` supports it.
        """

    def folders(self, uri: str, timeout_s: float) -> tuple[str, ...]:
        """List the folders or prefixes directly below this one."""

    def glob(self, uri: str, timeout_s: float) -> tuple[str, ...]:
        """List the files that match a pattern."""

    def open(self, uri: str, sequential: bool) -> Any:
        """Open an object as a pyarrow file."""

    def other_spelling(self, uri: str, timeout_s: float) -> str | None:
        """Return an existing file or folder that a path that does not exist may mean; None if none is found."""

    def check_folder(self, uri: str, timeout_s: float) -> None:
        """Check that objects can be written below this folder; create a local folder."""


def listed(rows: Sequence[tuple[bytes, int, float]]) -> pa.Table:
    """Return rows of path, size and time as a table with the schema ``LISTED``."""
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table([pa.array(values, kind) for values, kind in zip(columns, LISTED.types, strict=True)], schema=LISTED)


def check_size(uri: str, size: int, max_bytes: int | None) -> None:
    """Raise ``FetchError`` if an object is larger than the limit."""
    if max_bytes is not None and size > max_bytes:
        raise FetchError(f"{redact(uri)}: it has at least {size} bytes; limits.max_bytes is {max_bytes}")


def is_hidden(path: str) -> bool:
    """Check whether a component of this relative path begins with a dot, as temporary files and system files do."""
    return path.startswith(".") or "/." in path
