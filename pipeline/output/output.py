"""The class ``Output``: where results are, and access to the storage that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from pipeline.errors import ConfigError, DecodeError, FetchError, StorageError, WriteError
from pipeline.output.layout import REPAIR, Layout, is_inside
from pipeline.storage.backend import FileInfo
from pipeline.storage.errors import is_missing
from pipeline.storage.files import Files
from pipeline.storage.uris import join

T = TypeVar("T")


@dataclass(frozen=True)
class Output:
    """An output folder or prefix. It travels to Ray workers."""

    layout: Layout
    files: Files

    @classmethod
    def at(cls, folder: str, files: Files) -> Output:
        """Return the output at an absolute path or URI, whether it exists or not."""
        return cls(Layout(folder), files)

    @property
    def folder(self) -> str:
        """Path or URI of the output."""
        return self.layout.folder

    def parts(self) -> Iterator[FileInfo]:
        """List the index parts in the order of their names.

        Raises:
            StorageError: The index cannot be listed.
        """
        return self.files.list(self.layout.index, suffixes=(".parquet",))

    def read(self, path: str) -> bytes:
        """Read an object by its path in the index.

        Raises:
            FetchError: It cannot be read, or leads out of the output.
        """
        return self.files.read(self._inside(path))

    def digest(self, path: str) -> tuple[str, int]:
        """Return the SHA-256 and the size of an object by its path in the index.

        Raises:
            FetchError: It cannot be read, or leads out of the output.
        """
        return self.files.digest(self._inside(path))

    def _inside(self, path: str) -> str:
        if not is_inside(path):
            raise FetchError(f"{path!r} in the index is not a path inside the output; {REPAIR}")
        return self.layout.uri(path)

    def load(self, path: str, decode: Callable[[bytes], T]) -> T:
        """Read and decode an object by its path in the index. The messages say how to repair it.

        Raises:
            FetchError: It cannot be read, or leads out of the output.
            DecodeError: It is damaged.
        """
        try:
            return decode(self.read(path))
        except FetchError as error:
            if error.__cause__ is None or not is_missing(error.__cause__):
                raise  # a store that is away has lost nothing
            raise FetchError(f"{self.layout.uri(path)} is missing; {REPAIR}") from error
        except DecodeError as error:
            raise DecodeError(f"{self.layout.uri(path)}: {error}; {REPAIR}") from error

    def write(self, uri: str, data: bytes) -> None:
        """Write an object that belongs to no item.

        Raises:
            StorageError: It cannot be written.
        """
        try:
            self.files.write(uri, data)
        except WriteError as error:
            raise StorageError(str(error)) from error

    def exists(self) -> bool:
        """Check whether a run has begun here.

        Raises:
            StorageError: The folder cannot be read.
        """
        return self.files.exists(self.layout.recipe)


def find_outputs(uri: str, files: Files) -> list[Output]:
    """Return the output at ``uri``; if there is none, those in the folders directly below it.

    Raises:
        StorageError: The folder cannot be listed.
        ConfigError: There is an output of an older version.
    """
    here = Output.at(uri, files)
    if here.exists():
        return [here]
    folders = files.folders(uri)
    if any(files.exists(join(folder, "recipe.json")) for folder in folders):
        raise ConfigError(
            f"{uri} was written by matteline before 0.2, with one folder per recipe; read it with that version, or "
            "run again into another output"
        )
    return [output for folder in folders if (output := Output.at(folder, files)).exists()]


def open_outputs(path: str, files: Files) -> list[Output]:
    """Return the outputs that ``find_outputs`` finds at a path or URI of the user.

    Raises:
        ConfigError: There are none.
        StorageError: The folder cannot be listed.
    """
    uri = files.absolute(path)
    found = find_outputs(uri, files)
    if not found:
        raise ConfigError(f"no results under {uri}; run matteline run --output {path} first")
    return found


def open_output(path: str, files: Files) -> Output:
    """Return the only output at a path or URI of the user.

    Raises:
        ConfigError: There is none, or there are several.
        StorageError: The folder cannot be listed.
    """
    output, *more = open_outputs(path, files)
    if more:
        folders = ", ".join(one.folder for one in (output, *more))
        raise ConfigError(f"{path} holds {1 + len(more)} outputs; name one of them: {folders}")
    return output
