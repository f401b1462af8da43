"""Files on this machine or on a mounted share."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from glob import iglob
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pyarrow as pa

from pipeline.errors import FetchError
from pipeline.storage.backend import Content, FileInfo, LeftOut, check_size, listed
from pipeline.storage.errors import ChangedWhileRead
from pipeline.storage.spelling import MAX_NAMES, by_fold, other_spelling
from pipeline.storage.uris import NOT_UTF8, on_disk, printable

SCANNED_ROWS = 4096
"""Files per table of a scan."""


READ = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
"""Flags to open a file. Without O_NONBLOCK, opening a named pipe blocks. The last one is Windows', which lacks the others."""


class LocalBackend:
    """Local paths. Files appear atomically under their names.

    Nothing is fsynced: after a power failure an object may be damaged although its index row exists. A run that must
    survive power failures belongs on S3.
    """

    def read(self, uri: str, max_bytes: int | None, timeout_s: float) -> Content:
        """Read a regular file."""
        with _open_file(uri) as (file, status):
            check_size(uri, status.st_size, max_bytes)
            data = file.read(-1 if max_bytes is None else max_bytes + 1)
        check_size(uri, len(data), max_bytes)
        if len(data) != status.st_size:
            raise ChangedWhileRead
        return Content(data, _file_info(uri, status).etag)

    def read_range(self, uri: str, start: int, length: int, timeout_s: float) -> Content:
        """Read some bytes of a regular file."""
        with _open_file(uri) as (file, status):
            file.seek(min(start, status.st_size))
            data = file.read(max(0, min(length, status.st_size - start)))
        return Content(data, _file_info(uri, status).etag)

    def stat(self, uri: str, timeout_s: float) -> FileInfo:
        """Return the metadata of a file."""
        status = os.stat(uri)  # noqa: PTH116  a third of pathlib's cost
        if stat.S_ISDIR(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, "a folder")
        return _file_info(uri, status)

    def is_folder(self, uri: str, timeout_s: float) -> bool:
        """Check whether a folder exists."""
        return Path(uri).is_dir()

    def write(self, uri: str, data: bytes, timeout_s: float) -> None:
        """Write a file by an atomic rename."""
        with _temporary_file(Path(uri), data) as temporary:
            temporary.replace(uri)

    def upload(self, uri: str, path: Path, timeout_s: float) -> None:
        """Write a file by a copy and an atomic rename."""
        with _temporary_file(Path(uri), path) as temporary:
            temporary.replace(uri)

    def link(self, uri: str, path: str) -> None:
        """Write a symbolic link to a path, in place of a file or link of this name."""
        with _temporary(Path(uri), lambda temporary: temporary.symlink_to(path)) as temporary:
            temporary.replace(uri)

    def create(self, uri: str, data: bytes, timeout_s: float) -> bool:
        """Write a file by a hard link, which fails if the name exists."""
        with _temporary_file(Path(uri), data) as temporary:
            try:
                os.link(temporary, uri)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                    raise
                return _create_without_links(Path(uri), data)
        return True

    def delete(self, uri: str, timeout_s: float) -> None:
        """Delete a file if it exists."""
        Path(uri).unlink(missing_ok=True)

    def walk(self, uri: str, timeout_s: float, *, left_out: LeftOut | None = None) -> Iterator[FileInfo]:
        """List all files below a folder, sorted by path, without following links to folders. Dangling links are listed."""
        with os.scandir(uri) as scan:
            entries = [entry for entry in scan if not entry.name.startswith(".")]
        # Folders sort as on S3, where a key continues with the slash.
        # Files that disappear during the listing are skipped; only the folder itself must exist.
        for entry in sorted(entries, key=lambda entry: entry.name + "/" * entry.is_dir(follow_symlinks=False)):
            with contextlib.suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    yield from self._walk_below(entry.path, timeout_s, left_out)
                elif (kind := _kind(entry)) == "file":
                    yield _file_info(entry.path, entry.stat())
                elif kind == "folder" and left_out is not None:
                    left_out("link", entry.path)
                elif kind == "dangling":
                    yield FileInfo(entry.path, 0, "", 0.0)

    def _walk_below(self, uri: str, timeout_s: float, left_out: LeftOut | None) -> Iterator[FileInfo]:
        try:
            yield from self.walk(uri, timeout_s, left_out=left_out)
        except PermissionError:
            if left_out is None:
                raise
            left_out("unreadable", uri)

    def scan(self, uri: str, timeout_s: float, after: str = "") -> Iterator[pa.Table]:
        """List all files below a folder as the disk returns them, without links to folders. No folder is held in memory."""
        skip = len(os.fsencode(uri.rstrip("/"))) + 1
        rows: list[tuple[bytes, int, float]] = []
        for path, status in _files_below(uri):
            rows.append((os.fsencode(path)[skip:], status.st_size, status.st_mtime))
            if len(rows) == SCANNED_ROWS:
                yield listed(rows)
                rows = []
        yield listed(rows)

    def folders(self, uri: str, timeout_s: float) -> tuple[str, ...]:
        """List the folders directly below this one."""
        with os.scandir(uri) as scan:
            return tuple(sorted(entry.path for entry in scan if entry.is_dir() and not entry.name.startswith(".")))

    def glob(self, uri: str, timeout_s: float) -> tuple[str, ...]:
        """List the files that match a pattern."""
        paths = iglob(uri, recursive=True)  # noqa: PTH207  pathlib refuses absolute patterns
        return tuple(sorted(path for path in paths if Path(path).is_file()))

    def open(self, uri: str, sequential: bool) -> Any:
        """Open a file for pyarrow."""
        if Path(uri).is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder")
        return pa.OSFile(uri)

    def other_spelling(self, uri: str, timeout_s: float) -> str | None:
        """Return an existing file or folder that a path may mean."""
        return _other_spelling(uri)

    def check_folder(self, uri: str, timeout_s: float) -> None:
        """Create the folder if it does not exist."""
        Path(uri).mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def _open_file(uri: str) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """Open a regular file, and check at the end that it has not changed."""
    try:
        descriptor = os.open(uri, READ)
    except FileNotFoundError as error:
        if (path := on_disk(uri)) != uri and Path(path).is_file():
            raise FetchError(f"{uri}: {NOT_UTF8}") from error
        if (other := _other_spelling(uri)) is None or not Path(other).is_file():
            raise
        raise FetchError(f"{uri}: it does not exist, but {other!a} does; correct the path") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "a folder")
        if not stat.S_ISREG(status.st_mode):
            raise FetchError(f"{uri}: it is a device or a pipe, not a file; correct the path")
        yield file, status
        if _version(os.fstat(descriptor)) != _version(status):
            raise ChangedWhileRead


