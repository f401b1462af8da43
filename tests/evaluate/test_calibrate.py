"""Calibrations from what an evaluation left: fitted on some photos, judged on the others."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.job import Storage
from pipeline.errors import ConfigError, StorageError
from pipeline.evaluate.calibrate import calibrate
from pipeline.evaluate.schema import EVALUATION
from pipeline.output.layout import Layout
from pipeline.quality.calibration import read_calibration
from pipeline.review.reviews import import_reviews
from pipeline.schema import INDEX, SIGNALS
from pipeline.storage.files import Files

pytest.importorskip("sklearn")
FILES = Files(Storage())


def signals_of(worth: float, rng: np.random.Generator) -> dict[str, Any]:
    found: dict[str, Any] = {field.name: 0.5 for field in SIGNALS} | dict.fromkeys(("empty", "full", "constant"), False)
    return found | {"soft_dice": worth + rng.normal(0, 0.02), "stray": 1 - worth + rng.normal(0, 0.03), "box_agreement": None}


def output(folder: Path, photos: int = 120, copies: int = 3, **recipe: Any) -> Layout:
    """An output of which every item was measured."""
    rng = np.random.default_rng(1)
    layout = Layout(str(folder), "model-0123456789ab")
    rows = []
    for photo in range(photos):
        for copy in range(copies):
            dice = float(np.clip(rng.normal(0.95 if photo % 3 else 0.8, 0.04), 0, 1))
            row = {"item_id": f"{photo}@{copy}", "group": f"{photo}", "tags": ["cat", "dog"][photo % 2 :], "status": "ok"}
            rows.append(row | {"signals": signals_of(dice, rng), "dice_binary": dice, "quality": 0.5})
    rows.append({"item_id": "gone", "group": "gone", "status": "failed", "error_code": "fetch"})
    rows.append(
        rows[0] | {"item_id": "flat", "group": "flat", "signals": rows[0]["signals"] | {"empty": True}, "dice_binary": 0.0}
    )
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, EVALUATION), sink)
    FILES.write(f"{layout.evaluation}/part-0.parquet", sink.getvalue())
    facts = {"weights_sha256": "a" * 64, "frame_px": 320} | recipe
    FILES.write(layout.recipe, json.dumps(facts).encode())
    return layout


def test_half_of_the_photos_judge(tmp_path: Path) -> None:
    made = calibrate([output(tmp_path)], FILES, 0.5)
    about = made.calibration.fitted_on
    assert about["photos"] == 61  # of 121
    assert made.rankings["quality"].items + int(about["items"] or 0) == 361
    assert made.rankings["quality"].numbers["auroc"].value > 0.9
    assert made.rankings["quality"].numbers["calibration_error"].value < 0.1
    assert made.calibration.weights_sha256 == "a" * 64 and made.calibration.frame_px == 320
    assert made.calibration.model == "model"
    assert read_calibration(made.calibration.as_json(), "x") == made.calibration


def test_copies_stay_on_their_photos_side_and_kinds_are_halved(tmp_path: Path) -> None:
    first = calibrate([output(tmp_path / "a")], FILES, 0.5)
    assert first.calibration.fitted_on["items"] in (61 * 3, 60 * 3 + 1)  # with the flat one, which has no copies, or without
    again = calibrate([output(tmp_path / "b")], FILES, 0.5)
    assert again.calibration == first.calibration


def test_all_of_it_may_be_fitted_on(tmp_path: Path) -> None:
    made = calibrate([output(tmp_path)], FILES, 0.0)
    assert made.calibration.fitted_on["items"] == 361
    assert made.rankings == {}


def test_reviews_count_where_nothing_was_measured(tmp_path: Path) -> None:
    layout = output(tmp_path)
    rng = np.random.default_rng(2)
    rows = [
        {"item_id": f"new-{number}", "status": "ok", "quality": 0.5, "signals": signals_of(0.97 if number % 2 else 0.8, rng)}
        for number in range(20)
    ]
    rows.append({"item_id": "0@0", "status": "ok", "signals": signals_of(0.9, rng)})
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, INDEX), sink)
    FILES.write(f"{layout.index}/part-0.parquet", sink.getvalue())
    lines = [f"new-{number},{'accept' if number % 2 else 'reject'}" for number in range(20)]
    import_reviews("item_id,verdict\n0@0,reject\n" + "\n".join(lines), layout, FILES)
    made = calibrate([layout], FILES, 0.0)
    assert made.reviews == 20
    assert made.calibration.fitted_on["items"] == 381


def test_two_outputs_are_of_one_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="different models"):
        calibrate([output(tmp_path / "a"), output(tmp_path / "b", frame_px=512)], FILES, 0.5)
    both = calibrate([output(tmp_path / "c"), output(tmp_path / "d")], FILES, 0.0)
    assert both.calibration.fitted_on["items"] == 2 * 361


def test_what_can_not_be(tmp_path: Path) -> None:
    layout = output(tmp_path)
    with pytest.raises(ConfigError, match="--judge 1 must be"):
        calibrate([layout], FILES, 1.0)
    FILES.write(f"{layout.evaluation}/part-0.parquet", b"nothing")
    with pytest.raises(StorageError, match="run matteline evaluate again"):
        calibrate([layout], FILES, 0.5)
    FILES.delete(f"{layout.evaluation}/part-0.parquet")
    with pytest.raises(ConfigError, match="run matteline evaluate into it"):
        calibrate([layout], FILES, 0.5)
