"""Open a video as often as it is needed: once for its frames, and once per file that gets its sound."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

from pipeline.config.job import Limits
from pipeline.errors import FetchError, StorageError
from pipeline.storage import uris
from pipeline.storage.errors import describe_error, library_errors
from pipeline.storage.files import Files
from pipeline.storage.members import parse_member

READ_BYTES = 4 * 2**20
"""Bytes per request to a store."""

LOCAL_BYTES = 2**15
"""Bytes per read from a disk, as the demuxer asks for: it may jump between pictures and sound."""


class Source:
    """A video, by its path or URI. Use it as a context manager, which closes what was opened.

    One on a web server is read into memory once, up to ``limits.max_bytes``.
    """

    def __init__(self, uri: str, files: Files, limits: Limits) -> None:
        self.uri, self._files, self._limits = uri, files, limits
        self._stack = ExitStack()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def open(self) -> BinaryIO:
        """Open it once more. Reading from it raises ``FetchError``, too.

        Raises:
            FetchError: It cannot be opened.
        """
        if self._is_remote:
            return io.BytesIO(self._data)
        try:
            local = not uris.scheme(self.uri)
            file = _Reading(self._stack.enter_context(self._opened()), self.uri)
            return cast(BinaryIO, io.BufferedReader(file, LOCAL_BYTES if local else READ_BYTES))
        except IsADirectoryError:
            raise FetchError(f"{self.uri}: it is a folder; give a video") from None
        except FileNotFoundError:
            raise FetchError(f"{self.uri}: it does not exist") from None
        except (OSError, StorageError) as error:
            raise FetchError(f"{self.uri}: it can't be read: {error}") from error

    def _opened(self) -> Any:
        local = not uris.scheme(self.uri)
        return Path(self._files.absolute(self.uri)).open("rb", 0) if local else self._files.open_input(self.uri)

    def digest(self) -> tuple[str, int]:
        """Return its SHA-256 and its size in bytes.

        Raises:
            FetchError: It cannot be read.
        """
        if self._is_remote:
            return hashlib.sha256(self._data).hexdigest(), len(self._data)
        return self._files.digest(self.uri)

    def version(self) -> str:
        """Return its version; empty if the storage has none.

        Raises:
            FetchError: It cannot be looked up.
        """
        try:
            return self._files.version(self.uri)
        except StorageError as error:
            raise FetchError(str(error)) from error

    @property
    def _is_remote(self) -> bool:
        return uris.scheme(self.uri) in uris.HTTP_SCHEMES or parse_member(self.uri) is not None

    @cached_property
    def _data(self) -> bytes:
        return self._files.read(self.uri, max_bytes=self._limits.max_bytes)


class _Reading(io.RawIOBase):
    """An open file whose errors are those of its item: the demuxer passes them on as they are.

    Args:
        file: The file. It stays open.
        uri: Its path or URI, for messages.
    """

    def __init__(self, file: Any, uri: str) -> None:
        self._file, self._uri = file, uri

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read the next bytes. Returns their number, 0 at the end.

        Raises:
            FetchError: The storage failed, or the file was replaced meanwhile.
        """
        with self._as_fetch_errors():
            return cast("int | None", self._file.readinto(buffer))

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, and return it in bytes from the start.

        Raises:
            FetchError: The storage failed.
        """
        with self._as_fetch_errors():
            return int(self._file.seek(offset, whence))

    @contextmanager
    def _as_fetch_errors(self) -> Iterator[None]:
        try:
            yield
        except library_errors() as error:
            raise FetchError(describe_error(error, self._uri)) from error
