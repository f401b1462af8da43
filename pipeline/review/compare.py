"""Two recipes or two nights side by side: what has changed, and how far the quality has drifted: ``matteline compare``."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
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
from pipeline.output.index import count, read_index
from pipeline.output.layout import Layout
from pipeline.quality.drift import Distribution, kolmogorov_smirnov, shifts, stability_index, verdict
from pipeline.storage.files import Files
from pipeline.types import Mask

COLUMNS = ("item_id", "status", "quality", "mask_uri", "mask_sha256")
CHUNK = 1024
THREADS = 8
WORST = 50
"""Items that are kept and shown."""

Pair = tuple[dict[str, Any], dict[str, Any]]
"""An item's rows of the two indexes."""


@dataclass(frozen=True)
class Change:
    """One item whose mask or quality is another; ``dice`` is None where the masks can't be compared, and ``note`` says why."""

    item_id: str
    dice: float | None
    quality_before: float | None
    quality_after: float | None
    note: str = ""
    place: tuple[int, int] | None = None
    """Row and column of the corner of the window, as ``views`` shows it at 1:1, that has changed most; of the worst ones."""


@dataclass
class Comparison:
    """Counts of items, how the quality's distribution moved, and the most changed items, worst first."""

    before: int = 0
    after: int = 0
    same: int = 0
    """Masks of the same bytes."""
    changed: int = 0
    appeared: int = 0
    vanished: int = 0
    newly_failed: int = 0
    mended: int = 0
    incomparable: int = 0
    """Masks that differ in size, or can't be read."""
    mean_dice: float | None = None
    """Of the changed masks that can be compared."""
    ks: float | None = None
    """Kolmogorov's and Smirnov's statistic of the two qualities, [0, 1]."""
    psi: float | None = None
    """Population stability index; 0 is no drift, above 0.25 is usually called a shift."""
    drift: dict[str, Any] = field(default_factory=dict)
    """Whether that is more than chance and the defaults of ``config.Drift`` tolerate (``quality.drift.verdict``)."""
    worst: list[Change] = field(default_factory=list)


def compare(one: Layout, other: Layout, files: Files, most: int = WORST) -> Comparison:
    """Compare two recipes' folders item by item. Masks are read only where their hashes differ, a few at a time.

    The rows of the first index are held as Arrow columns (some 300 bytes an item), those of the second pass by.

    Raises:
        StorageError: an index can't be read.
    """
    before = _table(one, files)
    found, qualities = Comparison(before=before.num_rows), [_qualities(before)]
    met = np.zeros(before.num_rows, np.bool_)
    later: list[npt.NDArray[np.float64]] = []
    statuses: tuple[dict[str, int], dict[str, int]] = {}, {}
    count(before["status"], statuses[0])
    dices: list[float] = []
    worst: list[tuple[float, str, Change, Pair]] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for part in read_index(other, files, COLUMNS):
            found.after += part.num_rows
            later.append(_qualities(part))
            count(part["status"], statuses[1])
            places = pc.index_in(part["item_id"], value_set=before["item_id"].combine_chunks())
            known = places.is_valid()
            found.appeared += part.num_rows - int(pc.sum(known).as_py() or 0)
            rows, was = part.filter(known), before.take(places.drop_null())
            met[places.drop_null().to_numpy()] = True
            for change, pair in map_ahead(pool, partial(_change, files), _pairs(was, rows, found), 2 * THREADS):
                found.incomparable += change.dice is None
                dices += [] if change.dice is None else [change.dice]
                # A heap of the worst: its first is the least changed of them, and gives way.
                heapq.heappush(worst, (-_rank(change), change.item_id, change, pair))
                if len(worst) > most:
                    heapq.heappop(worst)
        found.worst = list(pool.map(partial(_placed, files), sorted(worst, key=lambda entry: (-entry[0], entry[1]))))
    found.vanished = int((~met).sum())
    found.mean_dice = float(np.mean(dices)) if dices else None
    first, second = qualities[0], np.concatenate(later) if later else np.empty(0)
    if len(first) and len(second):
        found.ks, found.psi = kolmogorov_smirnov(first, second), stability_index(first, second)
    asked, lots = Drift(), [Distribution.of(counts, some) for counts, some in zip(statuses, (first, second), strict=True)]
    found.drift = verdict(shifts(lots[0], lots[1], asked.tolerated, asked.confidence))
    return found


