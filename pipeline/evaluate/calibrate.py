"""From masks whose worth is known to a calibration: fitted on some photos, judged on the others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.recipe import ESTIMATOR_SHA256
from pipeline.errors import ConfigError, FetchError, StorageError
from pipeline.evaluate.measure import read_rows
from pipeline.evaluate.summary import SCORES
from pipeline.output.index import read_index
from pipeline.output.layout import Layout
from pipeline.quality.calibration import Calibration
from pipeline.quality.calibration_fit import Fit, check_library, fit
from pipeline.quality.ranking import FAILED_BELOW, GOOD_FROM, Ranking, judge
from pipeline.quality.score import FLAGS, score
from pipeline.review.reviews import read_reviews
from pipeline.storage.files import Files

COLUMNS = ("item_id", "group", "tags", "signals", "dice_binary", "error_code")


@dataclass(frozen=True)
class Calibrated:
    """A calibration, and how it does on the photos that it wasn't fitted on."""

    calibration: Calibration
    rankings: dict[str, Ranking]
    """By score, of items with a known Dice; empty if no photo was kept apart."""
    reviews: int
    """Items that only a person's verdict was known of."""


@dataclass(frozen=True)
class _Items:
    """N items of one model, photos numbered by ``groups``."""

    signals: list[dict[str, Any]]
    dice: npt.NDArray[np.float64]
    """NaN where only a verdict is known."""
    good: npt.NDArray[np.bool_]
    fair: npt.NDArray[np.bool_]
    """No failure."""
    groups: npt.NDArray[np.int64]
    judging: npt.NDArray[np.bool_]
    """Kept apart from the fit."""

    def some(self, chosen: npt.NDArray[np.bool_]) -> _Items:
        return _Items(
            [self.signals[row] for row in np.flatnonzero(chosen)],
            self.dice[chosen],
            self.good[chosen],
            self.fair[chosen],
            self.groups[chosen],
            self.judging[chosen],
        )


def calibrate(layouts: Sequence[Layout], files: Files, judge_share: float) -> Calibrated:
    """Fit on what ``matteline evaluate`` and ``matteline review import`` left in some outputs of one model.

    Args:
        judge_share: of the photos of every kind (their first tag), kept apart to judge the calibration on.

    Raises:
        ConfigError: nothing is known of any item, too little, or the outputs are of different models.
        StorageError: a part can't be read.
    """
    check_library()
    if not 0 <= judge_share < 1:
        raise ConfigError(f"--judge {judge_share:g} must be 0 or more and below 1: the share of photos to judge on")
    recipe = _only_recipe(layouts, files)
    rows = [row for layout in layouts for row in _known(layout, files)]
    if not rows:
        raise ConfigError(
            f"nothing is known of the masks in {layouts[0].folder}; run matteline evaluate into it, or matteline review import"
        )
    items = _items(rows, judge_share)
    fitted = items.some(~items.judging)
    made = _fit(fitted)
    about: dict[str, int | float | str | None] = {
        "items": len(fitted.good),
        "photos": len(np.unique(fitted.groups)),
        "good": int(fitted.good.sum()),
    }
    calibration = Calibration(
        version=1,
        model=layouts[0].recipe_folder.rpartition("-")[0],
        weights_sha256=recipe["weights_sha256"],
        frame_px=recipe["frame_px"],
        estimator_sha256=ESTIMATOR_SHA256,
        good_from=GOOD_FROM,
        bias=made.bias,
        terms=made.terms,
        fitted_on=about,
    )
    judged = items.some(items.judging & np.isfinite(items.dice))
    rankings = _rankings(judged, calibration)
    if rankings:
        about |= {"judged_items": len(judged.dice), "judged_failures": int((judged.dice < FAILED_BELOW).sum())}
        numbers = rankings["quality"].numbers
        about |= {name: round(numbers[name].value, 4) for name in ("auroc", "aurc", "calibration_error")}
    return Calibrated(calibration.model_copy(update={"fitted_on": about}), rankings, int(np.isnan(items.dice).sum()))


def _fit(items: _Items) -> Fit:
    """On all whose signals say anything: what has a flag is worth nothing anyhow."""
    plain = items.some(np.array([not any(one[flag] for flag in FLAGS) for one in items.signals], bool))
    names = plain.signals[0] if plain.signals else {}
    columns = {name: np.array([one.get(name) for one in plain.signals], np.float64) for name in names}
    return fit(columns, plain.good, plain.fair, plain.groups)


def _rankings(items: _Items, calibration: Calibration) -> dict[str, Ranking]:
    if not len(items.dice):
        return {}
    found = {"quality": [score(one, calibration).quality for one in items.signals]}
    found |= {name: [one[name] for one in items.signals] for name in SCORES if name != "quality"}
    return {name: judge(np.array(values, np.float64), items.dice, items.groups) for name, values in found.items()}


def _items(rows: Sequence[dict[str, Any]], judge_share: float) -> _Items:
    dice = np.array([np.nan if row["dice"] is None else row["dice"] for row in rows], np.float64)
    good = np.array([row["good"] for row in rows], bool)
    fair = np.where(np.isfinite(dice), dice >= FAILED_BELOW, good)
    apart = kept_apart({row["group"]: row["kind"] for row in rows}, judge_share)
    names = [row["group"] for row in rows]
    groups = np.asarray(np.unique(names, return_inverse=True)[1], np.int64)
    return _Items([row["signals"] for row in rows], dice, good, fair, groups, np.array([name in apart for name in names], bool))


def kept_apart(kinds: dict[str, str], share: float) -> set[str]:
    """Of the photos of every kind so large a share, by the hashes of their names: the same ones next time."""
    found: set[str] = set()
    for kind in sorted(set(kinds.values())):
        photos = sorted((hashlib.sha256(name.encode()).hexdigest(), name) for name in kinds if kinds[name] == kind)
        found |= {name for _, name in photos[: round(share * len(photos))]}
    return found


def _known(layout: Layout, files: Files) -> Iterator[dict[str, Any]]:
    """Items whose Dice is known; then those of which only a person has spoken."""
    measured = set()
    for info in files.list(layout.evaluation, suffixes=(".parquet",)):
        for row in read_rows(info.uri, files, COLUMNS).to_pylist():
            if row["error_code"] is None:
                measured.add(row["item_id"])
                kind, dice = next(iter(row["tags"] or ()), ""), row["dice_binary"]
                yield {**row, "kind": kind, "dice": dice, "good": dice >= GOOD_FROM}
    reviews = {name: row["verdict"] for name, row in read_reviews(layout, files).items() if name not in measured}
    if reviews:
        wanted = pa.array(list(reviews))
        for part in read_index(layout, files, ["item_id", "signals"]):
            for row in part.filter(pc.is_in(part["item_id"], wanted)).to_pylist():
                if row["signals"] is not None:
                    good = reviews[row["item_id"]] == "accept"
                    yield {**row, "group": row["item_id"], "kind": "verdict", "dice": None, "good": good}


def _only_recipe(layouts: Sequence[Layout], files: Files) -> dict[str, Any]:
    """What all the outputs have in common."""
    found: dict[str, Any] = {}
    for layout in layouts:
        try:
            recipe = json.loads(files.read(layout.recipe))
            facts = {name: recipe[name] for name in ("weights_sha256", "frame_px")}
        except (FetchError, ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{layout.recipe} can't be read ({error}); run the job again") from error
        if found and facts != found:
            raise ConfigError(f"{layout.folder} and {layouts[0].folder} are of different models; calibrate each by itself")
        found = facts
    return found
