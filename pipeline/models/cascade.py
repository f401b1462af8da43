"""Two models: which images go on to the second one, and one result from what both made (``recipe.second``)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pipeline.config.recipe import Recipe
from pipeline.config.second import Second
from pipeline.errors import ItemError, SegmentError
from pipeline.imaging.rle import binarize
from pipeline.models.detectors.detector import Detection
from pipeline.quality.calibration import AGREEMENT, Calibration
from pipeline.quality.score import Score, score
from pipeline.types import Mask


@dataclass(frozen=True)
class Look:
    """Result of one model for an image: the score of its own mask. The fields are those of the index column ``models``."""

    model: str
    """Name of its recipe."""
    weights_sha256: str | None
    quality: float
    reasons: tuple[str, ...]
    used: bool = True
    """True if its mask is the result, or part of it."""


@dataclass(frozen=True, eq=False)
class Segment:
    """The result for one image: ``mask`` (H, W) uint8, and its score."""

    mask: Mask
    score: Score
    detection: Detection | None = None
    """The detection by name; its box is that of the mask."""
    looks: tuple[Look, ...] = ()
    """With ``recipe.second``: what each model thought that saw the image, the first model first."""
    agreement: float | None = None
    """Dice of the masks of two models, in [0, 1]; None if one model saw the image."""


def sends_on(first: Segment | ItemError, second: Second) -> bool:
    """Return whether an image goes on to the second model."""
    return isinstance(first, Segment) and first.score.quality < second.below


def with_agreement(
    other: Segment, first: Mask, recipe: Recipe, calibration: Calibration | None, detector_score: float | None
) -> Segment:
    """Return a second model's result, whose score takes the agreement with the first model's mask into account.

    Args:
        other: The second model's result.
        first: The first model's mask.
        recipe: The first model's.
        calibration: The second model's. Without a term for the agreement with this first model, the result stays as it is.
        detector_score: As for ``quality.score.score``.
    """
    if calibration is None or AGREEMENT not in calibration.terms or calibration.first_sha256 != recipe.weights_sha256:
        return other
    alike = agreement(first, other.mask)
    return replace(other, score=score(other.score.signals, calibration, detector_score, recipe.review_below, alike))


def join_segments(first: Segment, other: Segment | ItemError, second: Second) -> Segment | ItemError:
    """Return one result from those of two models, which have one look each.

    ``replace`` takes the second model's mask and score. ``better`` takes those of the higher quality, the second model's if
    the qualities are equal. ``mean`` takes the mean of both alphas, rounded half up, and of both qualities; reasons and
    signals are those of the lower quality. An error of the second model is the item's.
    """
    if isinstance(other, ItemError):
        return SegmentError(f"the second model {second.recipe.name}: {other}")
    qualities = first.score.quality, other.score.quality
    used = {
        "replace": (False, True),
        "better": (qualities[0] > qualities[1], qualities[0] <= qualities[1]),
        "mean": (True, True),
    }
    chosen = used[second.joined_by]
    mask, score = (other.mask, other.score) if chosen[1] else (first.mask, first.score)
    if second.joined_by == "mean":
        mask = mean_mask(first.mask, other.mask)
        score = replace(min(first.score, other.score, key=lambda one: one.quality), quality=sum(qualities) / 2)
    looks = tuple(replace(look, used=one) for look, one in zip((*first.looks, *other.looks), chosen, strict=True))
    return Segment(mask, score, looks=looks, agreement=agreement(first.mask, other.mask))


def agreement(one: Mask, other: Mask) -> float:
    """Return the Dice of two masks, opaque from 128 on: 2·|a ∩ b| / (|a| + |b|), 1 if both are empty."""
    a, b = binarize(one), binarize(other)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 1.0


def mean_mask(one: Mask, other: Mask) -> Mask:
    """Return the mean of two alphas of the same size, rounded half up."""
    return np.asarray((one.astype(np.uint16) + other + 1) // 2, np.uint8)


def as_rows(looks: tuple[Look, ...]) -> list[dict[str, Any]] | None:
    """Return the value of the index column ``models``; None without looks."""
    return [asdict(one) | {"reasons": list(one.reasons)} for one in looks] or None