def numbers(found: Comparison) -> list[tuple[str, str]]:
    """Its counts and the drift, named and written out for a table."""
    counts = ("before", "after", "same", "changed", "appeared", "vanished", "newly_failed", "mended", "incomparable")
    said = [(name.replace("_", " "), str(getattr(found, name))) for name in counts]
    drift = (
        ("mean Dice of changed masks", found.mean_dice),
        ("drift of quality, Kolmogorov-Smirnov", found.ks),
        ("stability index", found.psi),
    )
    return said + [(name, f"{value:.4f}") for name, value in drift if value is not None]


def dice(one: Mask, other: Mask) -> float:
    """2·Σ min(a, b) / (Σ a + Σ b) of two masks of one size, [0, 1]; 1 if both are empty."""
    total = int(one.sum(dtype=np.int64)) + int(other.sum(dtype=np.int64))
    return 1.0 if not total else 2 * int(np.minimum(one, other).sum(dtype=np.int64)) / total


def _table(layout: Layout, files: Files) -> pa.Table:
    parts = [part.select(COLUMNS) for part in read_index(layout, files, COLUMNS)]
    return pa.concat_tables(parts) if parts else pa.table({name: pa.array([], pa.string()) for name in COLUMNS})


def _qualities(rows: pa.Table) -> npt.NDArray[np.float64]:
    return np.asarray(rows["quality"].cast(pa.float64()).drop_null().to_numpy(), np.float64)


def _pairs(was: pa.Table, rows: pa.Table, found: Comparison) -> Iterator[Pair]:
    """The items of both whose masks may differ; the others are counted."""
    for start in range(0, rows.num_rows, CHUNK):
        pairs = zip(was.slice(start, CHUNK).to_pylist(), rows.slice(start, CHUNK).to_pylist(), strict=True)
        for old, new in pairs:
            failed = (old["status"] == "failed", new["status"] == "failed")
            found.newly_failed += failed == (False, True)
            found.mended += failed == (True, False)
            if any(failed):
                continue
            if old["mask_sha256"] == new["mask_sha256"] and old["mask_sha256"] is not None:
                found.same += 1
                continue
            found.changed += 1
            yield old, new


def _change(files: Files, pair: Pair) -> tuple[Change, Pair]:
    return _changed(files, *pair), pair


def _changed(files: Files, old: dict[str, Any], new: dict[str, Any]) -> Change:
    qualities = (old["quality"], new["quality"])
    if old["mask_uri"] is None or new["mask_uri"] is None:
        return Change(new["item_id"], None, *qualities, "one of the recipes makes no masks")
    try:
        one, other = (decode_mask(files.read(row["mask_uri"])) for row in (old, new))
    except ItemError as error:
        return Change(new["item_id"], None, *qualities, f"a mask can't be read: {error}"[:300])
    if one.shape != other.shape:
        sizes = f"{one.shape[1]} × {one.shape[0]} and {other.shape[1]} × {other.shape[0]}"
        return Change(new["item_id"], None, *qualities, f"the masks have other sizes: {sizes}")
    return Change(new["item_id"], dice(one, other), *qualities)


def _placed(files: Files, entry: tuple[float, str, Change, Pair]) -> Change:
    *_, change, pair = entry
    if change.dice is None:
        return change
    try:
        one, other = (decode_mask(files.read(row["mask_uri"])) for row in pair)
    except ItemError:  # it could be read a moment ago; the page shows its own place, then
        return change
    return replace(change, place=most_changed(one, other))


def _rank(change: Change) -> float:
    """Least first: the least alike; what can't be compared before all."""
    return -1.0 if change.dice is None or math.isnan(change.dice) else change.dice
