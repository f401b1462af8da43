from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.quality.score import complete, score
from pipeline.schema import SIGNALS

GOOD: dict[str, float] = {
    "soft_dice": 0.98,
    "stability": 0.97,
    "uncertain_share": 0.02,
    "area_share": 0.3,
    "border_touch": 0.0,
    "box_agreement": float("nan"),
    "span": 1.0,
    "finite": 1.0,
}


def signals(with_box: bool = False, **changes: float) -> dict[str, Any]:
    return complete(GOOD | changes, components=1, with_box=with_box)


def test_signals_fill_the_schema_exactly() -> None:
    assert set(signals()) == {field.name for field in SIGNALS}
    assert signals()["box_agreement"] is None
    assert signals(with_box=True, box_agreement=0.8)["box_agreement"] == 0.8


def test_a_good_mask_has_no_reasons() -> None:
    made = score(signals())
    assert made.quality == pytest.approx(0.97)
    assert made.reasons == ()
    assert not made.calibrated


@pytest.mark.parametrize(
    ("changes", "flag"), [({"area_share": 0.0}, "empty"), ({"area_share": 1.0}, "full"), ({"span": 0.0005}, "constant")]
)
def test_hard_flags_win(changes: dict[str, float], flag: str) -> None:
    made = score(signals(**changes))
    assert made.quality == 0
    assert flag in made.reasons


@pytest.mark.parametrize("name", ["soft_dice", "stability"])
def test_a_weak_signal_is_the_first_reason(name: str) -> None:
    made = score(signals(**{name: 0.4}))
    assert made.quality == pytest.approx(0.4)
    assert made.reasons[0] == name


def test_haze_and_a_missed_box_pull_down() -> None:
    assert score(signals(uncertain_share=0.4)).reasons == ("uncertain_share",)
    assert score(signals(with_box=True, box_agreement=0.1)).reasons == ("box_agreement",)
    assert score(signals(with_box=True, box_agreement=0.75)).reasons == ()


@given(st.fixed_dictionaries({name: st.floats(0, 1) for name in GOOD}), st.booleans())
def test_quality_is_always_within_0_and_1(values: dict[str, float], with_box: bool) -> None:
    made = score(complete(values, components=0, with_box=with_box))
    assert 0 <= made.quality <= 1
    assert len(made.reasons) <= 2
