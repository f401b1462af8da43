"""Recipe fingerprints mark the items of an output, so they must not change by accident.

``python tests/config/test_fingerprints.py`` writes them anew, after ``RECIPE_VERSION`` was raised or a preset was added.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.config.presets import load_preset, preset_names

GOLDEN = Path(__file__).parent / "fingerprints.json"
OTHERS = {"stretch": True, "refiner": "guided", "foreground": "ben2", "views": ["flip"], "sharpen": 3}
"""Settings that no preset has."""


def fingerprints() -> dict[str, str]:
    """Return the fingerprints of all presets, and of one with other settings."""
    found = {name: load_preset(name, {"precision": "fp32"}).recipe.fingerprint() for name in preset_names()}
    return found | {"u2netp with others": load_preset("u2netp", OTHERS).recipe.fingerprint()}


def test_fingerprints_are_those_of_before() -> None:
    assert fingerprints() == json.loads(GOLDEN.read_text(encoding="utf-8"))


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(fingerprints(), indent=2) + "\n", encoding="utf-8")
