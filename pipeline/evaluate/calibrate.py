"""Fit a calibration on masks whose Dice or review is known; judge it and choose its threshold on other photos."""

from __future__ import annotations

import hashlib
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
from pipeline.quality.calibration import AGREEMENT, DETECTOR_SCORE, Calibration
from pipeline.quality.calibration_fit import Fit, check_library, fit
from pipeline.quality.ranking import FAILED_BELOW, GOOD_FROM, Ranking, evaluate_score
from pipeline.quality.score import FLAGS, score
from pipeline.review.reviews import describe_outdated, read_reviews

COLUMNS = ("item_id", "group", "tags", "signals", DETECTOR_SCORE, AGREEMENT, "dice_binary", "error_code")

QUANTILES = np.linspace(0, 1, 21)
"""Shares whose quantiles of the quality a calibration records."""

PLAIN = "plain"
"""Tag of the items that the threshold is chosen on, in the table by tag."""


@dataclass(frozen=True)
class CalibrationResult:
    """A calibration, and its performance on the photos held out of the fit."""

    calibration: Calibration
    rankings: dict[str, Ranking]
    """By score, of items with a known Dice; empty if no photo was held out."""
    by_tag: dict[str, TagScore]
    """Performance of the quality on the held-out items, by tag."""
    threshold: Threshold | None
    """The calibration's ``review_below``; None if the held-out items do not show that one is high enough."""
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
    held_out: npt.NDArray[np.bool_]
    harder: npt.NDArray[np.bool_]
    """True for a corrupted copy of a photo, and for a copy whose box need not contain the object."""
    tags: list[frozenset[str]]

    def where(self, chosen: npt.NDArray[np.bool_]) -> _Items:
        signals = [self.signals[row] for row in np.flatnonzero(chosen)]
        flags = (self.held_out[chosen], self.harder[chosen])
        tags = [self.tags[row] for row in np.flatnonzero(chosen)]
        return _Items(signals, self.dice[chosen], self.good[chosen], self.fair[chosen], self.groups[chosen], *flags, tags)


def calibrate(outputs: Sequence[Output], held_out_share: float) -> CalibrationResult:
    """Fit a calibration on what ``matteline evaluate`` and ``matteline review import`` wrote into outputs of one model.

    ``held_out_share`` is the share of the photos of every kind (their first tag) that the calibration is judged on. The
    threshold is chosen on the same items (``choose_threshold``), without corrupted copies and boxes that miss the object: these
    are worse than the items of a run, and would raise it.

    In an output with ``recipe.second``, the items that both models saw have masks of the second model, and the calibration is
    of that. Their agreement with the first model is a signal.

    Raises:
        ConfigError: Too little is known, or the outputs are of different models.
        StorageError: A part cannot be read.
    """
    check_library()
    if not 0 <= held_out_share < 1:
        raise ConfigError(
            f"--held-out {held_out_share:g} must be 0 or more and below 1: the share of photos held out of the fit"
        )
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
    items = _items(rows, held_out_share)
    train = items.where(~items.held_out)
    fitted = _fit(train)
    about: dict[str, int | float | str | None] = {
        "items": len(train.good),
        "photos": len(np.unique(train.groups)),
        "good": int(train.good.sum()),
    }
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
        fitted_on=about,
    )
    held_out = items.where(items.held_out & np.isfinite(items.dice))
    rankings = _rankings(held_out, calibration)
    if rankings:
        about |= {"judged_items": len(held_out.dice), "judged_failures": int((held_out.dice < FAILED_BELOW).sum())}
        numbers = rankings["quality"].numbers
        about |= {name: round(numbers[name].value, 4) for name in ("auroc", "aurc", "calibration_error")}
    threshold = _threshold(held_out, calibration)
    if threshold is not None:
        about |= {f"threshold_{name}": getattr(threshold, name) for name in ("items", "ok", "failures")}
    review_below = threshold and threshold.review_below
    quantiles = _quantiles(held_out, calibration)
    calibration = calibration.model_copy(update={"fitted_on": about, "review_below": review_below, "quantiles": quantiles})
    by_tag = _by_tag(held_out, calibration)
    return CalibrationResult(calibration, rankings, by_tag, threshold, int(np.isnan(items.dice).sum()))


