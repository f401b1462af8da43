"""One number for a mask, with the signals that pulled it down.

Uncalibrated: the weakest of a few terms in [0, 1], none of which needs ground truth. It ranks; it is not a probability.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FLAGS = ("empty", "full", "constant")
"""Any of these makes the quality 0, whatever the other signals say."""

REASON_BELOW = 0.9
"""A term under this is a reason."""


@dataclass(frozen=True)
class Score:
    """``quality`` in [0, 1]; ``reasons`` names at most two signals, worst first; ``signals`` fills the index's struct."""

    quality: float
    calibrated: bool
    reasons: tuple[str, ...]
    signals: dict[str, float | bool | None]


def complete(measured: Mapping[str, float], components: int, with_box: bool) -> dict[str, float | bool | None]:
    """The index's ``signals`` struct (``pipeline.schema.SIGNALS``) from what was measured on the logits."""
    area = measured["area_share"]
    kept = ("soft_dice", "stability", "uncertain_share", "area_share", "border_touch")
    return {name: measured[name] for name in kept} | {
        "components": float(components),
        "box_agreement": measured["box_agreement"] if with_box else None,
        "empty": area == 0,
        "full": area >= 1,
        "constant": measured["span"] < 0.001,
    }


def score(signals: dict[str, float | bool | None]) -> Score:
    """Quality from signals: the least of the terms, 0 where a flag is up.

    The terms: soft-Dice confidence; stability between thresholds; one minus the uncertain pixels beside the object's own
    (a contour is always a little unsure, so half of the object's area is free); agreement with the box where there is one,
    taken as good from an IoU of 0.7 on, since objects need not fill their boxes.
    """
    flags = tuple(flag for flag in FLAGS if signals[flag])
    if flags:
        return Score(0.0, False, flags[:2], signals)
    haze = float(signals["uncertain_share"] or 0) / max(float(signals["area_share"] or 0), 0.01)
    terms = {
        "soft_dice": float(signals["soft_dice"] or 0),
        "stability": float(signals["stability"] or 0),
        "uncertain_share": min(1.0, max(0.0, 1.5 - haze)),
    }
    if signals["box_agreement"] is not None:
        terms["box_agreement"] = min(1.0, float(signals["box_agreement"]) / 0.7)
    worst = sorted((value, name) for name, value in terms.items() if value < REASON_BELOW)
    return Score(min(terms.values()), False, tuple(name for _, name in worst[:2]), signals)
