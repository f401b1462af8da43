"""``make evaluate``: the bundled model on the evaluation photos, whose sources are the tags, with their boxes and without."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.evaluate, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = 316


def matteline(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "jobs.main", *arguments], cwd=ROOT, check=True, timeout=1500)


@pytest.fixture(scope="module")
def manifests(eval_photos: Path, out: Path) -> dict[str, Path]:
    """The same photos twice."""
    boxed, whole = out / "boxed.parquet", out / "whole.parquet"
    matteline("manifest", str(eval_photos), "--unpack", str(out / "photos"), "-o", str(boxed))
    pq.write_table(pq.read_table(boxed).drop_columns(["box"]), whole)
    return {"boxed": boxed, "whole": whole}


@pytest.mark.parametrize("kind", ["boxed", "whole"])
def test_every_photo_is_measured(kind: str, manifests: dict[str, Path], out: Path) -> None:
    """Of masks made anew; the tables are printed as they come."""
    print(f"\n\nu2netp, photos {'cut to their boxes' if kind == 'boxed' else 'without boxes'}\n", flush=True)
    shutil.rmtree(out / kind, ignore_errors=True)
    asked = ["--tags", "source", "--set", "recipe.outputs=[mask]"]
    matteline("evaluate", "-m", str(manifests[kind]), "-o", str(out / kind), "-p", "u2netp", *asked)
    (model,) = json.loads((out / kind / "evaluation.json").read_text(encoding="utf-8"))["models"]
    check(model)


def check(model: dict[str, Any]) -> None:
    """One row a photo, all measured, by every source and both tags that masks give."""
    assert model["items"] == model["measured"] == PHOTOS
    assert model["failed"] == model["unreadable"] == 0
    assert {"duts_te", "ecssd", "ccp", "weizmann", "am2k", "border", "thin"} <= set(model["tags"])
    assert {"quality", "soft_dice"} <= set(model["rankings"])
