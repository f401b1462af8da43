"""From rows to numbers: means with intervals, of all items and of each tag, and how good the scores are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.quality.intervals import Interval, highest_mean, means
from pipeline.quality.metrics import CURVES, METRICS, THRESHOLDS
from pipeline.quality.ranking import Ranking, judge

SCORES = ("quality", "expected_dice", "soft_dice", "confidence")
"""The quality, and the signals beside which it is judged; those that the index hasn't are left out."""


@dataclass(frozen=True)
class Means:
    """Some items of one model."""

    items: int
    """That were measured."""
    metrics: dict[str, Interval]
    """By metric; those of which no item has a value are left out."""


@dataclass(frozen=True)
class Summary:
    """One model on one manifest."""

    model: str
    recipe_folder: str
    items: int
    failed: int
    """Items that the job failed on; they have no mask to measure."""
    unreadable: int
    """Items whose truth, or mask, could not be read."""
    errors: dict[str, tuple[int, str]]
    """By code: how many, and one of the sentences, with its item."""
    whole: Means
    tags: dict[str, Means] = field(default_factory=dict)
    rankings: dict[str, Ranking] = field(default_factory=dict)
    """By score."""
    calibrated: bool = False


def summarise(model: str, recipe_folder: str, rows: pa.Table, *, calibrated: bool = False) -> Summary:
    """An evaluation's rows (schema EVALUATION) in numbers."""
    failed = pc.sum(pc.equal(rows["status"], "failed")).as_py() or 0
    measured = rows.filter(pc.is_null(rows["error_code"]))
    labels = measured["tags"].to_pylist()
    every = sorted({tag for tags in labels for tag in tags or []})
    values, curves = _values(measured), {name: _curves(measured[name]) for name in CURVES}
    groups = groups_of(measured)
    by_tag = {tag: np.array([tag in (tags or []) for tags in labels], bool) for tag in every}
    return Summary(
        model,
        recipe_folder,
        rows.num_rows,
        failed,
        rows.num_rows - measured.num_rows - failed,
        _errors(rows),
        _means(values, curves, groups, np.ones(len(values), bool)),
        {tag: _means(values, curves, groups, chosen) for tag, chosen in by_tag.items()},
        _rankings(measured, groups),
        calibrated,
    )


def groups_of(rows: pa.Table) -> npt.NDArray[np.int64]:
    """(N,) numbers from 0: items of one number are copies of one photo."""
    return np.asarray(np.unique(rows["group"].to_pylist(), return_inverse=True)[1], np.int64)


def _means(
    values: npt.NDArray[np.float64],
    curves: dict[str, npt.NDArray[np.float32]],
    groups: npt.NDArray[np.int64],
    chosen: npt.NDArray[np.bool_],
) -> Means:
    groups = groups[chosen]
    found = dict(zip((metric.name for metric in METRICS), means(values[chosen], groups), strict=True))
    # One threshold for the whole data set: the mean of every item's own maximum would be another, rosier number.
    found |= {metric: highest_mean(curves[name][chosen], groups) for name, metric in CURVES.items()}
    return Means(int(chosen.sum()), {name: one for name, one in found.items() if np.isfinite(one.value)})


def _rankings(measured: pa.Table, groups: npt.NDArray[np.int64]) -> dict[str, Ranking]:
    dice = measured["dice_binary"].to_numpy()
    found = {}
    for name in SCORES:
        scores = measured["quality"] if name == "quality" else _signal(measured, name)
        if scores is not None and measured.num_rows:
            values = scores.to_numpy(zero_copy_only=False).astype(np.float64)
            known = np.isfinite(values)
            found[name] = judge(values[known], dice[known], groups[known])
    return found


def _signal(rows: pa.Table, name: str) -> pa.ChunkedArray | None:
    kind = rows.schema.field("signals").type
    return pc.struct_field(rows["signals"], name) if kind.get_field_index(name) >= 0 else None


def _values(rows: pa.Table) -> npt.NDArray[np.float64]:
    """(N, metrics), NaN where null."""
    columns: Sequence[npt.NDArray[np.float64]] = [rows[metric.name].to_numpy(zero_copy_only=False) for metric in METRICS]
    return np.stack([np.asarray(column, np.float64) for column in columns], 1)


def _curves(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """(N, 256)."""
    return np.asarray(pc.list_flatten(column).to_numpy(), np.float32).reshape(-1, THRESHOLDS)


def _errors(rows: pa.Table) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    about = rows.select(["error_code", "item_id", "error_detail"])
    for row in about.filter(pc.is_valid(about["error_code"])).to_pylist():
        count, example = found.get(row["error_code"], (0, f"{row['item_id']}: {row['error_detail']}"))
        found[row["error_code"]] = (count + 1, example)
    return found
