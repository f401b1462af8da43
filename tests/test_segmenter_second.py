"""Pictures of which a second model sees some."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import Segmenter
from pipeline.config.recipe import ESTIMATOR_SHA256
from pipeline.errors import ConfigError, SegmentError, WeightsError
from pipeline.quality.calibration import Calibration, Term

rng = np.random.default_rng(3)
PLAIN = np.full((60, 80, 3), 90, np.uint8)
"""A photo without an object: its quality is 0."""


def clear() -> Any:
    """A bright rectangle, whose edge both models see as clearly: its quality is high."""
    picture = np.full((60, 80, 3), 20, np.uint8)
    picture[15:45, 20:60] = 230
    return picture


@pytest.fixture
def segmenter(fake_preset: str) -> Segmenter:
    return Segmenter(fake_preset, second={"preset": fake_preset, "below": 0.5, "recipe": {"frame_px": 96, "name": "large"}})


def test_only_what_the_first_model_is_unsure_about_goes_on(segmenter: Segmenter, fake_preset: str) -> None:
    sure, unsure = segmenter([clear(), PLAIN])
    assert [look.model for look in sure.looks] == ["fake"] and sure.agreement is None
    assert sure.looks[0].quality == sure.quality >= 0.5 and sure.looks[0].used
    assert [(look.model, look.used) for look in unsure.looks] == [("fake", False), ("large", True)]
    assert unsure.agreement == 1, "both masks are empty"
    alone = Segmenter(fake_preset)(clear())
    assert np.array_equal(alone.mask, sure.mask) and alone.looks == () and alone.agreement is None


def test_all_of_them_are_the_second_model_s(fake_preset: str) -> None:
    all_on = Segmenter(fake_preset, second={"preset": fake_preset, "below": 1.0, "recipe": {"frame_px": 96}})
    result, other = all_on(clear(), box=(10, 10, 70, 50)), Segmenter(fake_preset, frame_px=96)(clear(), box=(10, 10, 70, 50))
    assert np.array_equal(result.mask, other.mask) and result.quality == other.quality
    assert result.signals == other.signals
    assert result.agreement is not None and 0.9 < result.agreement <= 1


@pytest.mark.parametrize(("first_sha256", "counts"), [(None, True), ("1" * 64, False)], ids=["this first model", "another"])
def test_the_agreement_counts_if_the_second_calibration_knows_it(
    fake_preset: str, tmp_path: Path, first_sha256: str | None, counts: bool
) -> None:
    """The fake model has no weights, and so a hash of null."""
    plain = calibration_file(tmp_path / "first.json", 64)
    agreed = calibration_file(tmp_path / "second.json", 96, agreement=[-4.0, 2.0], first_sha256=first_sha256)
    second = {"preset": fake_preset, "below": 1.0, "join": "replace", "recipe": {"frame_px": 96, "calibration": agreed}}
    result = Segmenter(fake_preset, calibration=plain, second=second)(clear(), box=(10, 10, 70, 50))
    assert result.agreement is not None and 0.9 < result.agreement <= 1
    odds = -4 + 6 * result.agreement if counts else -1.0
    assert result.quality == pytest.approx(1 / (1 + math.exp(-odds)))
    assert result.looks[1].quality == result.quality and result.looks[0].quality == 0.5


def calibration_file(path: Path, frame_px: int, agreement: list[float] | None = None, **facts: Any) -> str:
    """A calibration in which nothing counts but the agreement: from its first value at 0 to the last at 1, -1 if missing."""
    terms = {} if agreement is None else {"agreement": Term(at=(0, 1), adds=tuple(agreement), missing=-1, usual=2)}
    common = {"version": 1, "model": "fake", "weights_sha256": None, "estimator_sha256": ESTIMATOR_SHA256, "good_from": 0.95}
    made = Calibration(**common, frame_px=frame_px, bias=0, terms=terms, fitted_on={}, **facts)
    path.write_bytes(made.as_json())
    return str(path)


def test_a_batch_gives_the_results_of_its_items(segmenter: Segmenter) -> None:
    pictures = [PLAIN, clear(), PLAIN, rng.integers(0, 256, (40, 50, 3), np.uint8), clear()]
    together, alone = segmenter(pictures), [segmenter(one) for one in pictures]
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(one.mask, other.mask) and one.looks == other.looks and one.agreement == other.agreement


def test_a_picture_that_the_second_model_cannot_do_fails_alone(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    assert segmenter.second is not None
    real = segmenter.second.model

    def broken(frames: Any) -> Any:
        logits = real(frames)
        logits[[bool(frame.mean() < 95) for frame in np.asarray(frames)]] = np.nan
        return logits

    monkeypatch.setattr(segmenter.second.run_pass, "model", broken)
    other = np.full((60, 80, 3), 150, np.uint8)
    results = segmenter.segment([clear(), PLAIN, other], [None] * 3)
    assert isinstance(results[1], SegmentError)
    assert "the second model large: the model returned numbers that are not finite" in str(results[1])
    assert [len(one.looks) for one in (results[0], results[2]) if not isinstance(one, SegmentError)] == [1, 2]


def test_the_second_model_is_not_run_without_need(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    assert segmenter.second is not None
    monkeypatch.setattr(segmenter.second.run_pass, "model", None)  # cannot be called
    assert len(segmenter(clear()).looks) == 1


def test_it_can_be_pickled(segmenter: Segmenter) -> None:
    again = pickle.loads(pickle.dumps(segmenter))
    assert again.recipe == segmenter.recipe
    assert again(PLAIN).looks == segmenter(PLAIN).looks


def test_a_model_that_cannot_be_used_is_refused(fake_preset: str) -> None:
    with pytest.raises(WeightsError, match=r"recipe\.second: .*missing\.onnx"):
        changes = {"calibration": "", "weights": "missing.onnx"}
        Segmenter(fake_preset, second={"preset": "u2net", "recipe": changes})
    with pytest.raises(ConfigError, match=r"rmbg-1\.4 .*accept-licence"):
        Segmenter(fake_preset, second="rmbg-1.4")
