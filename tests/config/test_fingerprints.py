"""Recipe fingerprints name outputs, so they must not change by accident.

Those of mvanet-lite and u2netp changed once after 0.1.0: ``review_below`` is now the threshold in their calibration files.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config.presets import load_preset, preset_names
from pipeline.config.recipe import Recipe
from pipeline.models.resolve import with_threshold
from pipeline.quality.calibration import load_calibration

GOLDEN = json.loads((Path(__file__).parent / "fingerprints.json").read_text(encoding="utf-8"))
CHANGES = {
    "plain": {},
    "stretch": {"stretch": True, "refiner": "guided"},
    "trimap": {"outputs": ["mask", "trimap"], "foreground": "ben2", "flip": True},
}


def fingerprint(recipe: Recipe) -> str:
    """Return the fingerprint after resolving, without the weights of presets that are not bundled."""
    calibration = load_calibration(recipe, Path(recipe.calibration) if recipe.calibration else None)
    return with_threshold(recipe, calibration).fingerprint()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_keeps_its_fingerprint(preset: str, change: str) -> None:
    recipe = load_preset(preset, {"precision": "fp32"} | CHANGES[change]).recipe
    assert fingerprint(recipe) == GOLDEN[f"{preset}/{change}"]


def test_a_rendition_changes_the_fingerprint_in_the_same_way_as_before() -> None:
    recipe = load_preset("u2netp", {"precision": "fp32"}, ["amazon-main"]).recipe
    assert fingerprint(recipe) == GOLDEN["u2netp/amazon-main"]


def test_every_preset_is_listed() -> None:
    assert set(GOLDEN) == {f"{preset}/{change}" for preset in preset_names() for change in CHANGES} | {"u2netp/amazon-main"}
