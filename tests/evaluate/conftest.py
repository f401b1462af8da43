"""Photos with true masks: made ones for the tests, the evaluation set for ``make evaluate``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def eval_photos() -> Path:
    """``data/eval/photos.parquet`` in ``DATA``."""
    return Path(os.environ.get("DATA") or ROOT.parent / "shared") / "data" / "eval" / "photos.parquet"


@pytest.fixture(scope="session")
def out() -> Path:
    """Where what a person looks at goes."""
    folder = ROOT / "out" / "evaluate"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
