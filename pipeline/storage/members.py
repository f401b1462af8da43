"""URIs of pictures inside other files: a member of a tar archive, a cell of a Parquet file.

They are the URI of the file and a fragment that says where to read, so that nothing is unpacked and no archive is searched::

    s3://shop/shards/00000.tar#offset=1536&size=34567&name=00001.jpg
    /data/train.parquet#row=17&column=image

Everything that looks at a place (allowed roots, buckets, symbolic links, versions) looks at the file. Texts in a fragment are
percent-encoded, so it has no slash and no second ``#``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

MAX_NUMBER_DIGITS = 15
"""Digits of an offset, a size or a row: 1 PB."""

_NUMBER = f"[0-9]{{1,{MAX_NUMBER_DIGITS}}}"
_TAR = re.compile(f"offset=({_NUMBER})&size=({_NUMBER})&name=([^#&/]+)")
_CELL = re.compile(f"row=({_NUMBER})&column=([^#&/]+)")


@dataclass(frozen=True)
class TarMember:
    """A regular file in a tar archive."""

    container: str
    offset: int
    """Bytes before its header, which is directly before its content."""
    size: int
    """Bytes of its content."""
    name: str

    def __str__(self) -> str:
        return f"{self.container}#offset={self.offset}&size={self.size}&name={_encode(self.name)}"


@dataclass(frozen=True)
class Cell:
    """Bytes in a Parquet file."""

    container: str
    row: int
    """Number of the row in the file, from 0."""
    column: str
    """A column of bytes, or of structs with a field ``bytes``."""

    def __str__(self) -> str:
        return f"{cell_prefix(self.container)}{self.row}{cell_suffix(self.column)}"


def cell_prefix(container: str) -> str:
    """Return the part of a cell's URI before the row."""
    return f"{container}#row="


def cell_suffix(column: str) -> str:
    """Return the part of a cell's URI after the row."""
    return f"&column={_encode(column)}"


def parse_member(uri: str) -> TarMember | Cell | None:
    """Parse the URI of a picture inside a file; None for any other URI, which may also have a ``#``.

    The suffix of the file does not matter: a symbolic link to it may have been resolved, as those of the Hugging Face cache.
    """
    container, _, fragment = uri.rpartition("#")
    if container and (found := _TAR.fullmatch(fragment)):
        return TarMember(container, int(found[1]), int(found[2]), unquote(found[3], errors="replace"))
    if container and (found := _CELL.fullmatch(fragment)):
        return Cell(container, int(found[1]), unquote(found[2], errors="replace"))
    return None


def split_member(uri: str) -> tuple[str, str]:
    """Split a URI into that of the file that is read, and the fragment with its ``#``; empty if the URI is the file's own."""
    member = parse_member(uri) if "#" in uri else None
    return (uri, "") if member is None else (member.container, uri[len(member.container) :])


def _encode(text: str) -> str:
    return quote(text, safe=" ", errors="replace")
