"""Fit a calibration on masks whose Dice or review is known. Judge it and choose its threshold by cross-validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.recipe import ESTIMATOR_SHA256, REVIEW_BELOW
from pipeline.errors import ConfigError
from pipeline.evaluate.by_tag import TagScore, score_by_tag
from pipeline.evaluate.measure import read_rows
from pipeline.evaluate.summary import SCORES
from pipeline.evaluate.threshold import Threshold, choose_threshold
from pipeline.log import log
from pipeline.manifest.box_copies import is_incomplete
from pipeline.manifest.corruptions import is_copy
from pipeline.output.index import read_index
from pipeline.output.output import Output
from pipeline.output.settings import read_settings
from pipeline.quality.calibration import AGREEMENT, DETECTOR_SCORE, Calibration, probability
from pipeline.quality.calibration_fit import Fit, check_library, fit
from pipeline.quality.ranking import FAILED_BELOW, GOOD_FROM, Ranking, evaluate_score
from pipeline.quality.score import FLAGS
from pipeline.review.reviews import describe_outdated, read_reviews

COLUMNS = ("item_id", "group", "tags", "signals", DETECTOR_SCORE, AGREEMENT, "dice_binary", "error_code")

QUANTILES = np.linspace(0, 1, 21)
"""Shares whose quantiles of the quality a calibration records."""

PLAIN = "plain"
"""Tag of the items that the threshold is chosen on, in the table by tag."""


@dataclass(frozen=True)
class CalibrationResult:
    """A calibration, and its performance on items with a known Dice.

    The quality of each item is that of a fit on four fifths of the photos, its own not among them.
    """

    calibration: Calibration
    rankings: dict[str, Ranking]
    """By score; empty without such items."""
    by_tag: dict[str, TagScore]
    """Performance of the quality by tag."""
    threshold: Threshold | None
    """The calibration's ``review_below``; None if the items do not show that one is high enough."""
    reviews: int
    """Items of which only a review is known."""


@dataclass(frozen=True)
class _Items:
    """N items of one model."""

    signals: list[dict[str, Any]]
    dice: npt.NDArray[np.float64]
    """NaN where only a review is known."""
    good: npt.NDArray[np.bool_]
    fair: npt.NDArray[np.bool_]
    """Not a failure."""
    groups: npt.NDArray[np.int64]
    """Number of the photo."""
    harder: npt.NDArray[np.bool_]
    """True for a corrupted copy of a photo, and for a copy whose box need not contain the object."""
    tags: list[frozenset[str]]

    def where(self, chosen: npt.NDArray[np.bool_]) -> _Items:
        rows = np.flatnonzero(chosen)
        signals, tags = [self.signals[row] for row in rows], [self.tags[row] for row in rows]
        return _Items(signals, self.dice[rows], self.good[rows], self.fair[rows], self.groups[rows], self.harder[rows], tags)


@dataclass(frozen=True)
class _Judged:
    """Items with a known Dice, and their quality by fits without their photos."""

    items: _Items
    quality: npt.NDArray[np.float64]

    def plain(self) -> _Judged:
        """Return the items without harder copies."""
        return _Judged(self.items.where(~self.items.harder), self.quality[~self.items.harder])


