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
from pipeline.quality.calibration import SURE, Calibration, Term, load_calibration, read_calibration

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


def test_the_sum_by_hand() -> None:
    signals = {"soft_dice": 0.95, "stray": 0.1, "box_agreement": None}
    odds = -0.5 + 1.0 + (0.5 - 3.0 / 4) + 0.25
    assert calibration().probability(signals) == pytest.approx(1 / (1 + math.exp(-odds)))
    assert calibration().probability({}) == pytest.approx(1 / (1 + math.exp(1.25)))  # all missing


def test_reasons_are_what_pulls_most() -> None:
    assert calibration().reasons({"soft_dice": 0.99, "stray": 0.0, "box_agreement": 0.8}) == ()
    assert calibration().reasons({"soft_dice": 0.99, "stray": 0.4, "box_agreement": 0.8}) == ("stray",)
    assert calibration().reasons({"soft_dice": 0.5, "stray": 0.4, "box_agreement": 0.2}) == ("box_agreement", "soft_dice")


@given(st.dictionaries(st.sampled_from(sorted(FACTS["terms"])), st.none() | st.floats(-1e6, 1e6)))
def test_it_is_a_probability_whatever_the_signals_are(signals: dict[str, float | None]) -> None:
    assert SURE <= calibration().probability(signals) <= 1 - SURE


def test_a_file_and_back() -> None:
    assert read_calibration(calibration().as_json(), "again.json") == calibration()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x00", "isn't JSON"),
        (b"[1]", "isn't a calibration"),
        (json.dumps(FACTS | {"version": 2}).encode(), "version"),
        (json.dumps(FACTS | {"bias": "x"}).encode(), "bias"),
        (json.dumps(FACTS | {"bias": float("inf")}).encode(), "bias"),
        (json.dumps(FACTS | {"extra": 1}).encode(), "extra"),
        (json.dumps(FACTS | {"terms": {"stray": FACTS["terms"]["stray"] | {"at": [0.4, 0.0]}}}).encode(), "at must rise"),
        (json.dumps(FACTS | {"terms": {"stray": FACTS["terms"]["stray"] | {"adds": [0.4]}}}).encode(), "as many numbers"),
    ],
)
def test_what_is_no_calibration_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_calibration(data, "here.json")


def test_a_calibration_is_of_one_model(tmp_path: Path) -> None:
    path = tmp_path / "here.json"
    path.write_bytes(calibration().as_json())
    assert load_calibration(RECIPE, path) == calibration()
    assert load_calibration(RECIPE, None) is None
    for changes, said in (
        ({"weights_sha256": "1" * 64}, "fitted with weights_sha256 1111"),
        ({"frame_px": 64}, "frame_px 64, but it is 32 here"),
        ({"estimator_sha256": "2" * 64}, "estimator_sha256"),
    ):
        path.write_bytes(calibration(**changes).as_json())
        with pytest.raises(ConfigError, match=said):
            load_calibration(RECIPE, path)


def test_terms_end_where_their_points_do() -> None:
    term = Term(at=(0.0, 1.0), adds=(-1.0, 1.0), missing=0.5, usual=0.0)
    assert [term.of(value) for value in (-5.0, 0.25, 7.0, None)] == [-1.0, -0.5, 1.0, 0.5]
