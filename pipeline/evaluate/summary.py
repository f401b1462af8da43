"""Summarise the rows of an evaluation: means with intervals, of all items and per tag, and how good the scores are."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluate.by_tag import TagScore, score_by_tag
from pipeline.quality.intervals import Interval, highest_mean, means
from pipeline.quality.metrics import CURVES, METRICS, THRESHOLDS
from pipeline.quality.ranking import Ranking, evaluate_score

SCORES = ("quality", "expected_dice", "soft_dice", "confidence")
"""The quality, and the signals that it is compared with. Signals that the index does not have are left out."""


@dataclass(frozen=True)
class Means:
    """Mean metrics of some items of one model."""

    items: int
    """Items that were measured."""
    metrics: dict[str, Interval]
    """By metric. Metrics without a value are left out."""


@dataclass(frozen=True)
class Summary:
    """One model on one manifest."""

    model: str
    recipe: str
    items: int
    failed: int
    """Items that failed in the job. They have no mask to measure."""
    unreadable: int
    """Items whose ground truth or mask cannot be used."""
    errors: dict[str, tuple[int, str]]
    """Number of items, and the message of the first one with its id, by error code."""
    overall: Means
    tags: dict[str, Means] = field(default_factory=dict)
    rankings: dict[str, Ranking] = field(default_factory=dict)
    """By score."""
    scores: dict[str, TagScore] = field(default_factory=dict)
    """Performance of the quality by tag; empty if no item has a tag."""
    calibrated: bool = False
    difference: Means | None = None
    """The metrics of each item less those of the first model, of the items that both have. None: it is the first model."""
    tag_differences: dict[str, Means] = field(default_factory=dict)
    """The same by tag."""


def summarise(model: str, recipe: str, rows: pa.Table, *, calibrated: bool = False) -> Summary:
    """Summarise rows with the schema EVALUATION."""
    failed = pc.sum(pc.equal(rows["status"], "failed")).as_py() or 0
    measured = rows.filter(pc.is_null(rows["error_code"]))
    tags = [set(cell or ()) for cell in measured["tags"].to_pylist()]
    values, curves = _values(measured), {name: _curves(measured[name]) for name in CURVES}
    groups = np.asarray(np.unique(measured["group"].to_pylist(), return_inverse=True)[1], np.int64)
    masks = {tag: np.array([tag in one for one in tags], bool) for tag in sorted(set().union(*tags))}
    return Summary(
        model,
        recipe,
        rows.num_rows,
        failed,
        rows.num_rows - measured.num_rows - failed,
        _errors(rows),
        _means(values, curves, groups, np.ones(len(values), bool)),
        {tag: _means(values, curves, groups, chosen) for tag, chosen in masks.items()},
        _rankings(measured, groups),
        _scores(measured, tags) if masks else {},
        calibrated,
    )


def differences(rows: pa.Table, first: pa.Table) -> tuple[Means, dict[str, Means]]:
    """Return the mean differences of paired items, a model's metrics less the first one's, of all items and by tag.

    Items of one group are drawn together. Both models have the same items in a draw, so what makes an item hard for both does
    not widen the interval. Maxima of a data set's curve (``CURVES``) have no value per item and are left out.

    Args:
        rows: Of a model, with the schema EVALUATION.
        first: Those of the first model.
    """
    own, base = (some.filter(pc.is_null(some["error_code"])) for some in (rows, first))
    place = {item_id: number for number, item_id in enumerate(base["item_id"].to_pylist())}
    pairs = [(number, place[name]) for number, name in enumerate(own["item_id"].to_pylist()) if name in place]
    ours, theirs = np.array(pairs, np.int64).reshape(-1, 2).T
    values = _values(own)[ours] - _values(base)[theirs]
    both = own.select(["tags", "group"]).take(pa.array(ours))
    tags = [set(cell or ()) for cell in both["tags"].to_pylist()]
    groups = np.asarray(np.unique(both["group"].to_pylist(), return_inverse=True)[1], np.int64)

    def mean(chosen: npt.NDArray[np.bool_]) -> Means:
        found = zip((metric.name for metric in METRICS), means(values[chosen], groups[chosen]), strict=True)
        kept = {name: one for name, one in found if name not in CURVES.values() and np.isfinite(one.value)}
        return Means(int(chosen.sum()), kept)

    chosen = {tag: np.array([tag in one for one in tags], bool) for tag in sorted(set().union(*tags))}
    return mean(np.ones(len(values), bool)), {tag: mean(some) for tag, some in chosen.items()}


def _means(
    values: npt.NDArray[np.float64],
    curves: dict[str, npt.NDArray[np.float32]],
    groups: npt.NDArray[np.int64],
    chosen: npt.NDArray[np.bool_],
) -> Means:
    names = [metric.name for metric in METRICS]
    metrics = dict(zip(names, means(values[chosen], groups[chosen]), strict=True))
    for curve, metric in CURVES.items():
        # One threshold for the data set: the mean of every item's own maximum would be higher. Where an item has no maximum,
        # its curve is undefined, as of an image of one pixel.
        known = chosen & np.isfinite(values[:, names.index(metric)])
        metrics[metric] = highest_mean(curves[curve][known], groups[known])
    return Means(int(chosen.sum()), {name: one for name, one in metrics.items() if np.isfinite(one.value)})


def _rankings(measured: pa.Table, groups: npt.NDArray[np.int64]) -> dict[str, Ranking]:
    dice = measured["dice_binary"].to_numpy()
    rankings = {}
    for name in SCORES:
        scores = measured["quality"] if name == "quality" else _signal(measured, name)
        if scores is not None and measured.num_rows:
            values = scores.to_numpy(zero_copy_only=False).astype(np.float64)
            known = np.isfinite(values)
            rankings[name] = evaluate_score(values[known], dice[known], groups[known])
    return rankings


def _scores(measured: pa.Table, tags: list[set[str]]) -> dict[str, TagScore]:
    quality, dice = (measured[name].to_numpy().astype(np.float64) for name in ("quality", "dice_binary"))
    return score_by_tag(quality, dice, pc.equal(measured["status"], "ok").to_numpy(), tags)


def _signal(rows: pa.Table, name: str) -> pa.ChunkedArray | None:
    kind = rows.schema.field("signals").type
    return pc.struct_field(rows["signals"], name) if kind.get_field_index(name) >= 0 else None


def _values(rows: pa.Table) -> npt.NDArray[np.float64]:
    """Return (N, metrics), NaN for null."""
    return np.stack([np.asarray(rows[metric.name].to_numpy(zero_copy_only=False), np.float64) for metric in METRICS], 1)


def _curves(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """Return (N, 256)."""
    return np.asarray(pc.list_flatten(column).to_numpy(), np.float32).reshape(-1, THRESHOLDS)


def _errors(rows: pa.Table) -> dict[str, tuple[int, str]]:
    errors: dict[str, tuple[int, str]] = {}
    columns = rows.select(["error_code", "item_id", "error_detail"])
    for row in columns.filter(pc.is_valid(columns["error_code"])).to_pylist():
        count, example = errors.get(row["error_code"], (0, f"{row['item_id']}: {row['error_detail']}"))
        errors[row["error_code"]] = (count + 1, example)
    return errors
