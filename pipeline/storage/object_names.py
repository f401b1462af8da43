"""Turn item ids into object names that every file system and object store accepts."""

from __future__ import annotations

import hashlib
import re

MAX_NAME_LENGTH = 112
"""Characters of an object name without its suffix. Every file system accepts it, encrypted ones too."""

_PLAIN = re.compile(r"[a-z0-9_][a-z0-9._-]*", re.ASCII)
_UNSAFE = re.compile(rb"[^A-Za-z0-9._-]|^\.")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:$|\.)", re.IGNORECASE)


def object_name(item_id: str) -> str:
    """Return a readable, unique name for an item's objects, also on file systems that ignore case.

    Ids of ``a-z 0-9 . _ -`` are their own name. Any other character becomes ``~`` and its UTF-8 bytes in hex. Such names,
    long names and names with capital letters end in ``~`` and 16 hex digits of the id's SHA-256. Two ids could share a name
    only if these 64 bits and the readable part both collide.

    Returns:
        At most 112 ASCII characters of ``A-Z a-z 0-9 . _ - ~``, never starting with a dot.
    """
    if _PLAIN.fullmatch(item_id) and len(item_id) <= MAX_NAME_LENGTH and not _DEVICE.match(item_id):
        return item_id
    content = id_bytes(item_id)
    text = _UNSAFE.sub(lambda match: b"~%02X" % match[0][0], content).decode("ascii")
    if _DEVICE.match(text):
        text = f"~{ord(text[0]):02X}{text[1:]}"
    return f"{_truncate(text, MAX_NAME_LENGTH - 17)}~{hashlib.sha256(content).hexdigest()[:16]}"


def id_bytes(item_id: str) -> bytes:
    """Encode an id as UTF-8. Lone surrogates, which Arrow never returns, are encoded as well."""
    return item_id.encode("utf-8", "surrogatepass")


def _truncate(text: str, length: int) -> str:
    """Shorten an encoded name without splitting an escape."""
    return re.sub(r"~[0-9A-F]?$", "", text[:length]) if len(text) > length else text