def _files_below(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the files below a folder in any order. What disappears meanwhile is skipped; only the folder itself must exist."""
    with os.scandir(folder) as scan:
        for entry in scan:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    yield from _files_below(entry.path)
                elif _kind(entry) == "file":
                    yield entry.path, entry.stat()


def _other_spelling(path: str) -> str | None:
    """Return an existing file or folder that people may have meant (``spelling``)."""
    folder = path = os.path.abspath(path)  # noqa: PTH100
    while not os.path.isdir(folder := os.path.dirname(folder)):  # noqa: PTH112, PTH120  paths of strangers
        pass
    return other_spelling(folder.rstrip("/"), path[len(folder) :], _names)


def _names(folder: str) -> Mapping[str, str]:
    try:
        return _names_at(folder, os.stat(folder).st_mtime_ns)  # noqa: PTH116
    except (OSError, ValueError):
        return {}


@lru_cache(8)
def _names_at(folder: str, modified_ns: int) -> Mapping[str, str]:
    with os.scandir(folder) as scan:
        return by_fold(printable(entry.name) for entry in islice(scan, MAX_NAMES))


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _kind(entry: os.DirEntry[str]) -> Literal["file", "folder", "dangling", "other"]:
    """Return what an entry is, or what a link leads to."""
    try:
        if entry.is_file():
            return "file"
        if entry.is_dir():
            return "folder"
    except OSError:  # a loop of symbolic links
        return "dangling"
    return "dangling" if entry.is_symlink() and not Path(entry.path).exists() else "other"


def _file_info(path: str, status: os.stat_result) -> FileInfo:
    etag = f"{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ino:x}"
    return FileInfo(uri=path, size=status.st_size, etag=etag, modified=status.st_mtime)


@contextlib.contextmanager
def _temporary_file(path: Path, content: bytes | Path) -> Iterator[Path]:
    """Write bytes, or the content of a file, to a temporary file in the destination's folder (``_temporary``)."""

    def write(temporary: Path) -> None:
        if isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            shutil.copyfile(content, temporary)

    with _temporary(path, write) as temporary:
        yield temporary


@contextlib.contextmanager
def _temporary(path: Path, write: Callable[[Path], object]) -> Iterator[Path]:
    """Make a temporary file in the destination's folder, and delete it at the end unless it was renamed."""
    begin = os.fsencode(path.name)[:80].decode("utf-8", "ignore")  # names may have 255 bytes
    temporary = path.with_name(f".{begin}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            write(temporary)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(temporary)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _create_without_links(path: Path, data: bytes) -> bool:
    """Create a file on a share without hard links: only one process succeeds, but readers may see a partial file."""
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True
