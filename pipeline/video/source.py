"""Open a video as often as it is needed: once for its frames, and once per file that gets its sound."""

from __future__ import annotations

import hashlib
import io
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

from pipeline.config.job import Limits
from pipeline.errors import FetchError, StorageError
from pipeline.storage import uris
from pipeline.storage.files import Files

READ_BYTES = 4 * 2**20
"""Bytes per request to a store."""


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
        """Open it once more.

        Raises:
            FetchError: It cannot be opened.
        """
        if self._is_remote:
            return io.BytesIO(self._data)
        try:
            if not uris.scheme(self.uri):
                return self._stack.enter_context(Path(self._files.absolute(self.uri)).open("rb"))
            file = self._stack.enter_context(self._files.open_input(self.uri))
            return cast(BinaryIO, io.BufferedReader(file, READ_BYTES))
        except IsADirectoryError:
            raise FetchError(f"{self.uri}: it is a folder; give a video") from None
        except FileNotFoundError:
            raise FetchError(f"{self.uri}: it does not exist") from None
        except (OSError, StorageError) as error:
            raise FetchError(f"{self.uri}: it can't be read: {error}") from error

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
        return uris.scheme(self.uri) in uris.HTTP_SCHEMES or "#" in self.uri

    @cached_property
    def _data(self) -> bytes:
        return self._files.read(self.uri, max_bytes=self._limits.max_bytes)
