"""Turn texts of strangers into object names that every file system and object store accepts, and that people can read."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from pipeline.errors import ConfigError

MAX_SEGMENT_BYTES = 140
"""UTF-8 bytes of one folder or file name without its suffix. Encrypted file systems accept 143 with it."""

MAX_NAME_BYTES = 700
"""UTF-8 bytes of a complete name. S3 accepts keys of 1024."""

_ESCAPED = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\\:*?\"<>|%"
"""Control characters, marks that reorder text, and signs that Windows forbids. ``%`` begins an escape."""

_UNSAFE = re.compile(f"[{_ESCAPED}]")
_NO_FOLDER = re.compile(r"^/|/(?=/|$)")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9¹²³]) *(?:$|\.)", re.IGNORECASE)
_OUTPUT_SUFFIX = re.compile(r"\.(?=(?:png|jpg|webp|json)$)", re.IGNORECASE)


def object_name(text: str) -> str:
    """Return ``text`` as a relative path without a suffix; a slash separates folders.

    Letters of any script, spaces and most signs are kept. Other characters become ``%`` and two hex digits per UTF-8 byte, so
    ``urllib.parse.unquote`` restores the text. Only a text that is too long is cut: it ends in ``~`` and 16 hex digits of its
    SHA-256. So does the name of an empty text.

    Two texts can share a file on some file systems; see ``collision_key``.
    """
    *folders, last = _NO_FOLDER.sub("%2F", _UNSAFE.sub(lambda match: _percent(match[0]), text)).split("/")
    segments = [*(_segment(_OUTPUT_SUFFIX.sub("%2E", folder)) for folder in folders), _segment(last)]
    name = "/".join(segments)
    return name if len(name.encode("utf-8")) <= MAX_NAME_BYTES else cut_name(segments[-1], text)


def collision_key(name: str) -> str:
    """Return a text that is equal for names that a file system may not tell apart: by case or by Unicode normal form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def cut_name(escaped: str, text: str) -> str:
    """Return a name that ends in ``~`` and 16 hex digits of the SHA-256 of its text. ``escaped`` is safe already."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    kept = escaped.encode("utf-8")[: MAX_SEGMENT_BYTES - 17].decode("utf-8", "ignore")
    return f"{re.sub(r'%[0-9A-F]?$', '', kept)}~{digest}"


class FileNames:
    """Names of the files below one folder, from texts of strangers. They stay below the folder, and none overwrites another."""

    def __init__(self) -> None:
        self._given: dict[str, tuple[str, str]] = {}

    def name(self, text: str, place: str = "") -> str:
        """Return the object name of a text. ``place`` says in messages who gives the text, such as a row of a file.

        Raises:
            ConfigError: The text was given before, or another one whose name a file system may not tell apart from its name.
                It names both.
        """
        found, mine = object_name(text), (text, place)
        other = self._given.setdefault(collision_key(found), mine)  # atomic: threads may share the names
        if other is mine:
            return found
        places = f": by {other[1]}, and by {place}" if place else ""
        if other[0] == text:
            raise ConfigError(f"{text[:200]!r} is given twice{places}; each needs a name of its own")
        raise ConfigError(
            f"{other[0][:200]!r} and {text[:200]!r} would share the file name {found!r} on some file systems{places}; "
            "rename one"
        )


def _segment(escaped: str) -> str:
    """Return one folder or file name, with escapes where its position matters, of at most ``MAX_SEGMENT_BYTES``."""
    if escaped.startswith(".") or _DEVICE.match(escaped):
        escaped = _percent(escaped[0]) + escaped[1:]
    if escaped.endswith((".", " ")):
        escaped = escaped[:-1] + _percent(escaped[-1])
    return escaped if 0 < len(escaped.encode("utf-8")) <= MAX_SEGMENT_BYTES else cut_name(escaped, escaped)


def _percent(characters: str) -> str:
    return "".join(f"%{byte:02X}" for byte in characters.encode("utf-8", "surrogatepass"))
