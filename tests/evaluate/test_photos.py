"""``make evaluate``: the bundled model on the evaluation photos, whose sources are the tags; tables and bars."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.evaluate, pytest.mark.timeout(1800)]

MATTELINE = [sys.executable, "-m", "jobs.main"]


@pytest.fixture(scope="module")
def evaluation(eval_photos: Path, out: Path) -> dict[str, Any]:
    """The one model's numbers, of masks made anew."""
    shutil.rmtree(out / "models", ignore_errors=True)
    root = Path(__file__).resolve().parents[2]
    unpack = [*MATTELINE, "manifest", str(eval_photos), "--unpack", str(out / "photos"), "-o", str(out / "photos.parquet")]
    subprocess.run(unpack, cwd=root, check=True, timeout=300)
    command = [*MATTELINE, "evaluate", "-m", str(out / "photos.parquet"), "-o", str(out / "models"), "--tags", "source"]
    subprocess.run([*command, "-p", "u2netp"], cwd=root, check=True, timeout=1500)
    (model,) = json.loads((out / "models" / "evaluation.json").read_text(encoding="utf-8"))["models"]
    found: dict[str, Any] = model
    return found


def test_every_photo_is_measured(evaluation: dict[str, Any]) -> None:
    assert evaluation["items"] == evaluation["measured"] == 316
    assert evaluation["failed"] == evaluation["unreadable"] == 0
    assert {"duts_te", "ecssd", "ccp", "weizmann", "am2k", "border", "thin"} <= set(evaluation["tags"])
