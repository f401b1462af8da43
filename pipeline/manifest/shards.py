"""Read WebDataset shards, tar archives of samples, as tables: one row per sample, without its pictures.

A sample is the consecutive members of one key, the path up to the first dot of the name: ``00001.jpg``, ``00001.json`` and
``00001.txt``. Archives are never trusted: names are only ids, and headers and fields are bounded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa

from pipeline.config.columns import BOXES, Columns
from pipeline.manifest.items import MAX_TEXT, OWN_COLUMNS, USUAL, clean_names
from pipeline.manifest.json_lines import parse_object
from pipeline.manifest.listing import IMAGE_SUFFIXES, is_system_file
from pipeline.manifest.table_files import ROWS, TABLE_BYTES, translate_errors
from pipeline.storage.backend import is_hidden
from pipeline.storage.files import Files
from pipeline.storage.members import TarMember
from pipeline.storage.tar_members import tar_members
from pipeline.storage.uris import printable, redact

JSON, TEXTS = "json", ("txt", "cls")
"""Extensions of members that are carried: the fields of an object, and texts."""

FIRST_SAMPLES = 100
"""Samples whose fields become columns."""

MAX_COLUMNS, MAX_NAME = 200, 100
"""Fields that become columns, and characters of their names, at most."""

MAX_FIELD_BYTES = 2**20
"""Bytes of a member with fields or text, at most; a larger one is left out."""

MAX_MEMBERS = 1000
"""Members of a sample that are looked at."""

OWN = ("image_uri", "item_id")


@dataclass
class Sample:
    """The members of one key."""

    key: str
    members: dict[str, TarMember] = field(default_factory=dict)
    """By extension, such as ``jpg`` or ``seg.png``."""
    texts: dict[str, bytes] = field(default_factory=dict)
    """Contents by extension, of those that are carried."""

    def picture(self, extension: str | None) -> TarMember | None:
        """Return the member of this extension; by default the first picture, ``jpg`` rather than ``seg.png``; None if none."""
        if extension is not None:
            return self.members.get(extension.lstrip(".").lower())
        pictures = [name for name in self.members if f".{name}".endswith(IMAGE_SUFFIXES)]
        return self.members[min(pictures, key=lambda name: name.count("."))] if pictures else None

    def fields(self) -> dict[str, str | None]:
        """Return the carried fields as text: strings as they are, other values as JSON."""
        found: dict[str, str | None] = {}
        for name, value in _object(self.texts.get(JSON, b"")).items():
            found[name.strip()] = value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name in TEXTS:
            if name in self.texts:
                found.setdefault(name, self.texts[name].decode("utf-8", "replace").strip())
        return found


def shard_fields(uri: str, files: Files) -> list[str]:
    """Return the fields of a shard's first samples that become columns, as they are called there.

    Raises:
        ConfigError: The shard is damaged.
    """
    found: dict[str, str] = {}
    for sample in islice(_samples(uri, files), FIRST_SAMPLES):
        for name in sample.fields():
            clash = name.lower() in OWN_COLUMNS and name not in BOXES
            if name and name.isprintable() and len(name) <= MAX_NAME and not clash and len(found) < MAX_COLUMNS:
                found.setdefault(name.lower(), name)
    return list(found.values())


def shard_schema(uri: str, files: Files, chosen: Columns = USUAL) -> pa.Schema:
    """Return the columns of shards like this one, all of text.

    Raises:
        ConfigError: The shard is damaged.
    """
    names = clean_names([*OWN, *shard_fields(uri, files)], redact(uri), without_image(chosen))
    return pa.schema([(name, pa.string()) for name in names])


def shard_rows(uri: str, schema: pa.Schema, files: Files, chosen: Columns = USUAL) -> Iterator[pa.Table]:
    """Yield the samples of a shard in tables with the columns of ``schema``. A sample without a picture has no ``image_uri``.

    Raises:
        ConfigError: The shard is damaged.
    """
    rename = without_image(chosen).rename
    names = [name for name in schema.names if name != chosen.id]
    rows: list[dict[str, str | None]] = []
    used = 0
    for sample in _samples(uri, files):
        picture = sample.picture(chosen.image)
        own = {"image_uri": "" if picture is None else str(picture), "item_id": sample.key}
        row = {rename(name): value for name, value in (sample.fields() | own).items()}
        rows.append({name: row.get(name) for name in names})
        used += sum(map(len, (*own.values(), *sample.texts.values())))
        if len(rows) == ROWS or used > TABLE_BYTES:
            yield _table(rows, names)
            rows, used = [], 0
    if rows:
        yield _table(rows, names)


def without_image(chosen: Columns) -> Columns:
    """Return the chosen columns but for the image, which names an extension in shards."""
    return chosen if chosen.image is None else Columns(**(chosen.model_dump() | {"image": None}))


def _table(rows: list[dict[str, str | None]], names: list[str]) -> pa.Table:
    return pa.table({name: pa.array([row[name] for row in rows], pa.string()) for name in names})


def _samples(uri: str, files: Files) -> Iterator[Sample]:
    """Yield the samples of a shard in its order. A second member of a name begins another sample."""
    sample: Sample | None = None
    with translate_errors(uri, "tar archive (WebDataset)"), files.open_input(uri) as source:
        for member, content in tar_members(uri, source):
            name = printable(member.name).removeprefix("./")
            key, extension = split_key(name)
            if not key or len(name) > MAX_TEXT or is_hidden(name) or is_system_file(name):
                continue
            if sample is None or sample.key != key or extension in sample.members:
                if sample is not None:
                    yield sample
                sample = Sample(key)
            if len(sample.members) < MAX_MEMBERS:
                _add(sample, extension, member, content)
    if sample is not None:
        yield sample


def _add(sample: Sample, extension: str, member: TarMember, content: Callable[[], bytes]) -> None:
    sample.members[extension] = member
    if (extension == JSON or extension in TEXTS) and member.size <= MAX_FIELD_BYTES:
        sample.texts[extension] = content()


def split_key(name: str) -> tuple[str, str]:
    """Split the name of a member into the key of its sample and the extension in lower case, as WebDataset does.

    >>> split_key("train/00001.seg.png")
    ('train/00001', 'seg.png')
    """
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return (f"{folder}{slash}{stem}" if stem else ""), extension.lower()


def _object(data: bytes) -> dict[str, Any]:
    try:
        return parse_object(data.decode("utf-8-sig")) if data else {}
    except (ValueError, TypeError, RecursionError):  # the picture is usable without its fields
        return {}
