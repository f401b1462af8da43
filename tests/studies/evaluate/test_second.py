"""``make evaluate``: a second model for photos of low quality, and several views of each frame.

The second model is the full U²-Net, whose weights are no part of the package: 176 MB are downloaded once, or found below
``MATTELINE_BAKED``. Without them the study is skipped. The calibrations of the models were fitted on some or all of these
photos, so the results are a little too good: the quality chooses which photos are sent on, and whose mask is taken.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import run
from pipeline.config.presets import load_preset
from pipeline.config.second import Second
from pipeline.errors import WeightsError
from pipeline.models.cascade import agreement
from pipeline.quality.ranking import FAILED_BELOW, auroc
from pipeline.storage.files import Files
from pipeline.storage.weights_cache import fetch_weights

pytestmark = [pytest.mark.study, pytest.mark.timeout(7200)]

FIRST, SECOND = "mvanet-lite", "u2net"
DEFAULT: float = Second.model_fields["below"].default
JOIN = "better"
"""The default of calibrated models."""
BELOW = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
VIEWS = ("", "flip", "flip,scale:0.75,scale:1.25")
SETTINGS = {"recipe.outputs": ["mask"], "compute.local_items": 100_000}
EVERY = int(os.environ.get("EVERY", "1"))
"""``EVERY=4`` takes a quarter of the photos."""

MAX_COST = 0.6
"""Seconds per item of the cascade, at most, as a share of those of both models for all items."""

Floats = npt.NDArray[np.float64]
Rows = dict[str, dict[str, Any]]


class Pair(NamedTuple):
    """What two models make of the same N photos, without boxes."""

    quality: Floats
    """Of the first model's masks."""
    other_quality: Floats
    dice: dict[str, Floats]
    """Of the result, if every photo were sent on: by ``join``, and ``first``."""
    agreement: Floats
    seconds: tuple[float, float]
    """Median seconds per item of each model."""

    def at(self, below: float, join: str) -> tuple[float, float, float]:
        """Return the share sent on, the mean Dice, and the seconds per item."""
        sent = self.quality < below
        dice = np.where(sent, self.dice[join], self.dice["first"])
        return float(sent.mean()), float(dice.mean()), self.seconds[0] + float(sent.mean()) * self.seconds[1]


@pytest.fixture(scope="module")
def plain(data: Path, out: Path, matteline: str) -> Path:
    """The manifest of the photos with their ground truth, without boxes."""
    found = out / f"plain-{EVERY}.parquet"
    photos = str(data / "eval" / "photos.parquet")
    subprocess.run([matteline, "manifest", photos, "--unpack", str(out / "photos"), "-o", str(found)], check=True, timeout=600)
    rows = pq.read_table(found).drop_columns(["box"])
    pq.write_table(rows.take(np.arange(0, rows.num_rows, EVERY)), found)
    return found


@pytest.fixture(scope="module")
def masks_of(plain: Path, out: Path) -> Callable[..., Rows]:
    """``masks_of("name", "u2netp", views="flip")``: the index rows of a run, by item, with the Dice of each mask."""
    truths = {row["item_id"]: plain.parent / row["truth_uri"] for row in pq.read_table(plain).to_pylist()}
    known: dict[str, Rows] = {}

    def masks(name: str, preset: str, **recipe: Any) -> Rows:
        if name not in known:
            folder = out / "second" / name / preset
            shutil.rmtree(folder.parent, ignore_errors=True)
            settings = {f"recipe.{key}": value for key, value in recipe.items()}
            run(plain, folder, preset=preset, settings=SETTINGS | settings)
            rows = ds.dataset(folder / "index", format="parquet").to_table().to_pylist()
            for row in rows:
                row["mask"] = np.asarray(Image.open(folder / row["mask_path"]))
                truth = (
                    Image.open(truths[row["item_id"]]).convert("L").resize(row["mask"].shape[::-1], Image.Resampling.NEAREST)
                )
                row["truth"] = np.asarray(truth)
                row["dice"] = agreement(row["mask"], row["truth"])
            known[name] = {row["item_id"]: row for row in rows}
        return known[name]

    return masks


