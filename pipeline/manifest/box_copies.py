"""Extend a manifest with copies of its items that have another box: ``matteline manifest --boxes``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.config.job import Limits
from pipeline.errors import ConfigError, ItemError, ItemRefused
from pipeline.imaging.ground_truth import decode_ground_truth
from pipeline.imaging.rough_boxes import BOX_KINDS, INCOMPLETE, BoxKind, rough_box
from pipeline.manifest.corruptions import MARK, THREADS, is_copy, photo_groups, seed_of
from pipeline.manifest.items import CORNERS
from pipeline.manifest.tags import parse_tags
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files
from pipeline.types import Box


def parse_box_kinds(text: str) -> tuple[BoxKind, ...]:
    """Parse ``none,loose``; ``all`` selects every kind.

    Raises:
        ConfigError: A kind is unknown.
    """
    names = [word.strip() for word in text.split(",") if word.strip()]
    if unknown := sorted(set(names) - {*BOX_KINDS, "all"}):
        raise ConfigError(f"--boxes {text}: unknown kind {unknown[0]!r}; the kinds are {', '.join(BOX_KINDS)}, and all")
    return tuple(kind for kind in BOX_KINDS if kind in names or "all" in names)


def is_incomplete(item_id: str) -> bool:
    """Return whether this is the id of a copy whose box need not contain the object."""
    original, _, kind = item_id.rpartition(MARK)
    return bool(original) and kind in INCOMPLETE


def with_rough_boxes(
    table: pa.Table, kinds: Sequence[BoxKind], allowlist: AllowList, files: Files
) -> tuple[pa.Table, dict[str, int]]:
    """Add one row per item and kind of box, ``<item_id>@<kind>``.

    A copy has the columns of its item except ``item_id``, its box, and ``tags`` (the item's, and ``box:<kind>``). The column
    ``group`` is equal for all copies of a photo, as ``with_corruptions`` makes it; an existing one is kept. Corrupted copies
    get no further copies.

    Args:
        table: Columns ``item_id``, ``image_uri`` and ``truth_uri``.
        kinds: Kinds of boxes.
        allowlist: Where masks may be read; annotations can name any location.
        files: Storage.

    Returns:
        The table, and the number of copies left out by reason.

    Raises:
        ConfigError: There is no ground truth.
    """
    if "truth_uri" not in table.column_names or not table.num_rows - table["truth_uri"].null_count:
        raise ConfigError("--boxes needs ground truth: give --masks, --dis5k, --unpack, or --coco with --write-masks")
    rows = [
        {"group": group} | row | {"tags": parse_tags(row.get("tags"))}
        for row, group in zip(table.to_pylist(), photo_groups(table), strict=True)
    ]
    masked = [row for row in rows if row["truth_uri"] is not None and not is_copy(row["item_id"])]
    in_columns = "box" not in table.column_names
    copies_of = partial(
        _copies, kinds=kinds, set_box=_set_corners if in_columns else _set_list, allowlist=allowlist, files=files
    )
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(copies_of, masked))
    left_out = Counter(reason for _, reasons in results for reason in reasons)
    boxes = {name: pa.float64() for name in CORNERS} if in_columns else {"box": pa.list_(pa.float64())}
    own = boxes | {"tags": pa.list_(pa.string()), "group": pa.string()}
    fields = [field for field in table.schema if field.name not in own]
    schema = pa.schema([*fields, *(pa.field(name, kind) for name, kind in own.items())])
    return pa.Table.from_pylist(rows + [copy for copies, _ in results for copy in copies], schema), dict(left_out)


def _copies(
    row: dict[str, Any],
    *,
    kinds: Sequence[BoxKind],
    set_box: Callable[[Box | None], dict[str, Any]],
    allowlist: AllowList,
    files: Files,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of one item's copies, and the reasons for missing ones."""
    uri = row["truth_uri"]
    try:
        if not allowlist.allows(uri):
            raise ItemRefused(allowlist.refusal(uri))
        truth = decode_ground_truth(files.read(allowlist.real_path(uri), max_bytes=Limits().max_bytes), Limits())
    except ItemError as error:
        return [], [f"{row['item_id']}: {error}"] * len(kinds)
    seed = seed_of(row["item_id"])
    copies, missing = [], []
    for kind in kinds:
        try:
            box = rough_box(truth, kind, seed)
        except ValueError as error:
            missing.append(f"{kind}: {error}")
            continue
        named = {"item_id": f"{row['item_id']}{MARK}{kind}", "tags": [*row["tags"], f"box:{kind}"]}
        copies.append(row | named | set_box(box))
    return copies, missing


def _set_list(box: Box | None) -> dict[str, Any]:
    return {"box": None if box is None else list(box)}


def _set_corners(box: Box | None) -> dict[str, Any]:
    return dict(zip(CORNERS, box or (None,) * 4, strict=True))
