"""The statistics of an index, and its worst items."""

from __future__ import annotations

import functools
import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.output.index import add_counts, expectation_of, read_index
from pipeline.output.output import Output
from pipeline.quality.expectation import Expectation

NUMBER = r"[0-9]+(?:\.[0-9]+)?"
"""Numbers in a remark, which differ from item to item."""

MAX_NOTES = 100
"""Different remarks about a rendition that are counted."""


@dataclass
class Failures:
    """The failures of one error code, with an example."""

    count: int
    item_id: str
    detail: str


@dataclass
class Videos:
    """Numbers of videos."""

    count: int = 0
    frames: int = 0
    seconds: float = 0.0
    example: str | None = None
    """Path of a file of one of them."""

    def add(self, facts: pa.ChunkedArray) -> None:
        """Add the values of the index column ``video_facts``."""
        done = facts.drop_null().combine_chunks()
        self.count += len(done)
        self.frames += pc.sum(pc.struct_field(done, "frames")).as_py() or 0
        self.seconds += pc.sum(pc.struct_field(done, "seconds")).as_py() or 0.0
        paths = pc.struct_field(pc.list_flatten(pc.struct_field(done, "files")), "path")
        self.example = self.example or (paths[0].as_py() if len(paths) else None)


@dataclass
class Remarks:
    """Remarks about the files of one rendition, such as that a shadow could not be kept."""

    items: int = 0
    """Items that have the rendition, or the reason why it was not made."""
    noted: int = 0
    """Those with a remark."""
    notes: dict[str, int] = field(default_factory=dict)
    """Number of items by remark, with … for its numbers. An item may have several remarks."""


@dataclass
class Summary:
    """Statistics of an index."""

    counts: dict[str, int] = field(default_factory=dict)
    """Items by status."""
    failures: dict[str, Failures] = field(default_factory=dict)
    """Failures by error code."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Number of items by reason for a lower quality."""
    quality_histogram: tuple[int, ...] = ()
    """Number of items by quality, in 20 equal bins from 0 to 1."""
    quality_deciles: tuple[float, ...] = ()
    """Minimum, nine deciles and maximum of the quality. Empty without qualities."""
    calibrated: bool = False
    """True if every quality is a calibrated probability."""
    examples: dict[str, str] = field(default_factory=dict)
    """Path of one item's ``cutout`` and ``mask``."""
    videos: Videos = field(default_factory=Videos)
    """Numbers of the videos that are done."""
    remarks: dict[str, Remarks] = field(default_factory=dict)
    """Remarks by rendition. A rendition without any is not in it."""
    first_looks: int = 0
    """Items that the first of two models saw (``recipe.second``)."""
    second_looks: int = 0
    """Those of them that the second model saw, too."""
    expected: Expectation = field(default_factory=Expectation)
    """Number of ok items that are expected not to be good."""


def summarise(output: Output) -> Summary:
    """Compute the statistics of an index.

    Raises:
        StorageError: A part cannot be read, or is damaged.
    """
    summary = Summary()
    qualities: list[npt.NDArray[np.float32]] = []
    uncalibrated = False
    columns = ["item_id", "status", "error_code", "error_detail", "quality", "quality_calibrated", "reasons"]
    renditions: dict[str, Remarks] = {}
    for rows in read_index(output, [*columns, "cutout_path", "mask_path", "video_facts", "renditions", "models"]):
        _add_remarks(rows["renditions"], renditions)
        summary.videos.add(rows["video_facts"])
        looks = pc.list_value_length(rows["models"])
        summary.first_looks += pc.sum(pc.greater_equal(looks, 1)).as_py() or 0
        summary.second_looks += pc.sum(pc.greater_equal(looks, 2)).as_py() or 0
        for kind in ("cutout", "mask"):
            if kind not in summary.examples and (path := pc.first(rows[f"{kind}_path"]).as_py()) is not None:
                summary.examples[kind] = path
        add_counts(rows["status"], summary.counts)
        add_counts(pc.list_flatten(rows["reasons"]), summary.reasons)
        errors = rows.select(["error_code", "item_id", "error_detail"])
        failed = errors.filter(pc.is_valid(errors["error_code"])).group_by("error_code", use_threads=False)
        first = pc.ScalarAggregateOptions(skip_nulls=False)
        aggregates = [("item_id", "count"), ("item_id", "first", first), ("error_detail", "first", first)]
        for row in failed.aggregate(aggregates).to_pylist():
            example = Failures(0, row["item_id_first"], row["error_detail_first"] or "")
            summary.failures.setdefault(row["error_code"], example).count += row["item_id_count"]
        qualities.append(rows["quality"].drop_null().to_numpy())
        uncalibrated |= bool(pc.any(pc.invert(rows["quality_calibrated"])).as_py())
        summary.expected += expectation_of(rows)
    summary.remarks = {name: found for name, found in renditions.items() if found.noted}
    if any(len(some) for some in qualities):
        quality = np.concatenate(qualities)
        summary.quality_histogram = tuple(np.histogram(quality, bins=20, range=(0, 1))[0].tolist())
        summary.quality_deciles = tuple(np.quantile(quality, np.linspace(0, 1, 11)).round(4).tolist())
        summary.calibrated = not uncalibrated
    return summary


def _add_remarks(renditions: pa.ChunkedArray, found: dict[str, Remarks]) -> None:
    """Add the values of the index column ``renditions``."""
    flat = pc.list_flatten(renditions)
    notes = pc.replace_substring_regex(pc.struct_field(flat, "note"), NUMBER, "…")
    pairs = pa.table({"name": pc.struct_field(flat, "name"), "note": notes}).group_by(["name", "note"], use_threads=False)
    for row in pairs.aggregate([([], "count_all")]).to_pylist():
        one, count = found.setdefault(row["name"], Remarks()), row["count_all"]
        one.items += count
        one.noted += count if row["note"] else 0
        for note in (row["note"] or "").split("; "):
            if note and (note in one.notes or len(one.notes) < MAX_NOTES):
                one.notes[note] = one.notes.get(note, 0) + count


def worst(output: Output, count: int) -> list[dict[str, Any]]:
    """Return the rows of lowest quality that have a mask and a cutout, worst first.

    Raises:
        StorageError: A part cannot be read, or is damaged.
    """
    pictures = ("mask_path", "cutout_path")
    return _lowest(output, count, ("image_uri", "box", "detected_box", "reasons", *pictures), pictures)


def lowest_qualities(output: Output, count: int) -> list[tuple[str, float]]:
    """Return ids and qualities of the items of lowest quality, worst first.

    Raises:
        StorageError: As ``worst``.
    """
    return [(row["item_id"], row["quality"]) for row in _lowest(output, count, (), ())]


def _lowest(output: Output, count: int, columns: tuple[str, ...], needed: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return rows with these columns beside id and quality; the ``needed`` ones have values."""

    def candidates() -> Iterator[dict[str, Any]]:
        for rows in read_index(output, ["item_id", "quality", *columns]):
            complete = [pc.is_valid(rows[name]) for name in ("quality", *needed)]
            yield from rows.filter(functools.reduce(pc.and_, complete)).sort_by("quality").slice(0, count).to_pylist()

    return heapq.nsmallest(count, candidates(), key=lambda row: (row["quality"], row["item_id"]))