def _fit(items: _Items) -> Fit:
    """Fit on the items without a hard flag. A flag sets the quality to 0 whatever the signals are."""
    plain = items.where(np.array([not any(one[flag] for flag in FLAGS) for one in items.signals], bool))
    names = plain.signals[0] if plain.signals else {}
    columns = {name: np.array([one.get(name) for one in plain.signals], np.float64) for name in names}
    return fit(columns, plain.good, plain.fair, plain.groups)


def _rankings(items: _Items, calibration: Calibration) -> dict[str, Ranking]:
    if not len(items.dice):
        return {}
    scores: dict[str, Any] = {"quality": _quality(items, calibration)}
    scores |= {name: [one[name] for one in items.signals] for name in SCORES if name != "quality"}
    return {name: evaluate_score(np.array(values, np.float64), items.dice, items.groups) for name, values in scores.items()}


def _threshold(items: _Items, calibration: Calibration) -> Threshold | None:
    plain = items.where(~items.harder)
    return choose_threshold(_quality(plain, calibration), plain.dice, plain.groups)


def _quantiles(items: _Items, calibration: Calibration) -> tuple[float, ...] | None:
    """Return the quantiles of the quality of items without harder copies; None without items."""
    quality = _quality(items.where(~items.harder), calibration)
    return tuple(np.quantile(quality, QUANTILES).round(4).tolist()) if len(quality) else None


def _by_tag(items: _Items, calibration: Calibration) -> dict[str, TagScore]:
    if not len(items.dice):
        return {}
    quality = _quality(items, calibration)
    threshold = REVIEW_BELOW if calibration.review_below is None else calibration.review_below
    tags = [one if harder else one | {PLAIN} for one, harder in zip(items.tags, items.harder, strict=True)]
    return score_by_tag(quality, items.dice, quality >= threshold, tags)


def _quality(items: _Items, calibration: Calibration) -> npt.NDArray[np.float64]:
    scores = (score(one, calibration, one[DETECTOR_SCORE], agreement=one[AGREEMENT]) for one in items.signals)
    return np.array([one.quality for one in scores], np.float64)


def _items(rows: Sequence[dict[str, Any]], held_out_share: float) -> _Items:
    dice = np.array([np.nan if row["dice"] is None else row["dice"] for row in rows], np.float64)
    good = np.array([row["good"] for row in rows], bool)
    fair = np.where(np.isfinite(dice), dice >= FAILED_BELOW, good)
    names = [row["group"] for row in rows]
    held_out = held_out_groups({row["group"]: row["kind"] for row in rows}, held_out_share)
    groups = np.asarray(np.unique(names, return_inverse=True)[1], np.int64)
    chosen = np.array([name in held_out for name in names], bool)
    harder = np.array([is_copy(row["item_id"]) or is_incomplete(row["item_id"]) for row in rows], bool)
    tags = [frozenset(row["tags"] or ()) for row in rows]
    signals = [row["signals"] | {name: row[name] for name in (DETECTOR_SCORE, AGREEMENT)} for row in rows]
    return _Items(signals, dice, good, fair, groups, chosen, harder, tags)


def held_out_groups(kinds: dict[str, str], share: float) -> set[str]:
    """Return this share of the photos of every kind: those with the lowest hashes of their names.

    The same photos give the same choice. With more or fewer photos of a kind, some near the limit change sides.

    ``kinds`` has the kind of each photo.
    """
    held_out: set[str] = set()
    for kind in sorted(set(kinds.values())):
        photos = sorted((hashlib.sha256(name.encode()).hexdigest(), name) for name in kinds if kinds[name] == kind)
        held_out |= {name for _, name in photos[: round(share * len(photos))]}
    return held_out


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
                kind, dice = next(iter(row["tags"] or ()), ""), row["dice_binary"]
                yield {**row, "kind": kind, "dice": dice, "good": dice >= GOOD_FROM}
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
                    yield {**row, "group": row["item_id"], "tags": (), "kind": "verdict", "dice": None, "good": good}


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
