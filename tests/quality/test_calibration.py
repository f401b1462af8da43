from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.recipe import ESTIMATOR_SHA256, Recipe
from pipeline.errors import ConfigError
from pipeline.quality.calibration import MIN_PROBABILITY, Calibration, Term, load_calibration, read_calibration

FACTS: dict[str, Any] = {
    "version": 1,
    "model": "fake",
    "weights_sha256": None,
    "frame_px": 32,
    "estimator_sha256": ESTIMATOR_SHA256,
    "good_from": 0.95,
    "bias": -0.5,
    "terms": {
        "soft_dice": {"at": [0.5, 0.9, 1.0], "adds": [-3.0, 0.0, 2.0], "missing": -1.0, "usual": 1.5},
        "stray": {"at": [0.0, 0.4], "adds": [0.5, -2.5], "missing": 0.0, "usual": 0.4},
        "box_agreement": {"at": [0.2, 0.8], "adds": [-4.0, 1.0], "missing": 0.25, "usual": 0.5},
    },
    "fitted_on": {"items": 100, "photos": 20},
}
RECIPE = Recipe(name="fake", model="fake", frame_px=32)


def calibration(**changes: Any) -> Calibration:
    return read_calibration(json.dumps(FACTS | changes).encode(), "here.json")


def test_the_probability_by_hand() -> None:
    signals = {"soft_dice": 0.95, "stray": 0.1, "box_agreement": None}
    odds = -0.5 + 1.0 + (0.5 - 3.0 / 4) + 0.25
    assert calibration().probability(signals) == pytest.approx(1 / (1 + math.exp(-odds)))
    assert calibration().probability({}) == pytest.approx(1 / (1 + math.exp(1.25)))  # all missing


def test_reasons_are_the_strongest_pulls() -> None:
    assert calibration().reasons({"soft_dice": 0.99, "stray": 0.0, "box_agreement": 0.8}) == ()
    assert calibration().reasons({"soft_dice": 0.99, "stray": 0.4, "box_agreement": 0.8}) == ("stray",)
    assert calibration().reasons({"soft_dice": 0.5, "stray": 0.4, "box_agreement": 0.2}) == ("box_agreement", "soft_dice")


def test_small_pulls_that_add_up_to_a_review_have_a_reason() -> None:
    signals = {"soft_dice": 0.97, "stray": 0.05, "box_agreement": 0.75}  # pulls of -0.1, -0.275, and -0.14 in log odds
    assert calibration().reasons(signals) == ()
    assert calibration().reasons(signals, 0.99) == ("stray",)
    assert calibration().reasons(signals, calibration().probability(signals)) == (), "it is not below the threshold"
    assert calibration().reasons({"soft_dice": 0.97, "stray": 0.0}, 0.99) == ("soft_dice",), "there is no box to disagree with"


@given(st.dictionaries(st.sampled_from(sorted(FACTS["terms"])), st.none() | st.floats(-1e6, 1e6)))
def test_any_signals_have_a_probability(signals: dict[str, float | None]) -> None:
    assert MIN_PROBABILITY <= calibration().probability(signals) <= 1 - MIN_PROBABILITY


def test_a_calibration_survives_a_round_trip() -> None:
    assert read_calibration(calibration().as_json(), "again.json") == calibration()


def test_the_share_below_a_quality() -> None:
    assert calibration().share_below(0.3) is None, "older files have no quantiles"
    made = calibration(quantiles=[0.1, 0.2, 0.8])
    assert [made.share_below(quality) for quality in (0.0, 0.1, 0.15, 0.5, 0.9)] == pytest.approx([0, 0, 0.25, 0.75, 1])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x00", "is not JSON"),
        (b"[1]", "is not a calibration"),
        (b"[" * 5000, "is not JSON"),
        (json.dumps(FACTS | {"version": 2}).encode(), "version"),
        (json.dumps(FACTS | {"bias": "x"}).encode(), "bias"),
        (json.dumps(FACTS | {"bias": float("inf")}).encode(), "bias"),
        (json.dumps(FACTS | {"extra": 1}).encode(), "extra"),
        (json.dumps(FACTS | {"terms": {"stray": FACTS["terms"]["stray"] | {"at": [0.4, 0.0]}}}).encode(), "at must increase"),
        (json.dumps(FACTS | {"terms": {"stray": FACTS["terms"]["stray"] | {"adds": [0.4]}}}).encode(), "as many numbers"),
    ],
)
def test_invalid_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_calibration(data, "here.json")


def test_a_calibration_of_the_recipe_s_model_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "here.json"
    path.write_bytes(calibration().as_json())
    assert load_calibration(RECIPE, path) == calibration()
    assert load_calibration(RECIPE, None) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights_sha256": "1" * 64}, "fitted with weights_sha256 1111"),
        ({"frame_px": 64}, "frame_px 64, but the recipe has 32"),
        ({"estimator_sha256": "2" * 64}, "estimator_sha256"),
    ],
)
def test_a_calibration_of_another_model_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "here.json"
    path.write_bytes(calibration(**changes).as_json())
    with pytest.raises(ConfigError, match=message):
        load_calibration(RECIPE, path)


def test_terms_are_constant_beyond_their_points() -> None:
    term = Term(at=(0.0, 1.0), adds=(-1.0, 1.0), missing=0.5, usual=0.0)
    assert [term.log_odds(value) for value in (-5.0, 0.25, 7.0, None)] == [-1.0, -0.5, 1.0, 0.5]
