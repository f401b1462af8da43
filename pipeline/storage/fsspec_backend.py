"""Object stores through fsspec: Google Cloud Storage, Azure, memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
from fsspec.utils import glob_translate

from pipeline.storage.backend import Content, FileInfo, LeftOut, check_size, is_hidden, listed
from pipeline.storage.errors import NamesServer
from pipeline.storage.uris import scheme

SEQUENTIAL_BLOCK = 8 * 1024 * 1024
"""Bytes per request while a file is read sequentially."""


class FsspecBackend:
    """Any fsspec filesystem. Objects are written by one upload, so they appear atomically."""

    def __init__(self, fs: Any) -> None:
        self.fs = fs

    def read(self, uri: str, max_bytes: int | None, timeout_s: float) -> Content:
        """Read a complete object."""
        info = self.stat(uri, timeout_s)
        check_size(uri, info.size, max_bytes)
        return Content(bytes(self.fs.cat_file(uri)), info.etag)

    def read_range(self, uri: str, start: int, length: int, timeout_s: float) -> Content:
        """Read some bytes of an object."""
        info = self.stat(uri, timeout_s)
        end = min(start + length, info.size)
        return Content(bytes(self.fs.cat_file(uri, start=start, end=end)) if start < end else b"", info.etag)

    def stat(self, uri: str, timeout_s: float) -> FileInfo:
        """Return the metadata of an object."""
        info = self.fs.info(uri)
        if info["type"] != "file":
            raise FileNotFoundError(uri)
        return file_info(uri, info)

    def is_folder(self, uri: str, timeout_s: float) -> bool:
        """Check whether a folder or prefix exists."""
        return bool(self.fs.isdir(uri))

    def write(self, uri: str, data: bytes, timeout_s: float) -> None:
        """Write or replace an object."""
        self.fs.pipe_file(uri, data)

    def upload(self, uri: str, path: Path, timeout_s: float) -> None:
        """Write or replace an object by the content of a local file."""
        self.fs.put_file(str(path), uri)

    def create(self, uri: str, data: bytes, timeout_s: float) -> bool:
        """Write an object unless it exists."""
        try:
            self.fs.pipe_file(uri, data, mode="create")
        except FileExistsError:
            return False
        return True

    def delete(self, uri: str, timeout_s: float) -> None:
        """Delete an object if it exists."""
        if self.fs.exists(uri):
            self.fs.rm_file(uri)

    def walk(self, uri: str, timeout_s: float, *, left_out: LeftOut | None = None) -> Iterator[FileInfo]:
        """List all objects below a prefix, sorted by name."""
        for path, info in sorted(self.fs.find(uri, detail=True).items()):
            full = f"{scheme(uri)}://{path.lstrip('/')}"
            if not is_hidden(full[len(uri) :].lstrip("/")):
                yield file_info(full, info)

    def scan(self, uri: str, timeout_s: float, after: str = "") -> Iterator[pa.Table]:
        """List all objects below a prefix. fsspec holds them all in memory."""
        files = [file_info(path.lstrip("/"), info) for path, info in self.fs.find(uri, detail=True).items()]
        skip = len(uri.partition("://")[2].strip("/")) + 1
        yield listed([(file.uri[skip:].encode(), file.size, file.modified) for file in files])

    def folders(self, uri: str, timeout_s: float) -> tuple[str, ...]:
        """List the prefixes directly below this one."""
        entries = self.fs.ls(uri, detail=True)
        names = (entry["name"].strip("/") for entry in entries if entry["type"] == "directory")
        return tuple(sorted(f"{scheme(uri)}://{path}" for path in names))

    def glob(self, uri: str, timeout_s: float) -> tuple[str, ...]:
        """Match a pattern against one recursive listing of the folder before the first wildcard."""
        plain = re.match(r"(?:\[[*?\[]\]|[^*?\[])*", uri)  # and wildcards that are escaped
        fixed = re.sub(r"\[([*?\[])\]", r"\1", plain[0] if plain else "").rpartition("/")[0]
        pattern = re.compile(glob_translate(uri))
        return tuple(sorted(entry.uri for entry in self.walk(fixed, timeout_s) if pattern.match(entry.uri)))

    def open(self, uri: str, sequential: bool) -> Any:
        """Open an object for pyarrow: with read-ahead, or with one request per read."""
        options: dict[str, Any] = (
            {"cache_type": "readahead", "block_size": SEQUENTIAL_BLOCK} if sequential else {"cache_type": "none"}
        )
        return pa.PythonFile(self.fs.open(uri, "rb", **options), mode="r")

    def other_spelling(self, uri: str, timeout_s: float) -> str | None:
        """Return None: other spellings are not looked for."""
        return None

    def check_folder(self, uri: str, timeout_s: float) -> None:
        """Do nothing: object stores have no folders."""


def filesystem(uri: str) -> Any:
    """Return fsspec's filesystem for the scheme of a URI.

    Raises:
        ImportError: No installed library supports the scheme.
        NamesServer: Its addresses name a server, and not a bucket: one filesystem would be needed for each.
    """
    try:
        implementation = fsspec.get_filesystem_class(scheme(uri))
        if "host" in implementation._get_kwargs_from_urls(uri):
            raise NamesServer(scheme(uri))
        return implementation(skip_instance_cache=True, use_listings_cache=False)
    except ValueError as error:
        raise ImportError(f"no library supports {scheme(uri)}://") from error
    except TypeError as error:  # it needs a server's name, or more
        raise NamesServer(scheme(uri)) from error


_TIMES = ("LastModified", "last_modified", "mtime", "updated", "modificationTime", "created")
"""Keys of the time of the last change: S3, Azure, SFTP and others, Google Cloud Storage, HDFS; and of the creation."""


def _seconds(time: Any) -> float:
    """Return a time of a listing in seconds since 1970 UTC; 0 if it is none. HDFS counts milliseconds."""
    if isinstance(time, str):
        try:
            time = datetime.fromisoformat(time)
        except ValueError:
            return 0.0
    if isinstance(time, datetime):
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    if isinstance(time, int | float) and not isinstance(time, bool):
        return time / 1000 if time > 1e11 else float(time)
    return 0.0


def file_info(uri: str, info: dict[str, Any]) -> FileInfo:
    """Convert metadata of fsspec or S3, whose keys differ from store to store; ``info["size"]`` is required."""
    seconds = next((time for key in _TIMES if (time := _seconds(info.get(key)))), 0.0)
    size = int(info["size"])
    etag = str(info.get("ETag") or info.get("etag") or info.get("blob_id") or "").strip('"') or (
        f"{size:x}-{seconds:.6f}" if seconds else ""
    )
    return FileInfo(uri=uri, size=size, etag=etag, modified=seconds)
