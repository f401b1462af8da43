"""The class ``Output``, which holds the results of one recipe, and how to find them below a URI."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import ConfigError, StorageError, WriteError
from pipeline.output.layout import Layout
from pipeline.storage.backend import FileInfo
from pipeline.storage.files import Files
from pipeline.storage.uris import join


@dataclass(frozen=True)
class Output:
    """The results of one recipe: where they are, and access to the storage that holds them. It travels to Ray workers."""

    layout: Layout
    files: Files

    @classmethod
    def at(cls, folder: str, files: Files) -> Output:
        """Return the output whose recipe folder this is."""
        return cls(Layout.of(folder), files)

    @property
    def folder(self) -> str:
        """URI of the recipe folder."""
        return self.layout.folder

    def parts(self) -> Iterator[FileInfo]:
        """List the index parts in the order of their names.

        Raises:
            StorageError: The index cannot be listed.
        """
        return self.files.list(self.layout.index, suffixes=(".parquet",))

    def write(self, uri: str, data: bytes) -> None:
        """Write an object that belongs to no item.

        Raises:
            StorageError: It cannot be written.
        """
        try:
            self.files.write(uri, data)
        except WriteError as error:
            raise StorageError(str(error)) from error


def find_outputs(uri: str, files: Files) -> list[Output]:
    """Return the output of every recipe below ``uri``; if ``uri`` is itself a recipe folder, only that one.

    Raises:
        StorageError: The folder cannot be listed.
    """

    def is_recipe(folder: str) -> bool:
        return files.exists(join(folder, "recipe.json")) or files.is_folder(join(folder, "index"))

    folders = [uri] if is_recipe(uri) else [folder for folder in files.folders(uri) if is_recipe(folder)]
    return [Output.at(folder, files) for folder in folders]


def open_outputs(path: str, files: Files) -> list[Output]:
    """Return the outputs that ``find_outputs`` finds below a path or URI of the user.

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
    """Return the only output below a path or URI of the user, which may itself be a recipe folder.

    Raises:
        ConfigError: There is none, or there are several.
        StorageError: The folder cannot be listed.
    """
    output, *more = open_outputs(path, files)
    if more:
        folders = ", ".join(one.folder for one in (output, *more))
        raise ConfigError(f"{path} has the results of {1 + len(more)} recipes; name the folder of one: {folders}")
    return output
