from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.imaging.components import Components
from pipeline.models.signal_names import NAMES
from pipeline.quality.calibration import Calibration, Term
from pipeline.quality.score import all_signals, score
from pipeline.schema import SIGNALS

GOOD: dict[str, float] = dict.fromkeys(NAMES, 0.0) | {
    "soft_dice": 0.98,
    "stability": 0.97,
    "uncertain_share": 0.02,
    "area_share": 0.3,
    "box_agreement": float("nan"),
    "refined": float("nan"),
    "span": 1.0,
    "finite": 1.0,
}


def signals(**changes: float) -> dict[str, Any]:
    return all_signals(GOOD | changes, Components(1, 1.0, 0))


def test_signals_match_the_schema() -> None:
    assert set(signals()) == {field.name for field in SIGNALS}
    assert signals()["box_agreement"] is None
    assert signals(box_agreement=0.8)["box_agreement"] == 0.8


def test_a_good_mask_has_no_reasons() -> None:
    scored = score(signals())
    assert scored.quality == pytest.approx(0.98)
    assert scored.reasons == ()
    assert not scored.calibrated


def test_a_quality_below_the_threshold_has_a_reason_without_calibration() -> None:
    assert score(signals(soft_dice=0.92, stray=0.18)).reasons == ()
    scored = score(signals(soft_dice=0.92, stray=0.18), review_below=0.85)
    assert scored.quality == pytest.approx(0.83) and scored.reasons == ("stray",)
    assert score(signals(soft_dice=0.92), review_below=0.85).reasons == ()


@pytest.mark.parametrize(
    ("changes", "flag"), [({"area_share": 0.0}, "empty"), ({"area_share": 1.0}, "full"), ({"span": 0.0005}, "constant")]
)
def test_flags_set_the_quality_to_0(changes: dict[str, float], flag: str) -> None:
    scored = score(signals(**changes))
    assert scored.quality == 0
    assert flag in scored.reasons


@pytest.mark.parametrize(("name", "value", "quality"), [("soft_dice", 0.4, 0.4), ("gaps", 0.5, 0.48), ("stray", 0.8, 0.58)])
def test_a_weak_signal_is_the_first_reason(name: str, value: float, quality: float) -> None:
    scored = score(signals(**{name: value}))
    assert scored.quality == pytest.approx(quality)
    assert scored.reasons[0] == name


def test_an_uncertain_object_and_one_outside_its_box_lower_the_quality() -> None:
    for name, bad, good in (("uncertain_share", 0.7, 0.5), ("box_outside", 0.15, 0.05)):
        assert score(signals(**{name: bad})).reasons == (name,)
        assert score(signals(**{name: good})).reasons == ()
    assert score(signals(box_outside=0.15)).quality == pytest.approx(0.83)


@pytest.mark.parametrize("agreement", [0.05, 0.3, 1.0])
def test_a_loose_box_around_a_whole_object_does_not_lower_the_quality(agreement: float) -> None:
    assert score(signals(box_agreement=agreement, box_outside=0.0, box_fill=agreement)).quality == score(signals()).quality


@given(st.fixed_dictionaries({name: st.floats(0, 10) | st.just(float("nan")) for name in NAMES}))
def test_the_quality_is_always_in_0_to_1(values: dict[str, float]) -> None:
    scored = score(all_signals(values, Components(0, 0.0, 0)))
    assert 0 <= scored.quality <= 1
    assert len(scored.reasons) <= 2


def test_the_detectors_score_counts_where_the_calibration_has_a_term_for_it() -> None:
    facts = {"version": 1, "model": "m", "weights_sha256": None, "frame_px": 64, "estimator_sha256": "", "good_from": 0.95}
    soft_dice = Term(at=(0.5, 1.0), adds=(-2.0, 2.0), missing=0, usual=1.8)
    without = Calibration(**facts, bias=0, terms={"soft_dice": soft_dice}, fitted_on={})
    term = Term(at=(0.2, 0.8), adds=(-1.5, 1.0), missing=0, usual=0.5)
    knows = without.model_copy(update={"terms": without.terms | {"detector_score": term}})
    unsure, sure, none = (score(signals(), knows, one) for one in (0.25, 0.9, None))
    assert unsure.quality < none.quality < sure.quality
    assert none == score(signals(), without)
    assert (unsure.reasons, sure.reasons) == (("detector_score",), ())
    assert "detector_score" not in unsure.signals
    assert score(signals(), without, 0.25) == score(signals(), without)
    assert score(signals(), None, 0.25) == score(signals())


def test_the_agreement_of_two_models_counts_where_the_calibration_has_a_term_for_it() -> None:
    facts = {"version": 1, "model": "m", "weights_sha256": None, "frame_px": 64, "estimator_sha256": "", "good_from": 0.95}
    term = Term(at=(0.2, 0.9), adds=(-1.5, 1.0), missing=0, usual=0.5)
    knows = Calibration(**facts, bias=0, terms={"agreement": term}, fitted_on={})
    differ, agree, alone = (score(signals(), knows, agreement=one) for one in (0.3, 0.95, None))
    assert differ.quality < alone.quality < agree.quality
    assert (differ.reasons, agree.reasons) == (("agreement",), ())
    assert score(signals(), None, agreement=0.3) == score(signals())
