"""The one door to bytes: local paths, S3, every other fsspec scheme, images on the web.

What libraries raise is mapped here and nowhere else: reading fails with ``FetchError``, writing with ``WriteError`` (an
item's fault, its row says so), everything else with ``StorageError``. Faults that may pass are tried again, waiting
longer each time, until a deadline.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipeline.config.job import Storage
from pipeline.errors import FetchError, PipelineError, StorageError, WriteError
from pipeline.storage import uris
from pipeline.storage.allowlist import AllowList
from pipeline.storage.backend import Content, FileInfo, StorageBackend
from pipeline.storage.errors import LIBRARY_ERRORS, describe_error, is_missing
from pipeline.storage.http import Web
from pipeline.storage.local import Local
from pipeline.storage.object_store import S3, Remote, filesystem
from pipeline.storage.retry import TIMEOUT_S, with_retries

PROBE_S = 15.0
"""How long a check before the start may take: an endpoint that is wrong should say so soon."""

_LEFTOVER = re.compile(r"\.probe-[0-9a-f]{16}|\..*\.[0-9a-f]{16}\.tmp", re.DOTALL)

T = TypeVar("T")

# Connections belong to a process and serve all its threads; unpickled copies of Files find them again here.
_backends: dict[tuple[int, str, Storage], StorageBackend] = {}
_webs: dict[tuple[int, AllowList], Web] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Files:
    """Bytes by URI. Holds settings only, so it can be pickled; connections are made on first use in each process.

    Any method may be called from any number of threads at once.
    """

    storage: Storage = field(default_factory=Storage)

    def absolute(self, uri: str) -> str:
        """A setting's path or URI in its one form; see ``uris.absolute``."""
        return uris.absolute(uri)

    def join(self, base: str, *parts: str) -> str:
        """``base`` and the parts with one slash between them."""
        return uris.join(base, *parts)

    def resolve(self, uri: str, base: str) -> str:
        """A manifest's URI against the manifest's folder; see ``uris.resolve``."""
        return uris.resolve(uri, base)

    def read(self, uri: str, *, max_bytes: int | None = None, timeout_s: float = TIMEOUT_S) -> bytes:
        """A whole object; it may be empty.

        Raises:
            FetchError: see ``fetch``.
        """
        return self.fetch(uri, max_bytes=max_bytes, timeout_s=timeout_s).data

    def fetch(self, uri: str, *, max_bytes: int | None = None, timeout_s: float = TIMEOUT_S) -> Content:
        """A whole object and which version of it that is.

        Raises:
            FetchError: missing, forbidden, larger than ``max_bytes``, unreachable for ``timeout_s`` seconds, or on a web server
                that the settings don't allow.
            ConfigError: ``storage.allow_roots`` names what can't be a root.
        """
        if uris.scheme(uri) in uris.WEB:
            web = _web(AllowList.of(self.storage))
            return with_retries(uri, FetchError, lambda left: web.read(uri, max_bytes, left), timeout_s)
        return self._at(uri, FetchError, lambda backend, left: backend.read(uri, max_bytes, left), timeout_s)

    def stat(self, uri: str) -> FileInfo:
        """Size, etag and time of an object.

        Raises:
            StorageError: it is missing or can't be asked about.
        """
        return self._at(uri, StorageError, lambda backend, left: backend.stat(uri, left))

    def version(self, uri: str) -> str:
        """Which version of an object there is now, as ``fetch`` tells it; empty where its storage doesn't say.

        Raises:
            FetchError: it is on the web and can't be asked about.
            StorageError: it is elsewhere and can't be.
        """
        if uris.scheme(uri) in uris.WEB:
            web = _web(AllowList.of(self.storage))
            return with_retries(uri, FetchError, lambda left: web.etag(uri, left), TIMEOUT_S)
        return self.stat(uri).etag

    def exists(self, uri: str) -> bool:
        """There is a file or an object of this name; a folder is neither.

        Raises:
            StorageError: the storage can't be asked.
        """

        def found(backend: StorageBackend, left: float) -> bool:
            try:
                backend.stat(uri, left)
            except LIBRARY_ERRORS as error:
                if is_missing(error):
                    return False
                raise
            return True

        return self._at(uri, StorageError, found)

    def is_folder(self, uri: str) -> bool:
        """There is a folder of this name, or an object below this prefix.

        Raises:
            StorageError: the storage can't be asked.
        """
        return self._at(uri, StorageError, lambda backend, left: backend.is_folder(uri, left))

    def write(self, uri: str, data: bytes) -> None:
        """Publish an object, replacing one of that name, whole or not at all; local folders are made as needed.

        Raises:
            WriteError: it could not be written; what was there before is still there.
        """
        self._at(uri, WriteError, lambda backend, left: backend.write(uri, data, left))

    def create(self, uri: str, data: bytes) -> bool:
        """Publish an object only if there is none of that name: of any number that try, one gets True.

        Raises:
            WriteError: it could not be written.
        """
        tries = 0

        def once(backend: StorageBackend, left: float) -> bool:
            nonlocal tries
            tries += 1
            # After a fault the object in the way may be the one that the lost attempt made.
            return backend.create(uri, data, left) or (tries > 1 and backend.read(uri, None, left).data == data)

        return self._at(uri, WriteError, once)

    def delete(self, uri: str) -> None:
        """Remove an object; one that isn't there is as good as removed.

        Raises:
            StorageError: it could not be removed.
        """
        self._at(uri, StorageError, lambda backend, left: backend.delete(uri, left))

    def list(self, uri: str, suffixes: tuple[str, ...] = ()) -> Iterator[FileInfo]:
        """Everything below a folder or prefix, by name in the storage's own order, fetched as it is asked for.

        What begins with a dot is left out: files being written, and the system's. A missing folder is an empty one.

        Args:
            suffixes: endings in lower case, such as ``(".png",)``; matched without regard to case; none lists all.

        Raises:
            StorageError: the folder can't be listed.
        """
        return (info for info in self._walk(uri) if not suffixes or info.uri.lower().endswith(suffixes))

    def _walk(self, uri: str, *, hidden: bool = False) -> Iterator[FileInfo]:
        backend = self._backend(uri, StorageError)
        try:
            yield from backend.walk(uri, TIMEOUT_S, hidden=hidden)
        except LIBRARY_ERRORS as error:
            if not isinstance(error, FileNotFoundError) or uris.scheme(uri):
                raise StorageError(describe_error(error, uri)) from error

    def leftovers(self, uri: str) -> Iterator[FileInfo]:
        """Temporary files and probes below a folder or prefix that a killed process has left behind.

        Raises:
            StorageError: the folder can't be listed.
        """
        return (info for info in self._walk(uri, hidden=True) if _LEFTOVER.fullmatch(uris.name(info.uri)))

    def folders(self, uri: str) -> tuple[str, ...]:
        """The folders or prefixes directly below, sorted; a missing folder has none.

        Raises:
            StorageError: the folder can't be listed.
        """
        if not uris.scheme(uri) and not self.is_folder(uri):
            return ()
        return self._at(uri, StorageError, lambda backend, left: backend.folders(uri, left))

    def glob(self, uri: str) -> tuple[str, ...]:
        """The files that a pattern with ``*``, ``?``, ``[…]`` or ``**`` names, sorted.

        Raises:
            StorageError: the part before the first wildcard can't be listed.
        """
        return self._at(uri, StorageError, lambda backend, left: backend.glob(uri, left))

    def open_input(self, uri: str, *, sequential: bool = False) -> Any:
        """A pyarrow file to read from.

        Args:
            sequential: it will be read from front to back (read ahead), not by ranges (each read is one request).

        Raises:
            StorageError: it is missing or forbidden. Reading from it raises what the library raises.
        """
        return self._at(uri, StorageError, lambda backend, left: backend.open(uri, sequential))

    def check_readable(self, uri: str) -> None:
        """Before the start: there is a file, a folder or a prefix here, and it may be read.

        Raises:
            StorageError: no such bucket, wrong credentials, no permission, nothing there.
        """

        def look(backend: StorageBackend, left: float) -> None:
            try:
                backend.stat(uri, left)
            except LIBRARY_ERRORS as error:
                if not is_missing(error) and not isinstance(error, PermissionError):
                    raise
                # S3 answers HEAD without saying why, and a prefix is no object: a listing tells both.
                if uris.scheme(uri):
                    backend.check_folder(uri, left)
                if not backend.is_folder(uri, left):
                    raise
                next(iter(backend.walk(uri, left)), None)
            else:
                backend.open(uri, sequential=False).close()

        self._at(uri, StorageError, look, PROBE_S, tries=1)

    def check_writable(self, folder: str) -> None:
        """Before the start: objects can be made below this folder and removed again. Makes a local folder, never a bucket.

        Raises:
            StorageError: no such bucket, wrong credentials, no permission, a read-only folder.
        """
        probe = uris.join(folder, f".probe-{secrets.token_hex(8)}")

        def attempt(backend: StorageBackend, left: float) -> None:
            backend.check_folder(folder, left)
            backend.write(probe, b"May be deleted: written to see whether this place can be written to.\n", left)
            backend.delete(probe, left)

        try:
            self._at(folder, StorageError, attempt, PROBE_S, tries=1)
        except StorageError as error:
            raise StorageError(f"the output can't be written to: {error}") from error.__cause__

    def _at(
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
        if kind in uris.WEB:
            raise raise_as(f"{uris.shown(uri)}: web servers serve images only; use a disk or a bucket")
        key = (os.getpid(), kind, self.storage)
        with _lock:
            if key not in _backends:
                try:
                    _backends[key] = Local() if not kind else S3(self.storage) if kind == "s3" else Remote(filesystem(uri))
                except LIBRARY_ERRORS as error:
                    raise raise_as(describe_error(error, uri)) from error
            return _backends[key]


def _web(allowlist: AllowList) -> Web:
    key = (os.getpid(), allowlist)
    with _lock:
        if key not in _webs:
            _webs[key] = Web(allowlist)
        return _webs[key]
