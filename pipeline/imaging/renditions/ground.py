"""Estimate the ground that an object stands on as it would look without the object's shadow."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

ROUNDS = 8
"""Rounds of the robust fit."""

BRIGHTER, DARKER = 4.0, 2.5
"""Standard deviations at which a brighter or darker pixel no longer counts. Shadows only darken."""

FIRST_SIGMA, MIN_SIGMA = 0.03, 0.004
"""Standard deviation of the first round, before the ground is known, and the smallest one, as shares of the ground."""

ROW_QUANTILE = 0.7
"""Quantile of a row that counts as its ground. A shadow may cover two thirds of the row."""

MIN_ROW_SHARE = 0.04
"""Share of a row that must show ground to be measured. Other rows follow their neighbours."""

MAX_SAMPLES = 20_000

Planes = npt.NDArray[np.float32]
"""(h, w, 3), 0 to 255."""


def fit_ground(image: Planes, far: npt.NDArray[np.bool_]) -> Planes:
    """Return the ground (h, w, 3) without shadows, at least 1: light that changes smoothly, times a colour of each row.

    The smooth light is a quadratic polynomial per channel. The rows add what a sweep has where it bends, and a table's horizon.

    Args:
        image: The photo.
        far: (h, w), pixels away from the object, not all in shadow. At least one.
    """
    height, width = far.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = 2 * y / height - 1, 2 * x / width - 1
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    rows, columns = (at[:: max(1, len(at) // MAX_SAMPLES)] for at in np.nonzero(far))
    smooth = np.maximum(terms @ _fit(terms[rows, columns], image[rows, columns]), 1)
    return np.asarray(np.maximum(smooth * _row_levels(image / smooth, far)[:, None], 1), np.float32)


def _fit(terms: npt.NDArray[Any], values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Fit coefficients (terms, 3) to values (N, 3). Pixels that differ by more than noise lose their weight."""
    weights, coefficients = np.ones(len(terms), np.float32), np.zeros((terms.shape[1], 3), np.float32)
    for number in range(ROUNDS):
        if not weights.any():
            break
        coefficients = np.linalg.lstsq(terms * weights[:, None], values * weights[:, None], rcond=None)[0]
        differences = values.sum(1) / np.maximum((terms @ coefficients).sum(1), 1) - 1
        counted = differences[weights > 0.5]
        sigma = 1.4826 * np.median(np.abs(counted - np.median(counted))) if counted.size else MIN_SIGMA
        sigma = max(sigma, MIN_SIGMA if number else FIRST_SIGMA)
        away = differences / (sigma * np.where(differences > 0, BRIGHTER, DARKER))
        weights = np.asarray(np.clip(1 - away**2, 0, 1), np.float32)
    return np.asarray(coefficients)


def _row_levels(ratio: npt.NDArray[np.float32], far: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Return the colour of each row (h, 3) as a share of the smooth light's; ``ratio`` (h, w, 3) is that of each pixel."""
    measured = np.flatnonzero(far.mean(axis=1) >= MIN_ROW_SHARE)
    if not measured.size:
        return np.ones((len(ratio), 3), np.float32)
    levels = np.nanquantile(np.where(far[..., None], ratio, np.nan)[measured], ROW_QUANTILE, axis=1)
    rows = np.arange(-1, len(ratio) + 1)
    smooth = [np.convolve(np.interp(rows, measured, one), (0.25, 0.5, 0.25), mode="valid") for one in levels.T]
    return np.asarray(np.stack(smooth, axis=1), np.float32)
