"""Make ``clips`` of the tests of videos importable, which writes clips."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "video"))
