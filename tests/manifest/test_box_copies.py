"""Copies of items with boxes as people and detectors draw them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from PIL import Image
from typer.testing import CliRunner

from jobs.main import app
from pipeline.errors import ConfigError
from pipeline.imaging.rough_boxes import BOX_KINDS, rough_box
from pipeline.manifest.box_copies import is_incomplete, parse_box_kinds, with_rough_boxes
from pipeline.manifest.corruptions import is_copy
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files

OBJECT = (40, 30, 100, 70)
"""x0, y0, x1, y1 in a picture of 200 x 150 pixels."""


def truth(box: tuple[int, int, int, int] = OBJECT) -> np.ndarray:
    mask = np.zeros((150, 200), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 255
    return mask


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for folder, pixels in (("photos", np.full((150, 200, 3), 99, np.uint8)), ("masks", truth())):
        (tmp_path / folder).mkdir()
        for number in range(2):
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    return tmp_path


def matteline(*words: str) -> tuple[int, str, BaseException | None]:
    result = CliRunner().invoke(app, ["manifest", *words])
    return result.exit_code, result.output, result.exception


def test_the_command_adds_rows_that_a_run_reads(photos: Path) -> None:
    words = [f"{photos}/photos", "--masks", f"{photos}/masks", "--corruptions", "noise", "-o", f"{photos}/m.csv"]
    code, output, _ = matteline(*words, "--boxes", "none,loose,cut")
    assert code == 0 and "m.csv: 10 items, 4 with a box, 10 with ground truth" in output
    rows = {row["item_id"]: row for row in pyarrow.csv.read_csv(photos / "m.csv").to_pylist()}
    assert len(rows) == 10
    assert "0.png@noise@loose" not in rows
    assert {row["group"] for name, row in rows.items() if name.startswith("1.png")} == {"1.png"}
    assert "box:loose" in rows["0.png@loose"]["tags"] and rows["0.png@none"]["x0"] is None and rows["0.png"]["x0"] is None
    loose = rough_box(truth(), "loose", 1)
    assert loose is not None and rows["0.png@loose"]["x0"] <= 40
    assert rows["0.png@loose"]["image_uri"] == rows["0.png"]["image_uri"]


def test_lists_stay_lists_and_other_columns_are_kept(photos: Path) -> None:
    row = {"item_id": "a", "image_uri": f"{photos}/photos/0.png", "truth_uri": f"{photos}/masks/0.png", "box": [1, 2, 3, 4]}
    table = pa.Table.from_pylist([row | {"sku": 7, "tags": "hair", "group": "g"}])
    table, left_out = with_rough_boxes(table, ("none", "tight"), AllowList((str(photos),)), Files())
    assert left_out == {}
    found = [(one["item_id"], one["box"], one["sku"], one["tags"], one["group"]) for one in table.to_pylist()]
    assert found == [
        ("a", [1, 2, 3, 4], 7, ["hair"], "g"),
        ("a@none", None, 7, ["hair", "box:none"], "g"),
        ("a@tight", list(OBJECT), 7, ["hair", "box:tight"], "g"),
    ]


def test_missing_copies_are_reported(photos: Path) -> None:
    Image.fromarray(np.full((150, 200), 255, np.uint8)).save(photos / "masks" / "0.png")
    (photos / "masks" / "1.png").write_bytes(b"not an image")
    words = [f"{photos}/photos", "--masks", f"{photos}/masks", "-o", f"{photos}/m.jsonl", "--boxes", "beside,tight"]
    code, output, _ = matteline(*words)
    assert code == 0 and "m.jsonl: 3 items, 1 with a box" in output
    assert "1 copy left out: beside: there is no room" in output and "2 copies left out: 1.png: " in output


def test_invalid_options_are_refused(photos: Path) -> None:
    code, _, error = matteline(f"{photos}/photos", "--masks", f"{photos}/masks", "--boxes", "lose", "-o", f"{photos}/m.csv")
    assert code == 1 and isinstance(error, ConfigError) and "unknown kind 'lose'; the kinds are none, tight" in str(error)
    code, _, error = matteline(f"{photos}/photos", "--boxes", "loose", "-o", f"{photos}/m.csv")
    assert code == 1 and isinstance(error, ConfigError) and "--boxes needs ground truth" in str(error)


def test_the_names_of_copies() -> None:
    assert parse_box_kinds("loose,none") == ("none", "loose") and parse_box_kinds("all") == BOX_KINDS
    assert [is_incomplete(f"a@{kind}") for kind in ("tight", "loose", "cut", "beside", "blur")] == [0, 0, 1, 1, 0]
    assert not any(is_copy(f"a@{kind}") for kind in BOX_KINDS)
    assert not is_incomplete("cut")