def calibrate(outputs: Sequence[Output]) -> CalibrationResult:
    """Fit a calibration on what ``matteline evaluate`` and ``matteline review import`` wrote into outputs of one model.

    It is fitted on all items, and judged by cross-validation over photos. The threshold is chosen on the same qualities
    (``choose_threshold``), without corrupted copies and boxes that miss the object. These are worse than the items of a run, so
    they would raise it.

    In an output with ``recipe.second``, the items that both models saw have masks of the second model, and the calibration is
    of that. Their agreement with the first model is a signal.

    Raises:
        ConfigError: Too little is known, or the outputs are of different models.
        StorageError: A part cannot be read.
    """
    check_library()
    recipe = _common_recipe(outputs)
    rows = [row for output in outputs for row in _rows_of_one_model(output)]
    if not rows:
        both = "" if recipe["first_sha256"] is None else " of items that both models saw (recipe.second.below)"
        raise ConfigError(
            f"{outputs[0].folder} has neither metrics nor reviews{both}; run matteline evaluate into it, or matteline review "
            "import"
        )
    for pinned, signal in (("detector_sha256", DETECTOR_SCORE), ("first_sha256", AGREEMENT)):
        if recipe[pinned] is None:  # scores of several detectors are not comparable, nor are agreements with several models
            rows = [row | {signal: None} for row in rows]
    items = _items(rows)
    fitted, quality = _fit(items)
    known = np.isfinite(items.dice)
    judged = _Judged(items.where(known), quality[known])
    rankings, threshold = _rankings(judged), _threshold(judged.plain())
    calibration = Calibration(
        version=1,
        model=recipe["name"],
        weights_sha256=recipe["weights_sha256"],
        frame_px=recipe["frame_px"],
        estimator_sha256=ESTIMATOR_SHA256,
        detector_sha256=recipe["detector_sha256"] if DETECTOR_SCORE in fitted.terms else None,
        first_sha256=recipe["first_sha256"] if AGREEMENT in fitted.terms else None,
        good_from=GOOD_FROM,
        bias=fitted.bias,
        terms=fitted.terms,
        review_below=None if threshold is None else threshold.review_below,
        quantiles=_quantiles(judged.plain()),
        fitted_on=_about(items, judged, rankings, threshold),
    )
    by_tag = _by_tag(judged, REVIEW_BELOW if threshold is None else threshold.review_below)
    return CalibrationResult(calibration, rankings, by_tag, threshold, int((~known).sum()))


def cross_validated(rows: Sequence[dict[str, Any]]) -> npt.NDArray[np.float64]:
    """Return the quality (N,) of measured rows of one model (``evaluate.schema``), each by a fit without its photo.

    Raises:
        ConfigError: There are too few items, good ones, bad ones or photos.
    """
    return _fit(_items([_with_dice(row) for row in rows]))[1]


def _fit(items: _Items) -> tuple[Fit, npt.NDArray[np.float64]]:
    """Fit on the items without a hard flag, which sets the quality to 0 whatever the signals are.

    Returns:
        The fit, and the quality (N,) of each item by cross-validation.
    """
    plain = np.array([not any(one[flag] for flag in FLAGS) for one in items.signals], bool)
    used = items.where(plain)
    names = used.signals[0] if used.signals else {}
    columns = {name: np.array([one.get(name) for one in used.signals], np.float64) for name in names}
    fitted = fit(columns, used.good, used.fair, used.groups)
    quality = np.zeros(len(plain))
    quality[plain] = [probability(odds) for odds in fitted.held_out]
    return fitted, quality


def _about(
    items: _Items, judged: _Judged, rankings: dict[str, Ranking], threshold: Threshold | None
) -> dict[str, int | float | str | None]:
    """Return ``Calibration.fitted_on``."""
    about: dict[str, int | float | str | None] = {
        "items": len(items.good),
        "photos": len(np.unique(items.groups)),
        "good": int(items.good.sum()),
    }
    if rankings:
        dice, numbers = judged.items.dice, rankings["quality"].numbers
        about |= {"judged_items": len(dice), "judged_failures": int((dice < FAILED_BELOW).sum())}
        about |= {name: round(numbers[name].value, 4) for name in ("auroc", "aurc", "calibration_error")}
    if threshold is not None:
        about |= {f"threshold_{name}": getattr(threshold, name) for name in ("items", "ok", "failures")}
    return about


def _rankings(judged: _Judged) -> dict[str, Ranking]:
    items = judged.items
    if not len(items.dice):
        return {}
    scores: dict[str, Any] = {"quality": judged.quality}
    scores |= {name: [one[name] for one in items.signals] for name in SCORES if name != "quality"}
    return {name: evaluate_score(np.array(values, np.float64), items.dice, items.groups) for name, values in scores.items()}


def _threshold(plain: _Judged) -> Threshold | None:
    return choose_threshold(plain.quality, plain.items.dice, plain.items.groups)


def _quantiles(plain: _Judged) -> tuple[float, ...] | None:
    """Return the quantiles of the quality; None without items."""
    return tuple(np.quantile(plain.quality, QUANTILES).round(4).tolist()) if len(plain.quality) else None


def _by_tag(judged: _Judged, threshold: float) -> dict[str, TagScore]:
    items = judged.items
    if not len(items.dice):
        return {}
    tags = [one if harder else one | {PLAIN} for one, harder in zip(items.tags, items.harder, strict=True)]
    return score_by_tag(judged.quality, items.dice, judged.quality >= threshold, tags)


