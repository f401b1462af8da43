"""Score a mask with one number, and name the signals that lowered it.

With a calibration the score is the probability that Dice is at least 0.95. Without one it is
``soft_dice`` less ``gaps``, half of ``stray``, and ``box_outside``, limited by the uncertain share: it ranks masks and is no
probability.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.imaging.components import Components
from pipeline.quality.calibration import AGREEMENT, DETECTOR_SCORE, Calibration

FLAGS = ("empty", "full", "constant")
"""Signals that set the quality to 0, whatever the others are."""

REASON_BELOW = 0.9
"""Level below which a term is a reason."""

CONSTANT = 0.001
"""Span of probabilities below which a map is constant."""

MAX_UNCERTAIN, MIN_AREA = 2.9, 0.01
"""Uncertain pixels per pixel of the object at which the quality reaches 0 (see also ``models.refiners.unknown_region``), and
smallest share of the frame that the object counts with."""

Signals = dict[str, float | bool | None]
"""The index's ``signals`` struct (``pipeline.schema.SIGNALS``)."""


@dataclass(frozen=True)
class Score:
    """``quality`` in [0, 1]; ``reasons`` names at most two signals, worst first; ``signals`` fills the index's struct."""

    quality: float
    calibrated: bool
    reasons: tuple[str, ...]
    signals: Signals


def all_signals(measured: Mapping[str, float], components: Components) -> Signals:
    """Return all signals, from those measured on the device (``models.signal_names.NAMES``) and the mask's components."""
    known = {name: None if math.isnan(value) else value for name, value in measured.items() if name not in ("span", "finite")}
    return known | {
        "components": float(components.number),
        "largest_share": components.largest_share,
        "holes": float(components.holes),
        "empty": measured["area_share"] == 0,
        "full": measured["area_share"] >= 1,
        "constant": measured["span"] < CONSTANT,
    }


def score(
    signals: Signals,
    calibration: Calibration | None = None,
    detector_score: float | None = None,
    review_below: float | None = None,
    agreement: float | None = None,
) -> Score:
    """Compute the quality: 0 if a flag is set, otherwise the calibrated probability.

    Without calibration it is ``soft_dice`` less ``gaps``, half of ``stray`` and ``box_outside``; the uncertain share limits it.
    On photos with ground truth this ranks failures better than the smallest of more signals (``BENCHMARKS.md``). The agreement
    of box and mask does not count: it is low for a whole object in a loose box, too. The agreement of two models counts if the
    calibration has a term for it.

    Args:
        signals: As ``all_signals`` returns them.
        calibration: None: the score is not calibrated.
        detector_score: Score in [0, 1] of the box that a detector found, of the detector that the calibration names. It counts
            if the calibration has a term for it. None: there is none.
        review_below: A quality below this has at least one reason. None: it may have none.
        agreement: Dice in [0, 1] with the mask of the first of two models, of the model that the calibration names. None: there
            is none.
    """
    flags = tuple(flag for flag in FLAGS if signals[flag])
    if flags:
        return Score(0.0, calibration is not None, flags[:2], signals)
    if calibration is not None:
        known = signals | {DETECTOR_SCORE: detector_score, AGREEMENT: agreement}
        return Score(calibration.probability(known), True, calibration.reasons(known, review_below), signals)
    sure, stray, gaps = (float(signals[name] or 0) for name in ("soft_dice", "stray", "gaps"))
    uncertain = float(signals["uncertain_share"] or 0) / max(float(signals["area_share"] or 0), MIN_AREA)
    outside = float(signals["box_outside"] or 0)
    terms = {"soft_dice": sure, "stray": 1 - stray / 2, "gaps": 1 - gaps, "box_outside": 1 - outside}
    terms["uncertain_share"] = MAX_UNCERTAIN - uncertain
    quality = min(sure - stray / 2 - gaps - outside, terms["uncertain_share"])
    worst = sorted((value, name) for name, value in terms.items())
    reasons = tuple(name for value, name in worst[:2] if value < REASON_BELOW)
    if not reasons and review_below is not None and quality < review_below:
        reasons = (worst[0][1],)
    return Score(min(1.0, max(0.0, quality)), False, reasons, signals)
