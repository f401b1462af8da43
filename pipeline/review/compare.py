"""Compare two outputs item by item, and measure the drift of their quality (``matteline compare``)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.concurrency import map_ahead
from pipeline.config.job import Drift
from pipeline.errors import ItemError
from pipeline.imaging.validate import decode_mask
from pipeline.imaging.views import most_changed
from pipeline.output.index import add_counts, read_index
from pipeline.output.output import Output
from pipeline.quality.drift import Distribution, drift_report, kolmogorov_smirnov, shifts, stability_index
from pipeline.types import Mask

COLUMNS = ("item_id", "status", "quality", "mask_path", "mask_sha256", "video_facts")
CHUNK = 1024
THREADS = 8
MAX_CHANGES = 50
"""Changed items that are listed, worst first."""

Pair = tuple[dict[str, Any], dict[str, Any]]
"""An item's rows in the two indexes."""


@dataclass(frozen=True)
class Change:
    """One changed item. ``dice`` is None if the masks cannot be compared; then ``note`` has the reason."""

    item_id: str
    dice: float | None
    quality_before: float | None
    quality_after: float | None
    note: str = ""
    place: tuple[int, int] | None = None
    """Row and column of the top left corner of the most changed window, which ``views`` shows at 1:1."""


@dataclass
class Comparison:
    """Counts of items, the drift of the quality, and the most changed items, worst first."""

    before: int = 0
    after: int = 0
    same: int = 0
    """Items with identical masks; videos with identical files."""
    changed: int = 0
    appeared: int = 0
    vanished: int = 0
    newly_failed: int = 0
    mended: int = 0
    """Items that failed before and succeeded after."""
    incomparable: int = 0
    """Items whose masks differ in size, or cannot be read."""
    mean_dice: float | None = None
    """Mean Dice of the changed masks that can be compared."""
    ks: float | None = None
    """Kolmogorov-Smirnov statistic of the two qualities, [0, 1]."""
    psi: float | None = None
    """Population stability index of the qualities. 0: no drift; above 0.25: commonly called a shift."""
    drift: dict[str, Any] = field(default_factory=dict)
    """The test for drift with the default tolerances (``quality.drift.drift_report``)."""
    worst: list[Change] = field(default_factory=list)


def compare(one: Output, other: Output, max_changes: int = MAX_CHANGES) -> Comparison:
    """Compare two outputs item by item. Masks are read only if their hashes differ, a few at a time.

    The rows of the first index are held in memory as Arrow columns (300 bytes per item), those of the second are streamed.

    Raises:
        StorageError: An index cannot be read.
    """
    before, sides = _table(one), (one, other)
    found, first = Comparison(before=before.num_rows), _qualities(before)
    matched = np.zeros(before.num_rows, np.bool_)
    later: list[npt.NDArray[np.float64]] = []
    statuses: tuple[dict[str, int], dict[str, int]] = {}, {}
    add_counts(before["status"], statuses[0])
    dices: list[float] = []
    worst: list[tuple[float, str, int, Change, Pair]] = []
    order = count()  # of equal entries, so that changes are never compared
    with ThreadPoolExecutor(THREADS) as pool:
        for part in read_index(other, COLUMNS):
            found.after += part.num_rows
            later.append(_qualities(part))
            add_counts(part["status"], statuses[1])
            places = pc.index_in(part["item_id"], value_set=before["item_id"].combine_chunks())
            known = places.is_valid()
            found.appeared += part.num_rows - int(pc.sum(known).as_py() or 0)
            rows, was = part.filter(known), before.take(places.drop_null())
            matched[places.drop_null().to_numpy()] = True
            for change, pair in map_ahead(pool, partial(_change, sides), _pairs(was, rows, found), 2 * THREADS):
                found.incomparable += change.dice is None
                dices += [] if change.dice is None else [change.dice]
                # The heap holds the worst changes. Its first entry is the least of them, and is dropped first.
                heapq.heappush(worst, (-_rank(change), change.item_id, next(order), change, pair))
                if len(worst) > max_changes:
                    heapq.heappop(worst)
        found.worst = list(pool.map(partial(_locate, sides), sorted(worst, key=lambda entry: (-entry[0], entry[1]))))
    found.vanished = int((~matched).sum())
    found.mean_dice = float(np.mean(dices)) if dices else None
    second = np.concatenate(later) if later else np.empty(0)
    if len(first) and len(second):
        found.ks, found.psi = kolmogorov_smirnov(first, second), stability_index(first, second)
    settings, (was, now) = Drift(), (Distribution.of(statuses[0], first), Distribution.of(statuses[1], second))
    found.drift = drift_report(shifts(was, now, settings.tolerated, settings.confidence))
    return found


