"""Say how good the quality score is for each tag: with tight boxes, loose boxes and none, on products, on corrupted copies."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.quality.ranking import FAILED_BELOW, GOOD_FROM, auroc, calibration_error

ALL = "all"
"""Name of the row of all items."""


class TagScore(NamedTuple):
    """The quality of the items with one tag."""

    items: int
    failures: int
    """Those with a Dice below ``FAILED_BELOW``."""
    auroc: float
    """For failures; NaN if there are none, or nothing else."""
    calibration_error: float
    """``ranking.calibration_error`` of a Dice of at least ``GOOD_FROM``."""
    ok: int
    """Items with the status ok."""
    ok_failures: int
    """Failures among them."""


def score_of(quality: npt.NDArray[np.float64], dice: npt.NDArray[np.float64], ok: npt.NDArray[np.bool_]) -> TagScore:
    """Evaluate the quality of N items; every array is (N,)."""
    failed = dice < FAILED_BELOW
    return TagScore(
        len(dice),
        int(failed.sum()),
        auroc(-quality, failed),
        calibration_error(quality, dice >= GOOD_FROM),
        int(ok.sum()),
        int((ok & failed).sum()),
    )


def score_by_tag(
    quality: npt.NDArray[np.float64],
    dice: npt.NDArray[np.float64],
    ok: npt.NDArray[np.bool_],
    tags: Sequence[Set[str]],
) -> dict[str, TagScore]:
    """Evaluate the quality of the items with each tag, in the order of their names, then that of all N items."""
    chosen = {tag: np.array([tag in one for one in tags], bool) for tag in sorted(set().union(*tags))}
    scores = {tag: score_of(quality[rows], dice[rows], ok[rows]) for tag, rows in chosen.items()}
    return scores | {ALL: score_of(quality, dice, ok)}
