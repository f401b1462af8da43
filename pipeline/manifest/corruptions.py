"""Extend a manifest with corrupted copies of its photos: ``matteline manifest --corruptions``."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.config.job import Limits
from pipeline.errors import ConfigError, ItemError, ItemRefused, TruthError
from pipeline.imaging.corruptions import KINDS, Kind, corrupt, tag
from pipeline.imaging.decode import decode
from pipeline.imaging.ground_truth import decode_ground_truth
from pipeline.imaging.lossy import encode_lossy
from pipeline.manifest.tags import parse_tags
from pipeline.storage import uris
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files
from pipeline.storage.object_names import FileNames
from pipeline.types import Mask, Pixels

THREADS = 4

QUALITY = 97
"""JPEG quality of the copies, with full chroma, so that encoding neither removes nor adds a corruption."""

MARK = "@"
"""Between an item's id and the kind of corruption, in the id of a copy."""

_ADDED = ("tags", "group")


def parse_kinds(text: str) -> tuple[Kind, ...]:
    """Parse ``blur,shadow``; ``all`` selects every kind.

    Raises:
        ConfigError: A kind is unknown.
    """
    names = [word.strip() for word in text.split(",") if word.strip()]
    if unknown := sorted(set(names) - {*KINDS, "all"}):
        raise ConfigError(f"--corruptions {text}: unknown kind {unknown[0]!r}; the kinds are {', '.join(KINDS)}, and all")
    return tuple(kind for kind in KINDS if kind in names or "all" in names)


def is_copy(item_id: str) -> bool:
    """Return whether this is the id of a corrupted copy."""
    original, _, kind = item_id.rpartition(MARK)
    return bool(original) and kind in KINDS


def seed_of(item_id: str) -> int:
    """Return the seed of an item's copies, which is the same in every run."""
    return int.from_bytes(hashlib.sha256(item_id.encode("utf-8", "surrogatepass")).digest()[:8])


def photo_groups(table: pa.Table) -> list[str]:
    """Return the group of each row: the first ``item_id`` of its photo. A row without a photo is alone."""
    first: dict[str, str] = {}
    photos = zip(table["image_uri"].to_pylist(), table["item_id"].to_pylist(), strict=True)
    return [first.setdefault(uri or item_id, item_id) for uri, item_id in photos]


def with_corruptions(
    table: pa.Table, kinds: Sequence[Kind], target: str, allowlist: AllowList, files: Files
) -> tuple[pa.Table, dict[str, int]]:
    """Add one row per corrupted copy, ``<item_id>@<kind>``, with a JPEG below ``target``.

    A copy has the columns of its item except ``item_id``, ``image_uri`` and ``tags`` (the item's, and ``tag(kind)``). The
    column ``group`` is equal for all items and copies of a photo (the first ``item_id``), so that a split into a fitting and
    a test half can keep them together. A distractor is the object of the next item in the table.

    Args:
        table: Columns ``item_id``, ``image_uri`` and ``truth_uri``.
        kinds: Kinds of corruption.
        target: Folder of the copies.
        allowlist: Where photos and masks may be read; annotations can name any location.
        files: Storage.

    Returns:
        The table, and the number of copies left out by reason.

    Raises:
        ConfigError: There is no ground truth, or the table already has a column ``group``.
        WriteError: A copy can't be written.
    """
    if "truth_uri" not in table.column_names or not table.num_rows - table["truth_uri"].null_count:
        raise ConfigError("--corruptions needs ground truth: give --masks, --dis5k, --unpack, or --coco with --write-masks")
    if "group" in table.column_names:
        raise ConfigError("the data set has a column 'group', and --corruptions adds one of that name; rename yours")
    rows = [
        row | {"tags": parse_tags(row.get("tags")), "group": group}
        for row, group in zip(table.to_pylist(), photo_groups(table), strict=True)
    ]
    masked = [row for row in rows if row["truth_uri"] is not None]
    make_copies = partial(_copies, kinds=kinds, target=target, names=FileNames(), allowlist=allowlist, files=files)
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(make_copies, masked, [*masked[1:], masked[0]]))
    left_out = Counter(reason for _, reasons in results for reason in reasons)
    fields = [field for field in table.schema if field.name not in _ADDED]
    schema = pa.schema([*fields, pa.field("tags", pa.list_(pa.string())), pa.field("group", pa.string())])
    return pa.Table.from_pylist(rows + [copy for copies, _ in results for copy in copies], schema), dict(left_out)


def _copies(
    row: dict[str, Any],
    following: dict[str, Any],
    *,
    kinds: Sequence[Kind],
    target: str,
    names: FileNames,
    allowlist: AllowList,
    files: Files,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of one photo's copies, and the reasons for missing ones."""
    try:
        photo, truth = _read(row, allowlist, files)
    except ItemError as error:
        return [], [f"{row['item_id']}: {error}"] * len(kinds)
    other = None
    if "distractor" in kinds and following is not row:
        try:
            other = _read(following, allowlist, files)
        except ItemError:
            other = None
    seed = seed_of(row["item_id"])
    copies, missing = [], []
    for kind in kinds:
        try:
            copy = corrupt(photo, truth, kind, seed, other)
        except ValueError as error:
            missing.append(f"{kind}: {error}")
            continue
        item_id = f"{row['item_id']}{MARK}{kind}"
        uri = uris.join(target, f"{names.name(item_id)}.jpg")
        files.write(uri, encode_lossy(copy, "jpeg", QUALITY))
        copies.append(row | {"item_id": item_id, "image_uri": uri, "tags": [*row["tags"], tag(kind)]})
    return copies, missing


def _read(row: dict[str, Any], allowlist: AllowList, files: Files) -> tuple[Pixels, Mask]:
    limits = Limits()

    def read(uri: str | None) -> bytes:
        if uri is None:
            raise ItemRefused("it has no picture")
        if not allowlist.allows(uri):
            raise ItemRefused(allowlist.refusal(uri))
        return files.read(allowlist.real_path(uri), max_bytes=limits.max_bytes)

    photo, truth = decode(read(row["image_uri"]), limits), decode_ground_truth(read(row["truth_uri"]), limits)
    if photo.shape[:2] != truth.shape:
        raise TruthError("the ground truth has another size than its photo")
    return photo, truth
