"""The baseline that a person accepted (``matteline review accept``), and the drift of a run from it.

A baseline is a few kilobytes of numbers in ``reviews/accepted.json``, or in a file of the user's choice. It stays valid when
the index grows, and a later run reads nothing else.
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
from pipeline.config.sections import Count, Stored, parse
from pipeline.errors import ConfigError, FetchError
from pipeline.output.index import add_counts, read_index
from pipeline.output.layout import Layout
from pipeline.output.output import Output, find_outputs
from pipeline.output.run_record import records
from pipeline.quality.drift import STEPS, Distribution, drift_report, shifts
from pipeline.schema import STATUSES
from pipeline.storage.files import Files
from pipeline.storage.uris import join

COLUMNS = ("status", "quality", "run_id")


class Counts(Stored):
    """Items by status."""

    ok: Count
    review: Count
    failed: Count


class Lot(Stored):
    """A ``Distribution`` as JSON."""

    counts: Counts
    histogram: tuple[Count, ...]


class BaselineFacts(Stored):
    """The content of a baseline's file."""

    folder: str
    run_id: str
    accepted_at: str
    lot: Lot


@dataclass(frozen=True)
class Baseline:
    """The accepted items of an output, up to a run."""

    folder: str
    run_id: str
    """The latest run that wrote one of the items."""
    accepted_at: str
    distribution: Distribution
    uri: str
    """The file that holds the baseline."""

    def encode(self) -> bytes:
        """Return the content of the file as JSON."""
        facts = {"folder": self.folder, "run_id": self.run_id, "accepted_at": self.accepted_at}
        lot = {"counts": self.distribution.counts, "histogram": self.distribution.histogram}
        return json.dumps(facts | {"lot": lot}, ensure_ascii=False).encode()


def last_accepted(uri: str, files: Files) -> Baseline | None:
    """Return the latest baseline of an output, or the one in a ``.json`` file; None if there is none.

    Raises:
        ConfigError: The file holds something else.
        StorageError: The output cannot be listed.
    """
    if uri.endswith(".json"):
        found = [uri] if files.exists(uri) else []
    else:
        found = [one for output in find_outputs(uri, files) if files.exists(one := baseline_uri(output.layout))]
    return max((_read(one, files) for one in found), key=lambda baseline: baseline.accepted_at, default=None)


def baseline(settings: Drift, output_uri: str, files: Files) -> Baseline | None:
    """Return the baseline for a run into this output; None if the settings name none and the output has none.

    Raises:
        ConfigError: The settings name a baseline that does not exist.
        StorageError: The output cannot be listed.
    """
    if settings.accepted is None:
        return last_accepted(files.absolute(output_uri), files)
    found = last_accepted(files.absolute(settings.accepted), files)
    if found is None:
        raise ConfigError(f"{settings.accepted} has no accepted baseline; review it, then run matteline review accept")
    return found


def drift(accepted: Baseline, output: Output, settings: Drift) -> dict[str, Any]:
    """Return the drift of the items since the last successful run: the run record's ``drift``.

    The items of all runs since then belong together, because each run continues an interrupted one.

    Raises:
        StorageError: The index cannot be read.
    """
    complete = next((str(record["run_id"]) for record in records(output) if record.get("exit_code") == 0), "")
    since = max(complete, accepted.run_id if accepted.folder == output.folder else "")
    parts = (part.filter(pc.greater(part["run_id"], since)) for part in read_index(output, COLUMNS))
    current, _ = distribution_of(parts)
    facts = {
        "against": accepted.uri,
        "accepted_at": accepted.accepted_at,
        "accepted_items": accepted.distribution.items,
        "items": current.items,
        "confidence": settings.confidence,
    }
    return drift_report(shifts(accepted.distribution, current, settings.tolerated, settings.confidence)) | facts


def distribution_of(parts: Iterable[pa.Table]) -> tuple[Distribution, str]:
    """Return the distribution of index rows and the latest run among them."""
    counts, histogram, latest = dict.fromkeys(STATUSES, 0), np.zeros(STEPS, np.int64), ""
    for part in parts:
        add_counts(part["status"], counts)
        histogram += Distribution.of({}, part["quality"].drop_null().to_numpy()).histogram
        latest = max(latest, pc.max(part["run_id"]).as_py() or "")
    return Distribution(counts, tuple(histogram.tolist())), latest


def baseline_uri(layout: Layout) -> str:
    """Return the default place of a baseline."""
    return join(layout.reviews, "accepted.json")


def _read(uri: str, files: Files) -> Baseline:
    try:
        facts = parse(BaselineFacts, files.read(uri))
        if len(facts.lot.histogram) != STEPS:
            raise ValueError(f"the histogram needs {STEPS} counts")
        distribution = Distribution(facts.lot.counts.model_dump(), facts.lot.histogram)
        return Baseline(facts.folder, facts.run_id, facts.accepted_at, distribution, uri)
    except FetchError as error:
        raise ConfigError(f"the baseline cannot be read: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{uri} is not a baseline ({error}); write it again with matteline review accept") from error
