"""Accept an output as the baseline that later runs are compared with: ``matteline review accept``."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime

from pipeline.errors import ConfigError
from pipeline.output.baseline import COLUMNS, Baseline, distribution_of, place_of
from pipeline.output.index import put, read_index
from pipeline.output.layout import Layout
from pipeline.review.reviews import judge_sample
from pipeline.storage.files import Files


def accept(layout: Layout, files: Files, target: str | None = None) -> Baseline:
    """Keep that everything in this index is as it should be.

    Args:
        target: a file; absent, ``reviews/accepted.json`` beside the index.

    Raises:
        ConfigError: there are no items, or a sample was drawn that isn't accepted, or was of fewer items.
        StorageError: the index can't be read, or the file can't be written.
    """
    lot, run_id = distribution_of(read_index(layout, files, COLUMNS))
    if not lot.items:
        raise ConfigError(f"{layout.folder} has no items to accept")
    judged, again = judge_sample(layout, files), "draw another one: matteline report --sample"
    if judged is not None and not judged.accepted:
        raise ConfigError(f"the sample drawn of {layout.folder} isn't accepted ({judged.sentence}); judge it, or {again}")
    if judged is not None and (since := lot.items - lot.counts["failed"] - judged.plan.lot):
        raise ConfigError(f"the sample was drawn of {judged.plan.lot} items, and {since} have come since; {again}")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    made = Baseline(layout.folder, run_id, now, lot, target or place_of(layout))
    put(made.place, json.dumps(asdict(made), ensure_ascii=False).encode(), files)
    return made