def _items(rows: Sequence[dict[str, Any]]) -> _Items:
    dice = np.array([np.nan if row["dice"] is None else row["dice"] for row in rows], np.float64)
    good = np.array([row["good"] for row in rows], bool)
    fair = np.where(np.isfinite(dice), dice >= FAILED_BELOW, good)
    groups = np.asarray(np.unique([row["group"] for row in rows], return_inverse=True)[1], np.int64)
    harder = np.array([is_copy(row["item_id"]) or is_incomplete(row["item_id"]) for row in rows], bool)
    tags = [frozenset(row["tags"] or ()) for row in rows]
    signals = [row["signals"] | {name: row[name] for name in (DETECTOR_SCORE, AGREEMENT)} for row in rows]
    return _Items(signals, dice, good, fair, groups, harder, tags)


def _with_dice(row: dict[str, Any]) -> dict[str, Any]:
    """Return a measured row with its Dice, and whether that is good."""
    dice = row["dice_binary"]
    return {**row, "dice": dice, "good": dice >= GOOD_FROM}


def _rows_of_one_model(output: Output) -> Iterator[dict[str, Any]]:
    """Yield the items that are known. With two models, only those that both saw: their masks are the second model's."""
    both = _second_of(output) is not None
    return (row for row in _known_rows(output) if not both or row[AGREEMENT] is not None)


def _known_rows(output: Output) -> Iterator[dict[str, Any]]:
    """Yield the items whose Dice is known, then those that only have a review."""
    measured = set()
    for info in output.files.list(output.layout.evaluation, suffixes=(".parquet",)):
        for row in read_rows(info.uri, output.files, COLUMNS).to_pylist():
            if row["error_code"] is None:
                measured.add(row["item_id"])
                yield _with_dice(row)
    found = read_reviews(output)
    if outdated := len(found.outdated - measured):
        log.warning(f"{output.folder}: {describe_outdated(outdated)}")
    reviews = {name: row["verdict"] for name, row in found.latest.items() if name not in measured}
    if reviews:
        reviewed = pa.array(list(reviews))
        for part in read_index(output, ["item_id", "signals", DETECTOR_SCORE, AGREEMENT]):
            for row in part.filter(pc.is_in(part["item_id"], reviewed)).to_pylist():
                if row["signals"] is not None:
                    good = reviews[row["item_id"]] == "accept"
                    yield {**row, "group": row["item_id"], "tags": (), "dice": None, "good": good}


def _common_recipe(outputs: Sequence[Output]) -> dict[str, Any]:
    """Return the name, the weights hash and the frame size of the model that all outputs share.

    ``detector_sha256`` is the hash of their detector, ``first_sha256`` that of the model before this one; None if they have
    none, or different ones.

    Raises:
        ConfigError: They are of different models, or have masks that two models made together.
    """
    common: dict[str, Any] = {}
    detectors: set[str] = set()
    firsts: set[str] = set()
    for output in outputs:
        settings = read_settings(output) or {"recipe": {}}
        recipe, name = settings["recipe"], settings["name"]
        detectors |= {one["weights_sha256"] for one in [recipe.get("detector")] if one}
        if (second := _second_of(output)) is not None:
            firsts |= {recipe["weights_sha256"]} - {None}
            recipe, name = second["recipe"], f"{name}, second model"
        facts = {key: recipe[key] for key in ("weights_sha256", "frame_px")} | {"name": name}
        if common and any(facts[key] != common[key] for key in ("weights_sha256", "frame_px")):
            raise ConfigError(f"{output.folder} and {outputs[0].folder} are of different models; calibrate them separately")
        common = facts
    pinned = {"detector_sha256": detectors, "first_sha256": firsts}
    return common | {key: found.pop() if len(found) == 1 else None for key, found in pinned.items()}


def _second_of(output: Output) -> dict[str, Any] | None:
    """Return the recorded settings of an output's second model; None without one.

    Raises:
        ConfigError: A mask may be of both models, or of either.
    """
    second: dict[str, Any] | None = ((read_settings(output) or {}).get("recipe") or {}).get("second")
    if second is not None and second["join"] != "replace":
        raise ConfigError(
            f"{output.folder} has recipe.second.join={second['join']}, and a calibration is of one model's masks; evaluate "
            "with recipe.second.join=replace, or each model alone"
        )
    return second
