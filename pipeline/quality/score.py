"""One number for a mask, with the signals that pulled it down.

With a calibration the probability that Dice is at least 0.95. Without, the least of a few terms in [0, 1], none of which needs
ground truth: it ranks, and is not a probability.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.imaging.components import Parts
from pipeline.quality.calibration import Calibration

FLAGS = ("empty", "full", "constant")
"""Any of these makes the quality 0, whatever the other signals say."""

REASON_BELOW = 0.9
"""A term under this is a reason."""

CONSTANT = 0.001
"""A map whose probabilities span less says nothing."""

FILLED = 0.7
"""Agreement with the box is taken as good from here on: objects need not fill their boxes."""

LOST, LEAST_AREA = 2.9, 0.01
"""Unsure pixels for every pixel of the object from which on little is left of it: there the band, too, is limited
(``models.band.MOSTLY``). An object counts as having at least this share of the frame."""

Signals = dict[str, float | bool | None]
"""The index's ``signals`` struct (``pipeline.schema.SIGNALS``)."""


@dataclass(frozen=True)
class Score:
    """``quality`` in [0, 1]; ``reasons`` names at most two signals, worst first; ``signals`` fills the index's struct."""

    quality: float
    calibrated: bool
    reasons: tuple[str, ...]
    signals: Signals


def complete(measured: Mapping[str, float], parts: Parts) -> Signals:
    """All signals, from what was measured on the device (``models.signals.NAMES``) and the parts of the mask."""
    known = {name: None if math.isnan(value) else value for name, value in measured.items() if name not in ("span", "finite")}
    return known | {
        "components": float(parts.parts),
        "largest_share": parts.largest,
        "holes": float(parts.holes),
        "empty": measured["area_share"] == 0,
        "full": measured["area_share"] >= 1,
        "constant": measured["span"] < CONSTANT,
    }


def score(signals: Signals, calibration: Calibration | None = None) -> Score:
    """Quality from signals: 0 where a flag is up, else what the calibration makes of them.

    Without one, soft-Dice confidence, less what the haze beside the object (half of it)
    and the doubt inside it take; and no more than the agreement with the box, where there is one, allows, or an object that is
    mostly unsure.

    On photos with known masks that ranks failures better than the least of more signals did (``BENCHMARKS.md``).
    """
    flags = tuple(flag for flag in FLAGS if signals[flag])
    if flags:
        return Score(0.0, calibration is not None, flags[:2], signals)
    if calibration is not None:
        return Score(calibration.probability(signals), True, calibration.reasons(signals), signals)
    sure, stray, gaps = (float(signals[name] or 0) for name in ("soft_dice", "stray", "gaps"))
    unsure = float(signals["uncertain_share"] or 0) / max(float(signals["area_share"] or 0), LEAST_AREA)
    terms = {"soft_dice": sure, "stray": 1 - stray / 2, "gaps": 1 - gaps, "uncertain_share": LOST - unsure}
    quality = min(sure - stray / 2 - gaps, terms["uncertain_share"])
    if signals["box_agreement"] is not None:
        terms["box_agreement"] = min(1.0, float(signals["box_agreement"]) / FILLED)
        quality = min(quality, terms["box_agreement"])
    worst = sorted((value, name) for name, value in terms.items() if value < REASON_BELOW)
    return Score(min(1.0, max(0.0, quality)), False, tuple(name for _, name in worst[:2]), signals)
