"""The last run that a person accepted, and whether this one has drifted from it: ``matteline review accept``.

What was accepted is kept as numbers, in ``reviews/accepted.json`` beside the index or where the person says: some kilobytes
that stay true when the index goes on, and all that a later run has to read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.job import Drift
from pipeline.errors import ConfigError, FetchError
from pipeline.output.index import count, read_index, recipes
from pipeline.output.layout import Layout
from pipeline.output.run_record import records
from pipeline.quality.drift import STEPS, Distribution, shifts, verdict
from pipeline.storage.files import Files
from pipeline.storage.uris import join

COLUMNS = ("status", "quality", "run_id")
STATUSES = ("ok", "review", "failed")


@dataclass(frozen=True)
class Baseline:
    """What was accepted: a folder's items, up to a run."""

    folder: str
    run_id: str
    """The latest that made one of the items."""
    accepted_at: str
    lot: Distribution
    place: str
    """The file that says so."""


def last_accepted(where: str, files: Files) -> Baseline | None:
    """What was accepted last among the recipes of an output, or in a file that ``accept`` has written; None if nothing was.

    Raises:
        ConfigError: the file says something else.
        StorageError: the output can't be listed.
    """
    if where.endswith(".json"):
        places = [where] if files.exists(where) else []
    else:
        places = [place for folder in recipes(where, files) if files.exists(place := place_of(Layout.of(folder)))]
    return max((_read(place, files) for place in places), key=lambda found: found.accepted_at, default=None)


def baseline(asked: Drift, output: str, files: Files) -> Baseline | None:
    """What a run into this output is compared with; None if nothing is named and nothing was accepted there.

    Raises:
        ConfigError: something is named, and nothing was accepted there.
        StorageError: it can't be listed.
    """
    if asked.accepted is None:
        return last_accepted(files.absolute(output), files)
    found = last_accepted(files.absolute(asked.accepted), files)
    if found is None:
        raise ConfigError(f"nothing was accepted in {asked.accepted}; look through it, then: matteline review accept")
    return found


def drift(accepted: Baseline, layout: Layout, files: Files, asked: Drift) -> dict[str, Any]:
    """How far the items since the last run that ended well have drifted: the run record's ``drift``.

    Those of that many runs belong together, as a run that was stopped is continued by the next one.

    Raises:
        StorageError: the index can't be read.
    """
    complete = next((str(record["run_id"]) for record in records(layout, files) if record.get("exit_code") == 0), "")
    since = max(complete, accepted.run_id if accepted.folder == layout.folder else "")
    parts = (part.filter(pc.greater(part["run_id"], since)) for part in read_index(layout, files, COLUMNS))
    lot, _ = distribution_of(parts)
    facts = {
        "against": accepted.place,
        "accepted_at": accepted.accepted_at,
        "accepted_items": accepted.lot.items,
        "items": lot.items,
        "confidence": asked.confidence,
    }
    return verdict(shifts(accepted.lot, lot, asked.tolerated, asked.confidence)) | facts


def distribution_of(parts: Iterable[pa.Table]) -> tuple[Distribution, str]:
    """The rows as a lot, and the latest run among them."""
    counts, histogram, latest = dict.fromkeys(STATUSES, 0), np.zeros(STEPS, np.int64), ""
    for part in parts:
        count(part["status"], counts)
        histogram += Distribution.of({}, part["quality"].drop_null().to_numpy()).histogram
        latest = max(latest, pc.max(part["run_id"]).as_py() or "")
    return Distribution(counts, tuple(histogram.tolist())), latest


def _read(place: str, files: Files) -> Baseline:
    try:
        kept = json.loads(files.read(place))
        counts = {name: int(kept["lot"]["counts"][name]) for name in STATUSES}
        histogram = tuple(int(count) for count in kept["lot"]["histogram"])
        folder, run_id, accepted_at = (str(kept[name]) for name in ("folder", "run_id", "accepted_at"))
        if len(histogram) != STEPS or min(*counts.values(), *histogram) < 0:
            raise ValueError(f"its histogram isn't one of {STEPS} counts")
        return Baseline(folder, run_id, accepted_at, Distribution(counts, histogram), place)
    except (FetchError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ConfigError(
            f"{place} doesn't say what was accepted ({error!r}); write it anew: matteline review accept"
        ) from error


def place_of(layout: Layout) -> str:
    return join(layout.reviews, "accepted.json")
