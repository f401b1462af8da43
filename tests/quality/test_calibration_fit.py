from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.quality import calibration_fit
from pipeline.quality.calibration_fit import FALLING, FOLDS, RISING, Fit, fit
from pipeline.quality.ranking import auroc, calibration_error

pytest.importorskip("sklearn")

CONTRAST = [name for name in (*RISING, *FALLING) if name in ("soft_dice", "stray", "contrast", "box_outside")].index("contrast")
"""Column of the signal in the fitted values."""


def items(count: int = 900, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Signals of which some depend on the Dice and one is noise, and three items per photo."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(0, 1, count)
    signals = {
        "soft_dice": latent + rng.normal(0, 1, count),
        "stray": -latent + rng.normal(0, 1.5, count),
        "contrast": rng.normal(0, 1, count),
        "box_outside": np.where(rng.random(count) < 0.5, 1 / (1 + np.exp(latent + rng.normal(0, 1, count))), np.nan),
        "box_agreement": latent,  # low for a whole object in a loose box, so unused
        "area_share": latent,  # no direction, so unused
    }
    dice = 0.93 + 0.03 * latent
    return signals, dice >= 0.95, dice >= 0.9, np.arange(count) // 3


def odds(fitted: Fit, signals: dict[str, np.ndarray]) -> np.ndarray:
    rows = range(len(signals["soft_dice"]))
    values = {name: [None if np.isnan(value) else float(value) for value in column] for name, column in signals.items()}
    return np.array(
        [fitted.bias + sum(term.log_odds(values[name][row]) for name, term in fitted.terms.items()) for row in rows]
    )


def test_it_ranks_and_is_calibrated_on_other_items() -> None:
    fitted = fit(*items())
    signals, good, *_ = items()
    by_others = np.array(fitted.held_out)
    assert auroc(odds(fitted, signals), good) > auroc(by_others, good), "an item's own photo helps"
    assert calibration_error(1 / (1 + np.exp(-by_others)), good) < 0.04
    signals, good, *_ = items(3000, seed=1)
    predicted = odds(fitted, signals)
    assert auroc(predicted, good) > auroc(signals["soft_dice"], good) + 0.03
    assert calibration_error(1 / (1 + np.exp(-predicted)), good) < 0.04


def test_an_item_is_judged_by_fits_without_its_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    signals, good, fair, groups = items()
    signals["contrast"] = groups.astype(float)
    boost, photos = calibration_fit._boost, list[set[float]]()

    class Boosted:
        def __init__(self, values: np.ndarray, *rest: Any) -> None:
            self.boosted = boost(values, *rest)
            photos.append(set(values[:, CONTRAST]))

        def decision_function(self, values: np.ndarray) -> np.ndarray:
            return self.boosted.decision_function(values)

        def staged_decision_function(self, values: np.ndarray) -> Any:
            assert not photos[-1] & set(values[:, CONTRAST]), "the boosting has seen the photo"
            return self.boosted.staged_decision_function(values)

    monkeypatch.setattr(calibration_fit, "_boost", Boosted)
    judged = fit(signals, good, fair, groups)
    assert len(photos) == 2 * FOLDS + 1 and photos[-1] == set(groups)
    assert photos[:FOLDS] == photos[FOLDS : 2 * FOLDS], "the curves are of the same parts"
    assert len(judged.held_out) == len(good)


def test_the_agreement_of_two_models_improves_the_order() -> None:
    def with_agreement(count: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
        signals, good, fair, groups = items(count, seed)
        noise = np.random.default_rng(seed + 10).normal(0, 0.7, count)
        return signals | {"agreement": 1 / (1 + np.exp(-signals["area_share"] - noise))}, good, fair, groups

    signals, *rest = with_agreement(900, 0)
    known, plain = fit(signals, *rest), fit({name: one for name, one in signals.items() if name != "agreement"}, *rest)
    assert "agreement" in known.terms and "agreement" not in plain.terms
    others, good, *_ = with_agreement(3000, 1)
    assert auroc(odds(known, others), good) > auroc(odds(plain, others), good) + 0.03


def test_all_curves_are_monotone() -> None:
    fitted = fit(*items())
    assert {"soft_dice", "stray", "box_outside"} <= set(fitted.terms) <= {*RISING, *FALLING}
    for name, term in fitted.terms.items():
        steps = [later - before for before, later in itertools.pairwise(term.adds)]
        assert all(step >= -1e-9 if name in RISING else step <= 1e-9 for step in steps)
    assert max(fitted.terms["soft_dice"].adds) - min(fitted.terms["soft_dice"].adds) > 1
    contrast = fitted.terms.get("contrast")
    assert contrast is None or max(contrast.adds) - min(contrast.adds) < 0.7


def test_the_estimator_s_curve_is_extrapolated_where_the_boosting_is_flat() -> None:
    signals, good, fair, groups = items()
    signals["expected_dice"] = 1 / (1 + np.exp(-signals["soft_dice"]))
    term = fit(signals, good, fair, groups).terms["expected_dice"]
    assert all(later > before for before, later in itertools.pairwise(term.at))
    assert all(later >= before for before, later in itertools.pairwise(term.adds))
    lowest = float(signals["expected_dice"].min())
    assert term.log_odds(lowest / 4) < term.log_odds(lowest / 2) < term.log_odds(lowest) < term.log_odds(0.5)
    signals["expected_dice"] -= lowest  # a curve that starts at 0 cannot be extrapolated
    term = fit(signals, good, fair, groups).terms["expected_dice"]
    assert term.log_odds(0) == min(term.adds)


def test_the_fit_is_deterministic_and_ranks_like_the_boosting() -> None:
    signals, good, fair, groups = items()
    one = fit(signals, good, fair, groups)
    assert one == fit(signals, good, fair, groups)
    assert auroc(odds(one, signals), good) > 0.85


@pytest.mark.parametrize(("count", "share"), [(60, 0.5), (600, 0.01), (600, 0.999)])
def test_too_few_items_are_refused(count: int, share: float) -> None:
    signals, _, _, groups = items(count)
    good = np.arange(count) < share * count
    with pytest.raises(ConfigError, match="are too few to fit"):
        fit(signals, good, good, groups)


def test_too_few_photos_are_refused() -> None:
    signals, good, fair, _ = items()
    with pytest.raises(ConfigError, match="5 photos"):
        fit(signals, good, fair, np.arange(900) % 3)
