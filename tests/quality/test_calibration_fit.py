from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.quality.calibration_fit import FALLS, RISES, Fit, fit
from pipeline.quality.ranking import auroc, calibration_error

pytest.importorskip("sklearn")


def made(count: int = 900, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Signals of which two tell something of the Dice, one nothing; three copies a photo."""
    rng = np.random.default_rng(seed)
    worth = rng.normal(0, 1, count)
    signals = {
        "soft_dice": worth + rng.normal(0, 1, count),
        "stray": -worth + rng.normal(0, 1.5, count),
        "contrast": rng.normal(0, 1, count),
        "box_agreement": np.where(rng.random(count) < 0.5, worth + rng.normal(0, 1, count), np.nan),
        "area_share": worth,  # of no direction, so not used
    }
    dice = 0.93 + 0.03 * worth
    return signals, dice >= 0.95, dice >= 0.9, np.arange(count) // 3


def odds(found: Fit, signals: dict[str, np.ndarray]) -> np.ndarray:
    rows = range(len(signals["soft_dice"]))
    values = {name: [None if np.isnan(value) else float(value) for value in column] for name, column in signals.items()}
    return np.array([found.bias + sum(term.of(values[name][row]) for name, term in found.terms.items()) for row in rows])


def test_it_ranks_and_is_a_probability_on_items_it_has_not_seen() -> None:
    found = fit(*made())
    signals, good, *_ = made(3000, seed=1)
    said = odds(found, signals)
    assert auroc(said, good) > auroc(signals["soft_dice"], good) + 0.03
    assert calibration_error(1 / (1 + np.exp(-said)), good) < 0.04


def test_every_curve_goes_one_way() -> None:
    found = fit(*made())
    assert {"soft_dice", "stray", "box_agreement"} <= set(found.terms) <= {*RISES, *FALLS}
    for name, term in found.terms.items():
        steps = [later - before for before, later in itertools.pairwise(term.adds)]
        assert all(step >= -1e-9 if name in RISES else step <= 1e-9 for step in steps)
    assert max(found.terms["soft_dice"].adds) - min(found.terms["soft_dice"].adds) > 1
    contrast = found.terms.get("contrast")
    assert contrast is None or max(contrast.adds) - min(contrast.adds) < 0.7


def test_the_estimators_curve_goes_on_where_the_boosting_is_flat() -> None:
    signals, good, fair, groups = made()
    signals["expected_dice"] = 1 / (1 + np.exp(-signals["soft_dice"]))
    term = fit(signals, good, fair, groups).terms["expected_dice"]
    assert all(later > before for before, later in itertools.pairwise(term.at))
    assert all(later >= before for before, later in itertools.pairwise(term.adds))
    lowest = float(signals["expected_dice"].min())
    assert term.of(lowest / 4) < term.of(lowest / 2) < term.of(lowest) < term.of(0.5)
    signals["expected_dice"] -= lowest  # where it began at nothing there would be nowhere to go
    term = fit(signals, good, fair, groups).terms["expected_dice"]
    assert term.of(0) == min(term.adds)


def test_the_curves_are_the_boosting() -> None:
    """The sum of curves ranks as the whole does: nothing is lost by taking it apart."""
    signals, good, fair, groups = made()
    one = fit(signals, good, fair, groups)
    assert one == fit(signals, good, fair, groups)
    assert auroc(odds(one, signals), good) > 0.85


@pytest.mark.parametrize(("count", "share"), [(60, 0.5), (600, 0.01), (600, 0.999)])
def test_too_little_says_nothing(count: int, share: float) -> None:
    signals, _, _, groups = made(count)
    good = np.arange(count) < share * count
    with pytest.raises(ConfigError, match="can't be fitted to"):
        fit(signals, good, good, groups)


def test_copies_of_few_photos_are_too_little() -> None:
    signals, good, fair, _ = made()
    with pytest.raises(ConfigError, match="5 photos"):
        fit(signals, good, fair, np.arange(900) % 3)
