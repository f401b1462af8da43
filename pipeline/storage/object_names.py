"""Turn item ids into names that every file system and object store takes."""

from __future__ import annotations

import hashlib
import re

LONGEST_NAME = 112
"""Bytes of an object's name without its suffix: short enough for every file system, encrypted ones too."""

_PLAIN = re.compile(r"[a-z0-9_][a-z0-9._-]*", re.ASCII)
_UNSAFE = re.compile(rb"[^A-Za-z0-9._-]|^\.")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:$|\.)", re.IGNORECASE)


def object_name(item_id: str) -> str:
    """A readable name for an item's objects: two items never share one, not even where case is ignored.

    Ids of ``a-z 0-9 . _ -`` are their own name. Any other character of an id becomes ``~`` and its UTF-8 bytes in hex; such
    names, long ones and ones with capital letters end in ``~`` and 16 digits of the id's hash, so only a collision of
    64-bit hashes between ids that also read alike could unite two.

    Returns:
        at most 112 ASCII characters of ``A-Z a-z 0-9 . _ - ~``, never starting with a dot.
    """
    if _PLAIN.fullmatch(item_id) and len(item_id) <= LONGEST_NAME and not _DEVICE.match(item_id):
        return item_id
    content = id_bytes(item_id)
    text = _UNSAFE.sub(lambda found: b"~%02X" % found[0][0], content).decode("ascii")
    if _DEVICE.match(text):
        text = f"~{ord(text[0]):02X}{text[1:]}"
    mark = hashlib.sha256(content).hexdigest()[:16]
    return f"{_cut(text, LONGEST_NAME - 17)}~{mark}"


def id_bytes(item_id: str) -> bytes:
    # Lone surrogates can't come out of Arrow, but a name must never fail.
    return item_id.encode("utf-8", "surrogatepass")


def _cut(text: str, length: int) -> str:
    """The beginning of an encoded name, not ending within an escape."""
    return re.sub(r"~[0-9A-F]?$", "", text[:length]) if len(text) > length else text
