"""Name the files of an item: by its id, by its image, or by a template of manifest columns (``output.name``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from string import Formatter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigError
from pipeline.manifest.boxes import Boxes
from pipeline.manifest.listing import IMAGE_SUFFIXES
from pipeline.manifest.videos import VIDEO_SUFFIXES
from pipeline.storage.members import TarMember, parse_member
from pipeline.storage.object_names import collision_key, object_name
from pipeline.storage.uris import strip_signature

OWN_FIELDS = ("item_id", "image", "suffix")
"""Fields of a template besides the manifest's columns.

``item_id``: the id. ``image``: the image's path below the manifest's folder, without the suffix of the image. ``suffix``: that
suffix in lower case, without its dot.
"""

_SUFFIX = re.compile(f"({'|'.join(re.escape(suffix) for suffix in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))})$", re.IGNORECASE)

# Names that are their own object name, in the syntax of RE2.
_PLAIN = r"^[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*$"
_DEVICE = r"(?i)(?:^|/)(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:$|/)"
_PLAIN_CHARS = 100


@dataclass(frozen=True)
class NameTemplate:
    """Template of the file names. ``text`` is None for the default: the id where the manifest has one, else the image."""

    text: str | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields in the template, in their order."""
        return tuple(field for _, field, _, _ in Formatter().parse(self.text or "") if field is not None)

    def check(self, columns: Sequence[str], source: str) -> None:
        """Check that the manifest has all columns of the template.

        Raises:
            ConfigError: A field is no column or has a format, or the template has none.
        """
        try:
            fields, formats = self.fields, [spec or how for _, _, spec, how in Formatter().parse(self.text or "")]
        except ValueError as error:
            raise ConfigError(f"output.name {self.text!r} is not a template ({error}); write for instance {{sku}}") from None
        if any(formats):
            raise ConfigError(
                f"output.name {self.text!r} has a format, such as {{sku:03}}, which is not supported; write {{{fields[0]}}}"
            )
        known = [*OWN_FIELDS, *columns]
        for field in fields:
            if field not in known:
                raise ConfigError(f"output.name {self.text!r} needs a column {field!r}; {source} has {', '.join(known)}")
        if self.text is not None and not fields:
            raise ConfigError(f"output.name {self.text!r} is the same for all items; use a field such as {{item_id}}")

    def apply(self, row: dict[str, Any]) -> str:
        """Return the name of one item, not escaped yet.

        Raises:
            KeyError: A field has no value.
        """
        parts = []
        for literal, field, _, _ in Formatter().parse(self.text or ""):
            parts.append(literal)
            if field is not None:
                value = row.get(field)
                if value is None or value == "":
                    raise KeyError(field)
                parts.append(str(value))
        return "".join(parts)


def output_names(
    template: NameTemplate,
    raw: pa.Table,
    given: pa.Array,
    images: pa.Array,
    boxes: Boxes,
    suffixes: Sequence[str] | None,
    base: str,
) -> tuple[pa.Array, dict[int, str]]:
    """Return the names of the files of items, and messages for rows that have none.

    Args:
        template: The template.
        raw: The manifest's rows, one per item.
        given: Their ids, empty where the manifest has none.
        images: Their images' URIs, never null.
        boxes: Their boxes.
        suffixes: ``#0``, ``#1``, … of items that share a row; None if none do.
        base: Folder of the manifest.

    Returns:
        Object names (``storage.object_names``), and messages by row.
    """
    if template.text is None and suffixes is None and not pc.any(pc.equal(given, "")).as_py():
        return object_names(given), {}
    texts: list[str] = []
    errors: dict[int, str] = {}
    columns = raw.select([field for field in template.fields if field in raw.column_names]).to_pylist()
    for row, (item_id, uri) in enumerate(zip(given.to_pylist(), images.to_pylist(), strict=True)):
        image, suffix = image_name(uri, base)
        if template.text is None:
            label = "" if suffixes is not None or item_id else boxes.label(row)
            text = (item_id or image) + (f"-{label.replace(',', '-')}" if label else "")
        else:
            try:
                text = template.apply(columns[row] | {"image": image, "suffix": suffix, "item_id": item_id or image})
            except KeyError as error:
                text, errors[row] = item_id or image, f"output.name needs the column {error}, which is empty here; fill it"
        texts.append(text + (suffixes[row].replace("#", "-") if suffixes is not None else ""))
    return object_names(pa.array(texts, pa.string())), errors


def image_name(uri: str, base: str) -> tuple[str, str]:
    """Return an image's name and its suffix.

    The name is the path below the manifest's folder. For an image elsewhere it begins with the bucket or host. For one inside
    another file, it is the file's path without its suffix, with the name in the archive or the number of the row.

    >>> image_name("/shop/photos/shelf/a.JPG", "/shop/photos")
    ('shelf/a', 'jpg')
    """
    member = parse_member(uri) if "#" in uri else None
    if member is not None:
        stem = member.container.rpartition(".")[0]
        uri = f"{stem}/{member.name}" if isinstance(member, TarMember) else f"{stem}-{member.row:06}"
    path = strip_signature(uri) if "://" in uri else uri  # names must contain no credentials
    inside = f"{base.rstrip('/')}/"
    path = path.removeprefix(inside) if path.startswith(inside) else path.partition("://")[2] or path.lstrip("/")
    found = _SUFFIX.search(path)
    return (path[: found.start()], found[0][1:].lower()) if found and found.start() else (path, "")


def object_names(texts: pa.Array) -> pa.Array:
    """Apply ``object_name`` to a column of strings without nulls."""
    plain = pc.and_(pc.match_substring_regex(texts, _PLAIN), pc.less_equal(pc.utf8_length(texts), _PLAIN_CHARS))
    plain = pc.and_not(plain, pc.match_substring_regex(texts, _DEVICE))
    if pc.all(plain, min_count=0).as_py():
        return texts
    names = texts.to_pylist()
    for row in np.flatnonzero(pc.invert(plain).to_numpy(zero_copy_only=False)).tolist():
        names[row] = object_name(names[row])
    return pa.array(names, pa.string())


def name_keys(names: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """Return 64-bit hashes of the names' collision keys. Equal keys have equal hashes; the reverse must be checked."""
    keys: list[str] = pc.ascii_lower(names).to_pylist()
    for row in np.flatnonzero(pc.invert(pc.string_is_ascii(names)).to_numpy(zero_copy_only=False)).tolist():
        keys[row] = collision_key(names[row].as_py())
    return np.frombuffer(b"".join([blake2b(key.encode(), digest_size=8).digest() for key in keys]), dtype=np.uint64)
