"""Calibrate the quality: a sum of one term per signal, in log odds, fitted on masks with known Dice.

The sum is a generalised additive model (Hastie and Tibshirani, 1986). Each term is monotone in its signal, so it states how
much its signal lowers the quality. ``reasons`` are derived from this.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.config.recipe import ESTIMATOR_SHA256, Recipe
from pipeline.config.sections import Section, Share, build
from pipeline.errors import ConfigError

MIN_PULL = 0.5
"""A signal is a reason if its term is lower than that of good masks by this, in log odds."""

DETECTOR_SCORE = "detector_score"
AGREEMENT = "agreement"
"""The index columns that a calibration may use as signals."""

MIN_PROBABILITY = 1e-4
"""Smallest probability, and distance of the largest from 1. A quality of 0 is reserved for the flags."""


def probability(odds: float) -> float:
    """Return the probability of log odds, in [MIN_PROBABILITY, 1 - MIN_PROBABILITY]."""
    return min(1 - MIN_PROBABILITY, max(MIN_PROBABILITY, 1 / (1 + math.exp(-min(50.0, max(-50.0, odds))))))


class Term(Section):
    """A signal's contribution to the log odds: linear between the points, constant beyond them."""

    at: tuple[float, ...]
    adds: tuple[float, ...]
    missing: float
    """Contribution where the signal is null."""
    usual: float
    """Mean contribution over good masks."""

    def log_odds(self, value: float | None) -> float:
        """Return the contribution of a signal's value."""
        return self.missing if value is None else float(np.interp(value, self.at, self.adds))


class Calibration(Section):
    """P(Dice ≥ ``good_from``) of the masks of one model, as ``matteline calibrate`` writes it."""

    version: Literal[1]
    model: str
    weights_sha256: str | None
    """Hash of the model's weights; null for the fake model."""
    frame_px: int
    estimator_sha256: str
    """Hash of the weights behind the signal ``expected_dice``."""
    detector_sha256: str | None = None
    """Hash of the detector whose scores the term ``detector_score`` was fitted on: scores of another mean something else. Null
    without that term."""
    first_sha256: str | None = None
    """Hash of the weights of the first of two models (``recipe.second``), with whose masks the term ``agreement`` was fitted.
    Null without that term."""
    good_from: float
    bias: float
    terms: dict[str, Term]
    """Terms by signal."""
    review_below: Share | None = None
    """Threshold by ``evaluate.threshold``: at most 5 % of the items above it are failures. None: unknown."""
    quantiles: tuple[Share, ...] | None = None
    """Qualities of ordinary photos: the lowest, the highest, and evenly spaced quantiles between. None: unknown."""
    fitted_on: dict[str, int | float | str | None]
    """For information: numbers of items and photos, and the ranking quality by cross-validation."""

    def probability(self, signals: Mapping[str, Any]) -> float:
        """Return the probability of a good mask, in [MIN_PROBABILITY, 1 - MIN_PROBABILITY]."""
        return probability(self.bias + sum(term.log_odds(signals.get(name)) for name, term in self.terms.items()))

    def reasons(self, signals: Mapping[str, Any], review_below: float | None = None) -> tuple[str, ...]:
        """Return the signals, at most two, that lower the probability most, strongest first.

        Many small pulls can add up: below ``review_below`` the strongest one is named, however small it is. A signal without
        a value is named there only if no other exists.
        """
        pulls = sorted((term.log_odds(signals.get(name)) - term.usual, name) for name, term in self.terms.items())
        strong = tuple(name for pull, name in pulls[:2] if pull < -MIN_PULL)
        if strong or review_below is None or self.probability(signals) >= review_below:
            return strong
        return tuple(sorted((name for _, name in pulls), key=lambda name: signals.get(name) is None)[:1])

    def share_below(self, quality: float) -> float | None:
        """Return the share of ordinary photos that is expected to have a lower quality; None if unknown."""
        if self.quantiles is None:
            return None
        return float(np.interp(quality, self.quantiles, np.linspace(0, 1, len(self.quantiles)), left=0, right=1))

    def as_json(self) -> bytes:
        """Return the file's content."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False).encode() + b"\n"


def read_calibration(data: bytes, where: str) -> Calibration:
    """Read a file of ``matteline calibrate``.

    Raises:
        ConfigError: It is no such file, or its numbers are invalid.
    """
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{where} is not JSON ({error}); set recipe.calibration to a file that matteline calibrate wrote"
        ) from None
    if not isinstance(facts, dict):
        raise ConfigError(f"{where} is not a calibration; set recipe.calibration to a file that matteline calibrate wrote")
    calibration = build(Calibration, facts, where)
    for name, term in calibration.terms.items():
        rising = all(one < other for one, other in itertools.pairwise(term.at))
        if not term.at or len(term.at) != len(term.adds) or not rising:
            raise ConfigError(
                f"{where}: terms.{name}: at must increase and have as many numbers as adds; run matteline calibrate again"
            )
    return calibration


def load_calibration(recipe: Recipe, path: Path | None) -> Calibration | None:
    """Load the recipe's calibration from a local path, and check that it is of this model; None without a path.

    Raises:
        ConfigError: It was fitted with other weights, another frame or another estimator.
    """
    if path is None:
        return None
    calibration = read_calibration(path.read_bytes(), recipe.calibration)
    expected = {"weights_sha256": recipe.weights_sha256, "frame_px": recipe.frame_px, "estimator_sha256": ESTIMATOR_SHA256}
    for name, value in expected.items():
        if (fitted := getattr(calibration, name)) != value:
            raise ConfigError(
                f"recipe.calibration {recipe.calibration} was fitted with {name} {fitted}, but the recipe has {value}; "
                "run matteline calibrate on an evaluation of this recipe, or leave the setting empty"
            )
    return calibration
