"""Files on this machine or on a mounted share."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from glob import iglob
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import FetchError
from pipeline.storage.backend import Content, FileInfo, check_size


class Local:
    """Local paths. A file appears under its name whole or not at all, for every process that looks.

    Nothing is flushed to the disk on purpose: after a power cut an object may be damaged, and its index row, written
    later by another process, may be there. A run that must survive that belongs on S3.
    """

    def read(self, uri: str, max_bytes: int | None, timeout_s: float) -> Content:
        # Without O_NONBLOCK the mere opening of a named pipe would wait for ever.
        descriptor = os.open(uri, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, "a folder")
            if not stat.S_ISREG(status.st_mode):
                raise FetchError(f"{uri}: it is a device or a pipe, not a file; correct the path")
            check_size(uri, status.st_size, max_bytes)
            data = file.read(-1 if max_bytes is None else max_bytes + 1)
        check_size(uri, len(data), max_bytes)
        return Content(data, _entry(uri, status).etag)

    def stat(self, uri: str, timeout_s: float) -> FileInfo:
        status = os.stat(uri)  # noqa: PTH116  a third of pathlib's cost
        if stat.S_ISDIR(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, "a folder")
        return _entry(uri, status)

    def is_folder(self, uri: str, timeout_s: float) -> bool:
        return Path(uri).is_dir()

    def write(self, uri: str, data: bytes, timeout_s: float) -> None:
        with _staged(Path(uri), data) as temporary:
            temporary.replace(uri)

    def create(self, uri: str, data: bytes, timeout_s: float) -> bool:
        with _staged(Path(uri), data) as temporary:
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
        Path(uri).unlink(missing_ok=True)

    def walk(self, uri: str, timeout_s: float, *, hidden: bool = False) -> Iterator[FileInfo]:
        """Every file below a folder in the order of the paths; links to folders aren't followed."""
        with os.scandir(uri) as scan:
            found = [entry for entry in scan if hidden or not entry.name.startswith(".")]
        # Folders sort as on S3, where a key continues with the slash.
        # What vanishes while it is listed is left out; only the folder asked for may not be missing.
        for entry in sorted(found, key=lambda entry: entry.name + "/" * entry.is_dir(follow_symlinks=False)):
            with contextlib.suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    yield from self.walk(entry.path, timeout_s, hidden=hidden)
                elif _is_file(entry):
                    yield _entry(entry.path, entry.stat())

    def folders(self, uri: str, timeout_s: float) -> tuple[str, ...]:
        with os.scandir(uri) as scan:
            return tuple(sorted(entry.path for entry in scan if entry.is_dir() and not entry.name.startswith(".")))

    def glob(self, uri: str, timeout_s: float) -> tuple[str, ...]:
        found = iglob(uri, recursive=True)  # noqa: PTH207  an absolute pattern, which pathlib refuses
        return tuple(sorted(path for path in found if Path(path).is_file()))

    def open(self, uri: str, sequential: bool) -> Any:
        if Path(uri).is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder")
        return pa.OSFile(uri)

    def check_folder(self, uri: str, timeout_s: float) -> None:
        Path(uri).mkdir(parents=True, exist_ok=True)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # links that go round in a circle
        return False


def _entry(path: str, status: os.stat_result) -> FileInfo:
    mark = f"{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ino:x}"
    return FileInfo(uri=path, size=status.st_size, etag=mark, modified=status.st_mtime)


@contextlib.contextmanager
def _staged(path: Path, data: bytes) -> Iterator[Path]:
    """The data in a temporary file beside its destination; whatever is left of it at the end is removed."""
    temporary = path.with_name(f".{path.name[:80]}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            temporary.write_bytes(data)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _create_without_links(path: Path, data: bytes) -> bool:
    """For shares without hard links: still exactly one winner, but a reader may meet the file half written."""
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True
