"""The interface to stored bytes: local paths, S3, other fsspec schemes, and images on web servers.

Exceptions of libraries are mapped here only: reading raises ``FetchError``, writing ``WriteError`` (both become the error of
an index row), everything else ``StorageError``. Transient errors are retried with backoff until a deadline.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from pipeline.config.job import Storage
from pipeline.errors import FetchError, PipelineError, StorageError, WriteError
from pipeline.storage import uris
from pipeline.storage.allowlist import AllowList
from pipeline.storage.backend import Content, FileInfo, LeftOut, StorageBackend
from pipeline.storage.errors import describe_error, is_missing, library_errors
from pipeline.storage.local import LocalBackend
from pipeline.storage.members import Cell, TarMember, parse_member, split_member
from pipeline.storage.retry import TIMEOUT_S, with_retries

if TYPE_CHECKING:
    from pipeline.storage.http import HttpBackend

PROBE_TIMEOUT_S = 15.0
"""Seconds for a check before the run starts, so that a wrong endpoint is reported early."""

SLOWEST_TRANSFER = 1024 * 1024
"""Bytes per second of the slowest transfer of a large object that is waited for."""

CHUNK_BYTES = 4 * 1024 * 1024
"""Bytes of a large object in memory."""

LEFTOVER = r"(^|/)(\.probe-[0-9a-f]{16}|\.[^/]*\.[0-9a-f]{16}\.tmp)$"
"""Paths of temporary files and probes that killed processes left behind (RE2)."""

T = TypeVar("T")

# Connections belong to a process and are shared by its threads and by all unpickled instances of Files.
_backends: dict[tuple[int, str, Storage], StorageBackend] = {}
_http_backends: dict[tuple[int, AllowList], HttpBackend] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Files:
    """Read and write bytes by URI. Thread-safe.

    An instance holds settings only, so it can be pickled. Each process opens its connections on first use.
    """

    storage: Storage = field(default_factory=Storage)

    def absolute(self, uri: str) -> str:
        """Normalize the path or URI of a setting; see ``uris.absolute``."""
        return uris.absolute(uri)

    def read(self, uri: str, *, max_bytes: int | None = None, timeout_s: float = TIMEOUT_S) -> bytes:
        """Read a complete object, which may be empty.

        Raises:
            FetchError: See ``fetch``.
        """
        return self.fetch(uri, max_bytes=max_bytes, timeout_s=timeout_s).data

    def fetch(self, uri: str, *, max_bytes: int | None = None, timeout_s: float = TIMEOUT_S) -> Content:
        """Read a complete object and its version.

        Raises:
            FetchError: The object is missing, forbidden, larger than ``max_bytes``, unreachable for ``timeout_s`` seconds, or
                on a web server outside the allow-list.
            ConfigError: ``storage.allow_roots`` contains an invalid root.
        """
        if uris.scheme(uri) in uris.HTTP_SCHEMES:
            http = self._http()
            return with_retries(uri, FetchError, lambda left: http.read(uri, max_bytes, left), timeout_s)
        member = parse_member(uri) if "#" in uri else None
        if member is None:
            return self._call(uri, FetchError, lambda backend, left: backend.read(uri, max_bytes, left), timeout_s)
        return self._call(
            member.container, FetchError, lambda backend, left: _read_member(member, backend, max_bytes, left), timeout_s
        )

    def digest(self, uri: str, *, max_bytes: int | None = None) -> tuple[str, int]:
        """Return the SHA-256 (64 hex digits) and the size in bytes of an object, which need not fit into memory.

        ``max_bytes`` holds for what is read into memory: a file on a web server, and a picture in another file.

        Raises:
            FetchError: As ``fetch``.
        """
        if uris.scheme(uri) in uris.HTTP_SCHEMES or parse_member(uri) is not None:
            data = self.read(uri, max_bytes=max_bytes)
            return hashlib.sha256(data).hexdigest(), len(data)

        def read(backend: StorageBackend, left: float) -> tuple[str, int]:
            content, size = hashlib.sha256(), 0
            with backend.open(uri, sequential=True) as file:
                while chunk := file.read(CHUNK_BYTES):
                    content.update(chunk)
                    size += len(chunk)
            return content.hexdigest(), size

        size = self._call(uri, FetchError, lambda backend, left: backend.stat(uri, left).size)
        return self._call(uri, FetchError, read, TIMEOUT_S + size / SLOWEST_TRANSFER)

    def stat(self, uri: str) -> FileInfo:
        """Return the size, ETag and time of an object. For a picture in another file, they are those of the file.

        Raises:
            StorageError: The object is missing or inaccessible.
        """
        container, _ = split_member(uri)
        return self._call(container, StorageError, lambda backend, left: backend.stat(container, left))

    def version(self, uri: str) -> str:
        """Return the current version of an object as ``fetch`` does; empty if the storage has none.

        Raises:
            FetchError: The object is on a web server and inaccessible.
            StorageError: The object is elsewhere and inaccessible.
        """
        if uris.scheme(uri) in uris.HTTP_SCHEMES:
            http = self._http()
            return with_retries(uri, FetchError, lambda left: http.etag(uri, left), TIMEOUT_S)
        return self.stat(uri).etag

    def exists(self, uri: str) -> bool:
        """Check whether a file or an object exists; False for a folder.

        Raises:
            StorageError: The storage is inaccessible.
        """

        def check(backend: StorageBackend, left: float) -> bool:
            try:
                backend.stat(uri, left)
            except library_errors() as error:
                if is_missing(error):
                    return False
                raise
            return True

        return self._call(uri, StorageError, check)

    def is_folder(self, uri: str) -> bool:
        """Check whether a folder, or an object below this prefix, exists.

        Raises:
            StorageError: The storage is inaccessible.
        """
        return self._call(uri, StorageError, lambda backend, left: backend.is_folder(uri, left))

    def write(self, uri: str, data: bytes) -> None:
        """Write or replace an object atomically. Local folders are created as needed.

        Raises:
            WriteError: The object could not be written; its previous content is unchanged.
        """
        self._call(uri, WriteError, lambda backend, left: backend.write(uri, data, left))

    def upload(self, uri: str, path: Path) -> None:
        """Write or replace an object atomically by the content of a local file, which is not held in memory.

        Raises:
            WriteError: The object could not be written; its previous content is unchanged.
        """
        timeout_s = TIMEOUT_S + path.stat().st_size / SLOWEST_TRANSFER
        self._call(uri, WriteError, lambda backend, left: backend.upload(uri, path, left), timeout_s)

    def link(self, target: str, uri: str) -> None:
        """Write a symbolic link ``uri`` to the local file ``target``.

        Raises:
            WriteError: It could not be written, or it would not be on a local disk.
        """
        if uris.scheme(target) or uris.scheme(uri):
            raise WriteError(f"{uris.redact(uri)}: only local files can be linked to {uris.redact(target)}; copy it")
        self._call(uri, WriteError, lambda _, left: LocalBackend().link(uri, target))

    def create(self, uri: str, data: bytes) -> bool:
        """Write an object unless it exists. Of concurrent calls exactly one returns True.

        Raises:
            WriteError: The object could not be written.
        """
        tries = 0

        def create(backend: StorageBackend, left: float) -> bool:
            nonlocal tries
            tries += 1
            # After a retry, the existing object may be the result of an attempt whose response was lost.
            return backend.create(uri, data, left) or (tries > 1 and backend.read(uri, None, left).data == data)

        return self._call(uri, WriteError, create)

    def delete(self, uri: str) -> None:
        """Delete an object if it exists.

        Raises:
            StorageError: The object could not be deleted.
        """
        self._call(uri, StorageError, lambda backend, left: backend.delete(uri, left))

    def list(self, uri: str, suffixes: tuple[str, ...] = (), left_out: LeftOut | None = None) -> Iterator[FileInfo]:
        """List all files below a folder or prefix lazily, by name in the order of the storage.

        Names that begin with a dot (temporary files, system files) are skipped. A missing folder is empty. ``suffixes`` such
        as ``(".png",)`` are lower case and match regardless of case; without any, all files are listed. ``left_out`` is told
        of local folders that are not listed.

        Raises:
            StorageError: The folder can't be listed; or without ``left_out``, a folder in it.
        """
        return (info for info in self._walk(uri, left_out) if not suffixes or info.uri.lower().endswith(suffixes))

    def scan(self, uri: str, after: str = "") -> Iterator[pa.Table]:
        """List all files below a folder or prefix, hidden ones too, in tables with the schema ``LISTED`` and in any order.

        Args:
            uri: The folder or prefix. If it is missing, there is no table.
            after: A path below it: the listing begins behind it, in the order of the store; see ``can_scan_after``.

        Raises:
            StorageError: The folder can't be listed.
        """
        backend = self._backend(uri, StorageError)
        return self._listing(uri, lambda: backend.scan(uri, TIMEOUT_S, after))

    def can_scan_after(self, uri: str) -> bool:
        """Return whether a listing can begin behind a path, so that parts of it are listed side by side."""
        return uris.scheme(uri) == "s3"

    def _walk(self, uri: str, left_out: LeftOut | None) -> Iterator[FileInfo]:
        backend = self._backend(uri, StorageError)
        return self._listing(uri, lambda: backend.walk(uri, TIMEOUT_S, left_out=left_out))

    def _listing(self, uri: str, start: Callable[[], Iterator[T]]) -> Iterator[T]:
        try:
            yield from start()
        except library_errors() as error:
            if not isinstance(error, FileNotFoundError) or uris.scheme(uri):
                raise StorageError(describe_error(error, _folder_of(error) or uri)) from error

    def folders(self, uri: str) -> tuple[str, ...]:
        """List the folders or prefixes directly below this one, sorted. A missing folder has none.

        Raises:
            StorageError: The folder can't be listed.
        """
        if not uris.scheme(uri) and not self.is_folder(uri):
            return ()
        return self._call(uri, StorageError, lambda backend, left: backend.folders(uri, left))

    def glob(self, uri: str) -> tuple[str, ...]:
        """List the files that match a pattern with ``*``, ``?``, ``[…]`` or ``**``, sorted.

        Raises:
            StorageError: The folder before the first wildcard can't be listed.
        """
        return self._call(uri, StorageError, lambda backend, left: backend.glob(uri, left))

    def open_input(self, uri: str, *, sequential: bool = False) -> Any:
        """Open a pyarrow file for reading: ``sequential`` with read-ahead, else with one request per read.

        Raises:
            StorageError: The file is missing or forbidden. Reading from it raises the library's exceptions.
        """
        return self._call(uri, StorageError, lambda backend, left: backend.open(uri, sequential))

    def check_readable(self, uri: str) -> None:
        """Check before a run that a file, folder or prefix exists and can be read.

        Raises:
            StorageError: It or its bucket does not exist, the credentials are wrong, or a permission is missing.
        """

        def check(backend: StorageBackend, left: float) -> None:
            try:
                backend.stat(uri, left)
            except library_errors() as error:
                if not is_missing(error) and not isinstance(error, PermissionError):
                    raise
                # HEAD returns no S3 error code, and a prefix is not an object; a listing covers both.
                if uris.scheme(uri):
                    backend.check_folder(uri, left)
                if not backend.is_folder(uri, left):
                    if (other := backend.other_spelling(uri, left)) is not None:
                        raise StorageError(
                            f"{uris.redact(uri)}: it does not exist, but {other!a} does; correct the path"
                        ) from error
                    raise
                next(iter(backend.walk(uri, left)), None)
            else:
                backend.open(uri, sequential=False).close()

        self._call(uri, StorageError, check, PROBE_TIMEOUT_S, tries=1)

    def check_writable(self, folder: str) -> None:
        """Check before a run that objects can be written and deleted below a folder. Creates local folders, not buckets.

        Raises:
            StorageError: The bucket does not exist, the credentials are wrong, a permission is missing, or it is read-only.
        """
        probe = uris.join(folder, f".probe-{secrets.token_hex(8)}")

        def check(backend: StorageBackend, left: float) -> None:
            backend.check_folder(folder, left)
            backend.write(probe, b"This file tests whether the folder is writable. It may be deleted.\n", left)
            backend.delete(probe, left)

        try:
            self._call(folder, StorageError, check, PROBE_TIMEOUT_S, tries=1)
        except StorageError as error:
            raise StorageError(f"the output can't be written to: {error}") from error.__cause__

    def _call(
        self,
        uri: str,
        raise_as: type[PipelineError],
        work: Callable[[StorageBackend, float], T],
        timeout_s: float = TIMEOUT_S,
        tries: int | None = None,
    ) -> T:
        backend = self._backend(uri, raise_as)
        return with_retries(uri, raise_as, lambda left: work(backend, left), timeout_s, tries)

    def _backend(self, uri: str, raise_as: type[PipelineError]) -> StorageBackend:
        kind = uris.scheme(uri)
        if kind in uris.HTTP_SCHEMES:
            raise raise_as(f"{uris.redact(uri)}: web servers are supported for images only; use a local path or a bucket")
        key = (os.getpid(), kind, self.storage)
        with _lock:
            if key not in _backends:
                try:
                    _backends[key] = _connect(uri, self.storage)
                except library_errors() as error:
                    raise raise_as(describe_error(error, uri)) from error
            return _backends[key]

    def _http(self) -> HttpBackend:
        from pipeline.storage.http import HttpBackend

        key = (os.getpid(), AllowList.of(self.storage))
        with _lock:
            if key not in _http_backends:
                _http_backends[key] = HttpBackend(key[1])
            return _http_backends[key]


def _connect(uri: str, storage: Storage) -> StorageBackend:
    """Return a new backend for an address. Each client is imported for the first address that needs it."""
    kind = uris.scheme(uri)
    if not kind:
        return LocalBackend()
    if kind == "s3":
        from pipeline.storage.s3 import S3Backend

        return S3Backend(storage)
    from pipeline.storage.fsspec_backend import FsspecBackend, filesystem

    return FsspecBackend(filesystem(uri))


def _read_member(member: TarMember | Cell, backend: StorageBackend, max_bytes: int | None, timeout_s: float) -> Content:
    """Read a picture inside another file. The readers of archives are imported when the first one is read."""
    if isinstance(member, TarMember):
        from pipeline.storage.tar_members import read_member

        return read_member(member, backend, max_bytes, timeout_s)
    from pipeline.storage.parquet_cells import read_cell

    info = backend.stat(member.container, timeout_s)
    version = (info.etag, info.size, id(backend))
    return read_cell(member, version, info.etag, lambda: backend.open(member.container, sequential=False), max_bytes)


def _folder_of(error: Exception) -> str | None:
    """Return the local folder that could not be listed."""
    return error.filename if isinstance(error, PermissionError) and isinstance(error.filename, str) else None