def numbers(found: Comparison) -> list[tuple[str, str]]:
    """Return the counts and the drift as names and texts for a table."""
    counts = ("before", "after", "same", "changed", "appeared", "vanished", "newly_failed", "mended", "incomparable")
    rows = [(name.replace("_", " "), str(getattr(found, name))) for name in counts]
    drift = (
        ("mean Dice of changed masks", found.mean_dice),
        ("drift of quality, Kolmogorov-Smirnov", found.ks),
        ("stability index", found.psi),
    )
    return rows + [(name, f"{value:.4f}") for name, value in drift if value is not None]


def dice(one: Mask, other: Mask) -> float:
    """Return the soft Dice of two masks of one size, 2·Σ min(a, b) / (Σ a + Σ b), [0, 1]; 1 if both are empty."""
    total = int(one.sum(dtype=np.int64)) + int(other.sum(dtype=np.int64))
    return 1.0 if not total else 2 * int(np.minimum(one, other).sum(dtype=np.int64)) / total


def _table(output: Output) -> pa.Table:
    parts = [part.select(COLUMNS) for part in read_index(output, COLUMNS)]
    return pa.concat_tables(parts) if parts else pa.table({name: pa.array([], pa.string()) for name in COLUMNS})


def _qualities(rows: pa.Table) -> npt.NDArray[np.float64]:
    return np.asarray(rows["quality"].cast(pa.float64()).drop_null().to_numpy(), np.float64)


def _pairs(was: pa.Table, rows: pa.Table, found: Comparison) -> Iterator[Pair]:
    """Yield the items of both indexes whose masks may differ, and count the others."""
    for start in range(0, rows.num_rows, CHUNK):
        pairs = zip(was.slice(start, CHUNK).to_pylist(), rows.slice(start, CHUNK).to_pylist(), strict=True)
        for old, new in pairs:
            failed = (old["status"] == "failed", new["status"] == "failed")
            found.newly_failed += failed == (False, True)
            found.mended += failed == (True, False)
            if any(failed):
                continue
            if _sha256(old) == _sha256(new) is not None:
                found.same += 1
                continue
            found.changed += 1
            yield old, new


def _sha256(row: dict[str, Any]) -> str | None:
    """Return the hash of an item's mask, or else of the first file of a video; None without both."""
    files: list[dict[str, Any]] = (row["video_facts"] or {}).get("files") or [{}]
    found: str | None = row["mask_sha256"] or files[0].get("sha256")
    return found


def _change(sides: tuple[Output, Output], pair: Pair) -> tuple[Change, Pair]:
    old, new = pair
    unknown = Change(new["item_id"], None, old["quality"], new["quality"])
    if old["video_facts"] is not None and new["video_facts"] is not None:
        return replace(unknown, note="of videos, only the quality is compared"), pair
    if old["mask_path"] is None or new["mask_path"] is None:
        return replace(unknown, note="one of the recipes writes no masks"), pair
    try:
        one, other = _read_masks(sides, pair)
    except ItemError as error:
        return replace(unknown, note=f"a mask cannot be read: {error}"[:300]), pair
    if one.shape != other.shape:
        sizes = f"{one.shape[1]} × {one.shape[0]} and {other.shape[1]} × {other.shape[0]}"
        return replace(unknown, note=f"the masks differ in size: {sizes}"), pair
    return replace(unknown, dice=dice(one, other)), pair


def _read_masks(sides: tuple[Output, Output], pair: Pair) -> tuple[Mask, Mask]:
    one, other = (decode_mask(side.read(row["mask_path"])) for side, row in zip(sides, pair, strict=True))
    return one, other


def _locate(sides: tuple[Output, Output], entry: tuple[float, str, int, Change, Pair]) -> Change:
    """Add the most changed window."""
    *_, change, pair = entry
    if change.dice is None:
        return change
    try:
        one, other = _read_masks(sides, pair)
    except ItemError:  # it was readable a moment ago; the page then chooses a window
        return change
    return replace(change, place=most_changed(one, other))


def _rank(change: Change) -> float:
    """Sort by Dice, with items that cannot be compared first."""
    return -1.0 if change.dice is None or math.isnan(change.dice) else change.dice
