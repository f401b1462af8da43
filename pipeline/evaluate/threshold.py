"""Choose the quality from which on a mask is ok (``recipe.review_below``), on items whose Dice is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.quality.ranking import FAILED_BELOW
from pipeline.review.sampling import upper_bound

MAX_FAILED_SHARE = 0.05
"""Largest share of failures, Dice < ``FAILED_BELOW``, among the items with the status ok."""
MIN_OK = 60
"""Smallest number of ok items that a threshold is chosen on. If 5 % were failures, 60 items would have one in 95 % of cases, so
fewer items without a failure show nothing."""
STEPS = 100
"""Thresholds are multiples of 1 / STEPS."""


@dataclass(frozen=True)
class Threshold:
    """A threshold, and what it does to the items that it was chosen on."""

    review_below: float
    items: int
    ok: int
    """Items whose quality is not below the threshold."""
    failures: int
    """Those of them that are failures."""
    photos: int
    """Photos with an ok item."""
    failed_photos: int
    """Photos with an ok item that is a failure."""

    def describe(self) -> str:
        """Return the numbers in words. The bound counts photos: masks of one photo often fail together."""
        bound = upper_bound(self.failed_photos, self.photos, 0.95)
        return (
            f"review_below {self.review_below:g}: {self.ok} of {self.items} items are ok; {self.failures} of these "
            f"({self.failures / self.ok:.1%}) have a Dice below {FAILED_BELOW:g}. They are of {self.failed_photos} of "
            f"{self.photos} photos (with 95 % confidence at most {bound:.1%})"
        )


def choose_threshold(
    quality: npt.NDArray[np.float64], dice: npt.NDArray[np.float64], groups: npt.NDArray[np.int64]
) -> Threshold | None:
    """Return the lowest threshold from which on at most 5 % of the ok items are failures; None if there is none.

    At it, and at every higher multiple of 0.01 that leaves ``MIN_OK`` ok items, the share of failures is at most 5 %. The first
    threshold below 5 % alone may owe this to a gap between two failures. The criterion is the observed share. Its upper
    confidence bound would need 153 ok items with 3 failures, which a few hundred items rarely give (``u2netp`` would
    have no threshold); ``Threshold.describe`` states it.

    Args:
        quality: Calibrated qualities (N,).
        dice: Dice of the same items (N,).
        groups: Number of each item's photo (N,).
    """
    chosen = None
    for step in range(STEPS - 1, 0, -1):
        ok = quality >= step / STEPS
        failed = ok & (dice < FAILED_BELOW)
        count, failures = int(ok.sum()), int(failed.sum())
        if failures > MAX_FAILED_SHARE * count and count >= MIN_OK:
            break
        if count >= MIN_OK:
            photos, failed_photos = (len(np.unique(groups[some])) for some in (ok, failed))
            chosen = Threshold(step / STEPS, len(quality), count, failures, photos, failed_photos)
    return chosen
