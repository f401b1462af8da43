"""Accept an output as the baseline that later runs are compared with (``matteline review accept``)."""

from __future__ import annotations

from datetime import UTC, datetime

from pipeline.errors import ConfigError
from pipeline.output.baseline import COLUMNS, Baseline, baseline_uri, distribution_of
from pipeline.output.index import read_index
from pipeline.output.output import Output
from pipeline.review.reviews import review_sample


def accept(output: Output, target: str | None = None) -> Baseline:
    """Write a baseline of all items in the index, to ``target`` or to ``reviews/accepted.json``.

    Raises:
        ConfigError: There are no items, or a sample was drawn that is not accepted or covers fewer items.
        StorageError: The index cannot be read, or the file cannot be written.
    """
    found, run_id = distribution_of(read_index(output, COLUMNS))
    if not found.items:
        raise ConfigError(f"{output.folder} has no items to accept")
    sample, again = review_sample(output), "draw another one with matteline report --sample"
    if sample is not None and not sample.accepted:
        raise ConfigError(f"the sample of {output.folder} is not passed: {sample.message}")
    lot = found.items - found.counts["failed"]
    if sample is not None and lot != sample.plan.lot:
        raise ConfigError(f"the sample was drawn from {sample.plan.lot} items, and the output has {lot} now; {again}")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    baseline = Baseline(output.folder, run_id, now, found, target or baseline_uri(output.layout))
    output.write(baseline.uri, baseline.encode())
    return baseline
