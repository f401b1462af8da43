"""Read the photos of a data set, and copy or link them."""

from __future__ import annotations

import hashlib
from typing import Literal

from pipeline.config.job import Limits
from pipeline.datasets.form import Photo, Picture
from pipeline.errors import ConfigError, FetchError
from pipeline.imaging.sniff import SUFFIXES, sniff
from pipeline.storage import uris
from pipeline.storage.allowlist import AllowList, display_uri
from pipeline.storage.files import Files
from pipeline.storage.members import split_member

ImageMode = Literal["copy", "link"]


def read_photo(picture: Picture, allowlist: AllowList, files: Files) -> Photo:
    """Read the photo of a picture.

    Raises:
        ItemError: It is outside the allowed roots, cannot be read, is no image, or has changed since its masks were made.
    """
    row = picture.rows[0]
    uri = row["image_uri"]
    if not allowlist.allows(uri):
        raise FetchError(allowlist.refusal(uri))
    real, limits = allowlist.real_path(uri), Limits()
    data = files.read(real, max_bytes=limits.max_bytes, timeout_s=limits.fetch_s)
    if hashlib.sha256(data).hexdigest() != row["image_sha256"]:
        raise FetchError(f"{display_uri(uri)} has changed since its mask was made; run again with --changed")
    return Photo(data, SUFFIXES[sniff(data)], real)


class PhotoWriter:
    """Copies photos into a data set, or links to them.

    Args:
        mode: ``link`` writes symbolic links.
        files: Access to storage.
    """

    def __init__(self, mode: ImageMode, files: Files) -> None:
        self.mode, self.files = mode, files

    def check(self, picture: Picture) -> None:
        """Refuse a link to a photo that is not on a disk of this machine.

        Raises:
            ConfigError: It is elsewhere.
        """
        uri = picture.rows[0]["image_uri"]
        if self.mode == "link" and (uris.scheme(uri) or split_member(uri)[1]):
            raise ConfigError(f"{display_uri(uri)} is not a local file of its own, so it cannot be linked; use --images copy")

    def write(self, photo: Photo, target: str) -> None:
        """Copy or link a photo.

        Raises:
            WriteError: It cannot be written.
        """
        if self.mode == "link":
            self.files.link(photo.uri, target)
        else:
            self.files.write(target, photo.data)
