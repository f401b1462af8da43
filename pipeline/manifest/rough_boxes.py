"""Extend a manifest with copies of its items that have another box: ``matteline manifest --boxes``."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, get_args

import cv2
import numpy as np
import pyarrow as pa

from pipeline.config.job import Limits
from pipeline.errors import ConfigError, ItemError, ItemRefused
from pipeline.imaging.ground_truth import decode_ground_truth
from pipeline.imaging.rle import HALF
from pipeline.manifest.corruptions import MARK, THREADS, is_copy
from pipeline.manifest.tags import parse_tags
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files
from pipeline.types import Box, Mask

BoxKind = Literal["none", "tight", "loose", "whole", "shifted", "cut", "beside"]
BOX_KINDS: tuple[BoxKind, ...] = get_args(BoxKind)

INCOMPLETE: tuple[BoxKind, ...] = ("shifted", "cut", "beside")
"""Boxes that need not contain the object."""

LOOSE, SHIFT, CUT, WHOLE = 0.6, 0.15, 0.2, 0.02
"""Largest distance on a side of a loose box, and displacement, as shares of the object's width or height; largest share that a
cut removes; distance of a box around everything from the picture's border, as a share of its width or height."""

MAX_COMMON = 0.1
"""Largest share of the object that a box beside it may contain."""

PLACES = 9
"""Positions per axis that a box beside the object is chosen from."""

_CORNERS = ("x0", "y0", "x1", "y1")


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


def rough_box(ground_truth: Mask, kind: BoxKind, seed: int) -> Box | None:
    """Return a box as people and detectors draw it, within the picture. The same arguments always return the same box.

    Args:
        ground_truth: (H, W) uint8.
        kind: ``none``: no box. ``tight``: the object's bounding box. ``loose``: 0 to 60 % of its width or height farther
            out on every side. ``whole``: nearly the complete picture. ``shifted``: displaced by up to 15 %. ``cut``: without 5
            to 20 % on one or two sides. ``beside``: of the object's size, where the least of the object is.
        seed: 0 or more.

    Raises:
        ValueError: There is no object, or no room beside it.
    """
    inside = np.asarray(ground_truth >= HALF, np.uint8)
    if not inside.any():
        raise ValueError("the ground truth has no object")
    if kind == "none":
        return None
    height, width = inside.shape
    x, y, across, down = cv2.boundingRect(inside)
    sides, outward = np.array([across, down] * 2, float), np.array([-1, -1, 1, 1])
    tight = np.array([x, y, x + across, y + down], float)
    rng = np.random.default_rng([seed, BOX_KINDS.index(kind)])
    if kind == "beside":
        return _beside(inside, (across, down))
    if kind == "whole":
        box = np.array([WHOLE * width, WHOLE * height, (1 - WHOLE) * width, (1 - WHOLE) * height])
    elif kind == "loose":
        box = tight + outward * rng.uniform(0, LOOSE, 4) * sides
    elif kind == "shifted":
        box = tight + np.tile(rng.uniform(-SHIFT, SHIFT, 2), 2) * sides
    elif kind == "cut":
        cut = np.zeros(4)
        cut[rng.permutation(4)[: int(rng.integers(1, 3))]] = 1
        box = tight - outward * cut * rng.uniform(CUT / 4, CUT, 4) * sides
    else:
        box = tight
    clipped = np.clip(np.rint(box), 0, (width, height, width, height))
    return Box(*(float(value) for value in clipped))


def _beside(inside: Mask, size: tuple[int, int]) -> Box:
    """Return a box of this width and height, at most half of the picture's, that contains the least of the object."""
    height, width = inside.shape
    across, down = min(size[0], width // 2), min(size[1], height // 2)
    sums = cv2.integral(inside)
    xs, ys = (np.linspace(0, room, PLACES).astype(int) for room in (width - across, height - down))
    found = [
        (int(sums[y + down, x + across] - sums[y, x + across] - sums[y + down, x] + sums[y, x]), x, y) for x in xs for y in ys
    ]
    common, x, y = min(found)
    if common > MAX_COMMON * np.count_nonzero(inside) or min(across, down) < 1:
        raise ValueError("there is no room for a box beside the object")
    return Box(float(x), float(y), float(x + across), float(y + down))


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
    groups: dict[str, str] = {}
    rows = [
        {"group": groups.setdefault(row["image_uri"], row["item_id"])} | row | {"tags": parse_tags(row.get("tags"))}
        for row in table.to_pylist()
    ]
    masked = [row for row in rows if row["truth_uri"] is not None and not is_copy(row["item_id"])]
    in_columns = "box" not in table.column_names
    copies_of = partial(
        _copies, kinds=kinds, set_box=_set_corners if in_columns else _set_list, allowlist=allowlist, files=files
    )
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(copies_of, masked))
    left_out = Counter(reason for _, reasons in results for reason in reasons)
    boxes = {name: pa.float64() for name in _CORNERS} if in_columns else {"box": pa.list_(pa.float64())}
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
    seed = int.from_bytes(hashlib.sha256(row["item_id"].encode("utf-8", "surrogatepass")).digest()[:8])
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
    return dict(zip(_CORNERS, box or (None,) * 4, strict=True))
