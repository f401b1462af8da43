"""Names of objects on the command line: what a plan says about the detector, and an evaluation by name."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from PIL import Image

from pipeline.paths import EXAMPLES

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    """A manifest of one photo with a mask."""
    shutil.copy(EXAMPLES / "cat.jpg", tmp_path / "cat.jpg")
    size = Image.open(tmp_path / "cat.jpg").size
    Image.fromarray(np.full(size[::-1], 255, np.uint8)).save(tmp_path / "truth.png")
    (tmp_path / "cat.csv").write_text("image_uri,truth_uri\ncat.jpg,truth.png\n")
    return tmp_path / "cat.csv"


def test_a_plan_names_the_detector_and_what_it_looks_for(cat: Path, matteline: Command, fake_preset: str) -> None:
    def planned(*more: str) -> str:
        shown = matteline("plan", "-m", "cat.csv", "-o", "out", "-p", fake_preset, *more, env={"COLUMNS": "250"})
        assert shown.returncode == 0, shown.stderr
        return re.sub(r"\s+", " ", shown.stdout)

    assert "detector nanodet, for 'cat', 'dog'; the time" in planned("--label", "cat", "--label", "dog")
    assert " detector " not in planned("--label", "auto")
    assert "detector nanodet, which finds nothing" in planned("--set", "recipe.detector=nanodet")
    cat.write_text("image_uri,kind\ncat.jpg,cat\n")
    by_row = planned("--set", "recipe.detector=nanodet", "--label-column", "kind", "--label", "dog")
    assert "detector nanodet, for the names in the manifest, else 'dog'" in by_row


def test_an_evaluation_by_name(cat: Path, matteline: Command, fake_preset: str) -> None:
    shown = matteline("evaluate", "-m", "cat.csv", "-o", "out", "-p", fake_preset, "--label", "cat")
    assert shown.returncode == 0, shown.stderr
    (index,) = (cat.parent / "out").rglob("index")  # an output for each model
    rows = ds.dataset(index, format="parquet").to_table(["prompt", "detected_label"]).to_pylist()
    assert rows == [{"prompt": ["cat"], "detected_label": "cat"}]


def test_the_model_of_a_detection_is_that_of_objects_without_names(cat: Path, matteline: Command, fake_preset: str) -> None:
    refused = matteline("detect", "-m", "cat.csv", "-o", "boxes.parquet", "--label", "cat", "-p", fake_preset)
    assert refused.returncode == 2 and "recipe.detector.many=each" in refused.stderr
    settings = ("recipe.detector.many=each", "recipe.detector.missing=salient")
    each = ("-p", fake_preset, "--label", "auto", *(part for one in settings for part in ("--set", one)))
    found = matteline("detect", "-m", "cat.csv", "-o", "boxes.parquet", *each, "--image-column", "image_uri")
    assert found.returncode == 0, found.stderr
