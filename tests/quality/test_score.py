from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.imaging.components import Parts
from pipeline.models.signals import NAMES
from pipeline.quality.score import complete, score
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
    return complete(GOOD | changes, Parts(1, 1.0, 0))


def test_signals_fill_the_schema_exactly() -> None:
    assert set(signals()) == {field.name for field in SIGNALS}
    assert signals()["box_agreement"] is None
    assert signals(box_agreement=0.8)["box_agreement"] == 0.8


def test_a_good_mask_has_no_reasons() -> None:
    made = score(signals())
    assert made.quality == pytest.approx(0.98)
    assert made.reasons == ()
    assert not made.calibrated


@pytest.mark.parametrize(
    ("changes", "flag"), [({"area_share": 0.0}, "empty"), ({"area_share": 1.0}, "full"), ({"span": 0.0005}, "constant")]
)
def test_hard_flags_win(changes: dict[str, float], flag: str) -> None:
    made = score(signals(**changes))
    assert made.quality == 0
    assert flag in made.reasons


@pytest.mark.parametrize(("name", "value", "quality"), [("soft_dice", 0.4, 0.4), ("gaps", 0.5, 0.48), ("stray", 0.8, 0.58)])
def test_a_weak_signal_is_the_first_reason(name: str, value: float, quality: float) -> None:
    made = score(signals(**{name: value}))
    assert made.quality == pytest.approx(quality)
    assert made.reasons[0] == name


def test_an_object_that_is_mostly_unsure_and_a_missed_box_pull_down() -> None:
    assert score(signals(uncertain_share=0.7)).reasons == ("uncertain_share",)
    assert score(signals(uncertain_share=0.5)).reasons == ()
    assert score(signals(box_agreement=0.1)).reasons == ("box_agreement",)
    assert score(signals(box_agreement=0.1)).quality == pytest.approx(0.1 / 0.7)
    assert score(signals(box_agreement=0.75)).reasons == ()


@given(st.fixed_dictionaries({name: st.floats(0, 10) | st.just(float("nan")) for name in NAMES}))
def test_quality_is_always_within_0_and_1(values: dict[str, float]) -> None:
    made = score(complete(values, Parts(0, 0.0, 0)))
    assert 0 <= made.quality <= 1
    assert len(made.reasons) <= 2
