"""A manifest with true masks, and harder copies of its photos written beside it: ``matteline manifest --copies``."""

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
from pipeline.imaging.corruptions import KINDS, Kind, make_copy, tag
from pipeline.imaging.decode import decode
from pipeline.imaging.ground_truth import decode_ground_truth
from pipeline.imaging.lossy import encode_lossy
from pipeline.manifest.tags import tags_of
from pipeline.storage import uris
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files
from pipeline.storage.object_names import object_name
from pipeline.types import Mask, Pixels

THREADS = 4
QUALITY = 97
"""Of the copies' JPEG, without halved colours: what a kind of copy does must not be undone, nor anything be added to it."""

CARRIED = ("tags", "group")


def kinds_of(text: str) -> tuple[Kind, ...]:
    """``blur,shadow`` as kinds; ``all`` is every one.

    Raises:
        ConfigError: one of them is none.
    """
    asked = [word.strip() for word in text.split(",") if word.strip()]
    if unknown := sorted(set(asked) - {*KINDS, "all"}):
        raise ConfigError(f"--copies {text}: there is no kind {unknown[0]!r}; there are {', '.join(KINDS)}, and all")
    return tuple(kind for kind in KINDS if kind in asked or "all" in asked)


def with_copies(
    table: pa.Table, kinds: Sequence[Kind], target: str, allowlist: AllowList, files: Files
) -> tuple[pa.Table, dict[str, int]]:
    """The manifest with a row more for every copy that could be made, named ``<item_id>@<kind>``.

    A copy has its item's row, but for ``item_id``, ``image_uri`` and ``tags`` (the item's, and ``tag`` of its kind). A column
    ``group`` is the same for all items of a photo and their copies (the first one's ``item_id``): they may not stand on both
    sides when something is fitted on one half and judged on the other. A distractor is the object of the table's next item.

    Args:
        table: with ``item_id``, ``image_uri`` and ``truth_uri``, as the other ways to build a manifest give it.
        target: the folder that the copies are written below, as JPEG.
        roots: where photos and true masks may be read; annotations may name any place.

    Returns:
        the table, and how many copies were left out, by reason.

    Raises:
        ConfigError: no true masks, or a column ``group`` already.
        WriteError: a copy can't be written.
    """
    if "truth_uri" not in table.column_names or not table.num_rows - table["truth_uri"].null_count:
        raise ConfigError("--copies needs true masks: give --masks, --dis5k, --unpack, or --coco with --write-masks")
    if "group" in table.column_names:
        raise ConfigError("the data set has a column group already, which --copies would make; rename it")
    groups: dict[str, str] = {}
    rows = [
        row | {"tags": tags_of(row.get("tags")), "group": groups.setdefault(row["image_uri"], row["item_id"])}
        for row in table.to_pylist()
    ]
    true = [row for row in rows if row["truth_uri"] is not None]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(
            pool.map(partial(_copies, kinds=kinds, target=target, allowlist=allowlist, files=files), true, [*true[1:], true[0]])
        )
    left_out = Counter(reason for _, reasons in found for reason in reasons)
    fields = [field for field in table.schema if field.name not in CARRIED]
    schema = pa.schema([*fields, pa.field("tags", pa.list_(pa.string())), pa.field("group", pa.string())])
    return pa.Table.from_pylist(rows + [copy for copies, _ in found for copy in copies], schema), dict(left_out)


def _copies(
    row: dict[str, Any], after: dict[str, Any], *, kinds: Sequence[Kind], target: str, allowlist: AllowList, files: Files
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of one photo's copies, and why others are missing."""
    try:
        photo, truth = _read(row, allowlist, files)
    except ItemError as error:
        return [], [f"{row['item_id']}: {error}"] * len(kinds)
    other = None
    if "distractor" in kinds and after is not row:
        try:
            other = _read(after, allowlist, files)
        except ItemError:
            other = None
    seed = int.from_bytes(hashlib.sha256(row["item_id"].encode("utf-8", "surrogatepass")).digest()[:8])
    made, missing = [], []
    for kind in kinds:
        try:
            copy = make_copy(photo, truth, kind, seed, other)
        except ValueError as error:
            missing.append(f"{kind}: {error}")
            continue
        item_id = f"{row['item_id']}@{kind}"
        uri = uris.join(target, f"{object_name(item_id)}.jpg")
        files.write(uri, encode_lossy(copy, "jpeg", QUALITY))
        made.append(row | {"item_id": item_id, "image_uri": uri, "tags": [*row["tags"], tag(kind)]})
    return made, missing


def _read(row: dict[str, Any], allowlist: AllowList, files: Files) -> tuple[Pixels, Mask]:
    limits = Limits()

    def read(uri: str) -> bytes:
        if not allowlist.allows(uri):
            raise ItemRefused(allowlist.refusal(uri))
        return files.read(allowlist.real_path(uri), max_bytes=limits.max_bytes)

    photo, truth = decode(read(row["image_uri"]), limits), decode_ground_truth(read(row["truth_uri"]), limits)
    if photo.shape[:2] != truth.shape:
        raise TruthError("the true mask has another size than its photo")
    return photo, truth
