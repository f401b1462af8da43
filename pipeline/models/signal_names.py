"""The names of the signals, in the order of the columns of ``signals.measure_signals``. Imports no PyTorch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

CONTOUR_NAMES = ("stray", "gaps", "slope", "support", "contrast")
"""Signals of ``contour.measure_contour``."""

NAMES = (
    *("soft_dice", "stability", "confidence", "uncertain_share", "area_share"),
    *("border_touch", "border_top", "border_bottom", "border_left", "border_right"),
    *("box_agreement", "box_outside", "box_fill", "span", "finite"),
    *CONTOUR_NAMES,
    *("refined", "flip_dice", "expected_dice"),
)


def signals_by_name(table: npt.NDArray[np.float32]) -> list[dict[str, float]]:
    """Return the value of every name in ``NAMES`` for each item."""
    return [dict(zip(NAMES, row, strict=True)) for row in table.tolist()]