@pytest.fixture(scope="module")
def pair(masks_of: Callable[..., Rows]) -> Pair:
    """Both models on all photos."""
    recipe = load_preset(SECOND).recipe
    try:
        fetch_weights(recipe.weights, recipe.weights_sha256, Files())
    except WeightsError as error:
        pytest.skip(f"{SECOND} is not on this machine: {error}")
    first, other = masks_of(FIRST, FIRST), masks_of(SECOND, SECOND)
    both = [(row, other[name]) for name, row in first.items()]
    dice = {"first": [a["dice"] for a, _ in both], "replace": [b["dice"] for _, b in both]}
    dice["better"] = [(a if a["quality"] > b["quality"] else b)["dice"] for a, b in both]
    dice["mean"] = [agreement(((a["mask"].astype(int) + b["mask"] + 1) // 2).astype(np.uint8), a["truth"]) for a, b in both]
    return Pair(
        np.array([row["quality"] for row, _ in both]),
        np.array([row["quality"] for _, row in both]),
        {name: np.array(values) for name, values in dice.items()},
        np.array([agreement(a["mask"], b["mask"]) for a, b in both]),
        (seconds_of(first), seconds_of(other)),
    )


def seconds_of(rows: Rows) -> float:
    return float(np.median([row["seconds"]["segment"] for row in rows.values()]))


def test_the_curve(pair: Pair) -> None:
    """Print the share sent on, Dice and seconds per item, for each threshold."""
    print(f"\n\n{FIRST}, then {SECOND}, on {len(pair.quality)} photos\n")
    print("| below | sent on | Dice: replace | better | mean | seconds per item | of both |\n|--:|--:|--:|--:|--:|--:|--:|")
    for below in BELOW:
        share, replaced, seconds = pair.at(below, "replace")
        better, mean = (pair.at(below, join)[1] for join in ("better", "mean"))
        print(
            f"| {below:g} | {share:.0%} | {replaced:.3f} | {better:.3f} | {mean:.3f} | {seconds:.2f} | "
            f"{seconds / sum(pair.seconds):.0%} |"
        )
    print(f"\n{SECOND} alone: Dice {pair.dice['replace'].mean():.3f}, {pair.seconds[1]:.2f} s")


def test_agreement_tells_failures_among_photos_that_both_saw(pair: Pair) -> None:
    """Print the AUROC for failures of the second model's masks, by its quality, by agreement, and by the product of both."""
    sent = pair.quality < DEFAULT
    failed = pair.dice["replace"][sent] < FAILED_BELOW
    scores = {
        "quality": pair.other_quality,
        "agreement": pair.agreement,
        "quality · agreement": pair.other_quality * pair.agreement,
    }
    found = {name: auroc(-values[sent], failed) for name, values in scores.items()}
    said = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    print(f"\n{sent.sum()} photos below {DEFAULT:g}, {failed.sum()} failures, AUROC: {said}")


def test_the_cascade_is_as_good_as_the_better_model_at_most_of_the_cost(pair: Pair, bars: Any) -> None:
    share, dice, seconds = pair.at(DEFAULT, JOIN)
    alone = max(pair.dice[name].mean() for name in ("first", "replace"))
    name = f"{FIRST}, then {SECOND} for {share:.0%} of {len(pair.quality)} photos"
    bars.at_least(f"{name}: Dice, and that of the better one alone", dice, alone)
    bars.at_most(f"{name}: seconds per item ({seconds:.2f}) ÷ those of both", seconds / sum(pair.seconds), MAX_COST)


def test_a_run_of_both_is_what_the_curve_says(pair: Pair, masks_of: Callable[..., Rows]) -> None:
    rows = masks_of("both", FIRST, second={"preset": SECOND})
    share, dice, _ = pair.at(DEFAULT, JOIN)
    assert np.mean([len(row["models"]) == 2 for row in rows.values()]) == pytest.approx(share)
    assert np.mean([row["dice"] for row in rows.values()]) == pytest.approx(dice, abs=1e-6)


@pytest.mark.parametrize("preset", [FIRST, "u2netp"])
def test_views_do_no_harm(preset: str, masks_of: Callable[..., Rows], bars: Any) -> None:
    """Dice, share of failures and seconds per item with further views of each frame."""
    print(f"\n\n| {preset}: views | Dice | Dice < {FAILED_BELOW:g} | seconds per item |\n|---|--:|--:|--:|")
    dice = {}
    for views in VIEWS:
        rows = masks_of(f"{preset}-{views or 'alone'}", preset, **({"views": views} if views else {}))
        values = np.array([row["dice"] for row in rows.values()])
        dice[views] = float(values.mean())
        print(f"| {views or '–'} | {dice[views]:.4f} | {(values < FAILED_BELOW).mean():.1%} | {seconds_of(rows):.2f} |")
    bars.at_least(f"{preset}: Dice with {VIEWS[-1]}, and without", dice[VIEWS[-1]], dice[""])
