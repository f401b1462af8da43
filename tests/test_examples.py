"""The example_path photos: small, free, described, and worth a demonstration."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.paths import EXAMPLES, example_path
from pipeline.segmenter import Segmenter

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = sorted(EXAMPLES.glob("*.jpg"))
FREE = {"public domain", "CC0-1.0", "MIT", "MIT AND CC0-1.0"}

with (EXAMPLES / "manifest.csv").open(encoding="utf-8", newline="") as file:
    ROWS = list(csv.DictReader(file))


def box_of(row: dict[str, str]) -> tuple[int, int, int, int] | None:
    """The row's box; None where it has none."""
    numbers = [row[name] for name in ("x0", "y0", "x1", "y1")]
    if not any(numbers):
        return None
    x0, y0, x1, y1 = (int(number) for number in numbers)
    return x0, y0, x1, y1


def test_manifest_names_every_photo_once_or_more() -> None:
    assert 8 <= len(PHOTOS) <= 12
    assert {row["image_uri"] for row in ROWS} == {path.name for path in PHOTOS}
    assert len({row["item_id"] for row in ROWS}) == len(ROWS)


def test_some_rows_have_boxes_and_some_have_none() -> None:
    boxes = [box_of(row) for row in ROWS]
    assert sum(box is not None for box in boxes) >= 3
    assert boxes.count(None) >= 3


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["item_id"])
def test_row_is_described_and_free(row: dict[str, str]) -> None:
    assert row["title"] and row["source"]
    assert row["licence"] in FREE


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.stem)
def test_photo_is_a_plain_jpeg_of_a_handy_size(path: Path) -> None:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert 450 <= max(image.size) <= 1400
        assert not image.getexif()
    assert path.name in (ROOT / "NOTICE").read_text(encoding="utf-8")


def test_photos_weigh_little() -> None:
    assert sum(path.stat().st_size for path in PHOTOS) < 2_500_000


def test_examples_are_found_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Path(example_path("examples/manifest.csv")) == EXAMPLES / "manifest.csv"
    assert example_path("examples/none.csv") == "examples/none.csv"
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "manifest.csv").touch()
    assert example_path("examples/manifest.csv") == "examples/manifest.csv"


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter("u2netp", device="cpu", threads=1)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["item_id"])
def test_bundled_model_finds_the_object(row: dict[str, str], segmenter: Segmenter) -> None:
    with Image.open(EXAMPLES / row["image_uri"]) as image:
        box = box_of(row)
        alpha, _ = segmenter(image, box=box)
        width, height = image.size
    found = alpha > 127
    assert 0.01 < found.mean() < 0.8
    if box is None:
        return
    x0, y0, x1, y1 = box
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    fx0, fy0, fx1, fy1 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    shared = max(min(x1, fx1) - max(x0, fx0), 0) * max(min(y1, fy1) - max(y0, fy0), 0)
    assert shared / ((x1 - x0) * (y1 - y0) + (fx1 - fx0) * (fy1 - fy0) - shared) > 0.75
