"""A resolved recipe has a number as its threshold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.presets import load_preset
from pipeline.config.recipe import ESTIMATOR_SHA256, REVIEW_BELOW, Recipe
from pipeline.models.resolve import resolve
from pipeline.storage.files import Files

FACTS: dict[str, Any] = {
    **{"version": 1, "model": "fake", "weights_sha256": None, "frame_px": 64, "estimator_sha256": ESTIMATOR_SHA256},
    **{"good_from": 0.95, "bias": 0.0, "terms": {}, "fitted_on": {}},
}


def recipe(folder: Path, calibration: dict[str, Any] | None, **settings: Any) -> Recipe:
    """Return a recipe of the fake model; with ``calibration``, one that has a calibration with these facts."""
    facts: dict[str, Any] = {"name": "fake", "model": "fake", "frame_px": 64, "refiner": "none"} | settings
    if calibration is not None:
        path = folder / "mine.json"
        path.write_text(json.dumps(FACTS | calibration))
        facts |= {"calibration": str(path), "calibration_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return Recipe.model_validate(facts)


@pytest.mark.parametrize(
    ("calibration", "own", "threshold"),
    [
        (None, None, REVIEW_BELOW),
        (None, 0.3, 0.3),
        ({"review_below": 0.62}, None, 0.62),
        ({"review_below": 0.0}, None, 0.0),
        ({"review_below": 0.62}, 0.3, 0.3),
        ({}, None, REVIEW_BELOW),  # a file of an older version
        ({"review_below": None}, None, REVIEW_BELOW),
    ],
)
def test_the_threshold(calibration: dict[str, Any] | None, own: float | None, threshold: float, tmp_path: Path) -> None:
    asked = recipe(tmp_path, calibration, review_below=own)
    resolved = resolve(asked, Files(), gpu=False).recipe
    assert resolved.review_below == threshold
    assert resolve(resolved, Files(), gpu=False).recipe == resolved
    assert resolved.fingerprint() == recipe(tmp_path, calibration, review_below=threshold).fingerprint()


def test_the_threshold_is_the_calibration_s_or_the_default() -> None:
    for preset in ("mvanet-lite", "u2netp"):
        one = resolve(load_preset(preset).recipe, Files(), gpu=False)
        assert one.calibration is not None and one.recipe.review_below == one.calibration.review_below is not None
    other = resolve(load_preset("u2netp", {"calibration": ""}).recipe, Files(), gpu=False)
    assert other.calibration is None and other.recipe.review_below == REVIEW_BELOW
