"""Find the images of tables that do not name them by URI: image folders of Hugging Face datasets, outputs of img2dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.columns import Columns
from pipeline.manifest.listing import IMAGE_SUFFIXES
from pipeline.storage.files import Files
from pipeline.storage.uris import join, name, parent

METADATA = "metadata."
"""Begin of the names of tables in the image folders of Hugging Face datasets."""


@dataclass(frozen=True)
class Placement:
    """Form of the relative URI of an image: ``<prefix><value of the column><suffix>``."""

    column: str
    prefix: str
    suffix: str = ""
    downloaded_only: bool = False
    """True to drop the rows whose ``status`` is not ``success``."""

    def add_column(self, table: pa.Table) -> pa.Table:
        """Add ``image_uri``, empty where the column is. Rows of images that img2dataset could not download are dropped."""
        if self.downloaded_only and "status" in table.column_names:
            table = table.filter(pc.fill_null(pc.equal(table["status"].cast(pa.string()), "success"), False))
        names = table[self.column].cast(pa.string()) if self.column in table.column_names else pa.nulls(len(table), pa.string())
        uris = pc.binary_join_element_wise(self.prefix, names, self.suffix, "")
        if "image_uri" in table.column_names:  # JSON Lines always have one
            table = table.drop_columns("image_uri")
        return table.append_column("image_uri", pc.if_else(pc.not_equal(names, ""), uris, ""))


@dataclass(frozen=True)
class Layout:
    """Folders of the images of some tables, relative to each table."""

    column: str
    """Column that names the image, under its usual name."""
    suffix: str = ""
    in_folder: bool = False
    """True if they are in a folder of the table's name: ``00000/`` beside ``00000.parquet``."""

    def placement(self, uri: str, base: str) -> Placement:
        """Return the placement of a table's images below ``base``, the folder of relative URIs."""
        folder = f"{parent(uri)}/".removeprefix(f"{base.rstrip('/')}/")
        return Placement(self.column, folder + (f"{_stem(uri)}/" if self.in_folder else ""), self.suffix, self.in_folder)


def is_metadata(uri: str) -> bool:
    """Return whether a table has the name of those in the image folders of Hugging Face datasets."""
    return name(uri).startswith(METADATA)


def is_img2dataset(names: Sequence[str]) -> bool:
    """Return whether a table has the columns of img2dataset's output."""
    return {"key", "status"} <= set(names) and "image_uri" not in names


def find_layout(uri: str, names: Sequence[str], chosen: Columns, files: Files) -> tuple[Columns, Layout | None]:
    """Find where the images of a table are, by its name, its columns and what is beside it.

    Args:
        uri: The table.
        names: Its columns.
        chosen: Columns that the user has named.
        files: Access to storage.

    Returns:
        The chosen columns, with img2dataset's ``key`` for the ids of such a table; and the layout, None if the table has to
        name its images.

    Raises:
        StorageError: A folder beside it can't be listed.
    """
    if chosen.image is not None or "image_uri" in names:
        return chosen, None
    if is_metadata(uri) and "file_name" in names:
        return chosen, Layout(chosen.rename("file_name"))
    if is_img2dataset(names):
        images = files.list(join(parent(uri), _stem(uri)), suffixes=IMAGE_SUFFIXES)
        if (first := next(iter(images), None)) is not None:
            with_key = chosen.model_copy(update={"id": "key"}) if chosen.id is None else chosen
            return with_key, Layout(with_key.rename("key"), f".{first.uri.rpartition('.')[2]}", in_folder=True)
    return chosen, None


def _stem(uri: str) -> str:
    return name(uri).partition(".")[0]
