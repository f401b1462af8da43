"""What makes a quality a probability: a sum of what each signal adds, in log odds, fitted on masks whose Dice is known.

The sum is a generalised additive model (Hastie and Tibshirani, 1986) of which every term rises or falls with its signal and
never does both, so a term says by itself how much its signal pulls the quality down: that is where ``reasons`` come from.
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
from pipeline.config.sections import Section, build
from pipeline.errors import ConfigError

PULLS = 0.5
"""A signal is a reason if it takes so much from the log odds that good masks have of it."""

SURE = 1e-4
"""No mask is worth less than this for its signals alone, nor more than 1 less this: 0 is left to the flags."""


class Term(Section):
    """What one signal adds to the log odds: straight between the points, and beyond them as at the last."""

    at: tuple[float, ...]
    adds: tuple[float, ...]
    missing: float
    """Where the signal is null."""
    usual: float
    """The mean over good masks."""

    def of(self, value: float | None) -> float:
        """In log odds."""
        return self.missing if value is None else float(np.interp(value, self.at, self.adds))


class Calibration(Section):
    """P(Dice ≥ ``good_from``) of the masks of one model, as ``matteline calibrate`` writes it."""

    version: Literal[1]
    model: str
    weights_sha256: str | None
    """Of the model; null for the fake one."""
    frame_px: int
    estimator_sha256: str
    """Of the weights that make the signal ``expected_dice``."""
    good_from: float
    bias: float
    terms: dict[str, Term]
    """By signal."""
    fitted_on: dict[str, int | float | str | None]
    """For people: how many items, of how many photos, and how good the ranking of those kept apart was."""

    def probability(self, signals: Mapping[str, Any]) -> float:
        """In [SURE, 1 - SURE]."""
        odds = self.bias + sum(term.of(signals.get(name)) for name, term in self.terms.items())
        return min(1 - SURE, max(SURE, 1 / (1 + math.exp(-min(50.0, max(-50.0, odds))))))

    def reasons(self, signals: Mapping[str, Any]) -> tuple[str, ...]:
        """At most two signals, the one that pulls most first."""
        pulls = sorted((term.of(signals.get(name)) - term.usual, name) for name, term in self.terms.items())
        return tuple(name for pull, name in pulls[:2] if pull < -PULLS)

    def as_json(self) -> bytes:
        """The file."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False).encode() + b"\n"


def read_calibration(data: bytes, where: str) -> Calibration:
    """A file of ``matteline calibrate``.

    Raises:
        ConfigError: it isn't one, or its numbers can't be.
    """
    try:
        facts = json.loads(data)
    except ValueError as error:
        raise ConfigError(f"{where} isn't JSON ({error}); recipe.calibration wants a file of matteline calibrate") from None
    if not isinstance(facts, dict):
        raise ConfigError(f"{where} isn't a calibration; recipe.calibration wants a file of matteline calibrate")
    found = build(Calibration, facts, where)
    for name, term in found.terms.items():
        rising = all(one < other for one, other in itertools.pairwise(term.at))
        if not term.at or len(term.at) != len(term.adds) or not rising:
            raise ConfigError(f"{where}: terms.{name}: at must rise, and have as many numbers as adds; run matteline calibrate")
    return found


def load_calibration(recipe: Recipe, path: Path | None) -> Calibration | None:
    """The recipe's calibration, if it has one, and it is of this model.

    Args:
        path: the file that ``recipe.calibration`` names, on this machine.

    Raises:
        ConfigError: it is of other weights, another frame or another estimator.
    """
    if path is None:
        return None
    found = read_calibration(path.read_bytes(), recipe.calibration)
    wanted = {"weights_sha256": recipe.weights_sha256, "frame_px": recipe.frame_px, "estimator_sha256": ESTIMATOR_SHA256}
    for name, value in wanted.items():
        of = getattr(found, name)
        if of != value:
            raise ConfigError(
                f"recipe.calibration {recipe.calibration} was fitted with {name} {of}, but it is {value} here; "
                "run matteline calibrate on an evaluation of this recipe, or leave the setting empty"
            )
    return found
