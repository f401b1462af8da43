from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.types import Pixels

FOLDER = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("DATA") or FOLDER.parents[1] / ".." / "shared")

# Tests are no package, but damage, hostile and valid_images import each other, and test_fuzz imports trials.
sys.path += [str(FOLDER), str(FOLDER.parent / "fuzz")]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of goldens and awkward files: DATA, or the one beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"no folder {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def photo() -> Callable[[int, int], Pixels]:
    """Make pictures of (height, width) with different corners, rows and columns, and with grain."""

    def make(height: int, width: int) -> Pixels:
        y, x = np.mgrid[:height, :width].astype(np.float64)
        y, x = y / height, x / width
        waves = np.stack([x, y * (1 - x), np.sin(9 * x + 5 * y) / 4 + (x + y) / 3], axis=-1)
        grain = np.random.default_rng(height * 10_007 + width).normal(0, 0.02, waves.shape)
        return np.clip(255 * (0.1 + 0.8 * waves + grain), 0, 255).astype(np.uint8)

    return make
