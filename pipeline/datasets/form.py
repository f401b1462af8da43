"""The interface between the images of a data set and the forms in which it is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from pipeline.datasets.rows import Row
from pipeline.types import Mask, Size


class Photo(NamedTuple):
    """The file of an image, as it was when its masks were made."""

    data: bytes
    suffix: str
    """That of the file's format, without a dot."""
    uri: str


@dataclass(frozen=True)
class Picture:
    """An image and the index rows of its objects."""

    path: str
    """Path below the manifest's folder, or the file name in the COCO file that the manifest was built from."""
    shares_path: bool
    """True if another picture has the same path."""
    name: str
    """Distinct, safe name for files, without a suffix (``names.Names``)."""
    split: str | None
    """None without a column ``split``."""
    size: Size
    rows: list[Row]
    stale: int
    """Rows that are left out, because a newer row has another version of the image."""


class Object(NamedTuple):
    """One mask."""

    row: Row
    png: bytes
    """The mask's file."""
    mask: Mask
    inside: Mask
    """0 and 1: where the mask is above one half."""


class Part(Protocol):
    """Results of a form for one picture. Pictures are made in several threads, each by one of them."""

    def add(self, one: Object) -> None:
        """Take the next object."""

    def finish(self) -> Any:
        """Write the files of this picture, and return what ``Form.add`` needs."""


class Form(Protocol):
    """One form of data set. ``begin`` is called from several threads, ``add`` and ``close`` from one."""

    needs_photo: bool
    """True if pictures without a readable photo are left out."""
    written: list[str]
    """The files or folders to show to the user, complete after ``close``."""

    def check(self, picture: Picture) -> None:
        """Refuse a picture that the form cannot hold. Called for all pictures, before any is made.

        Raises:
            ConfigError: The form cannot hold it.
        """

    def begin(self, picture: Picture, photo: Photo | None) -> Part:
        """Start a picture."""

    def add(self, picture: Picture, made: Any) -> None:
        """Take the result of a picture's part, in the order of the pictures."""

    def close(self) -> None:
        """Write what belongs to no single picture."""
