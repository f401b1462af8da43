"""``make calibrate``: the manifest, the results that are kept, and the files in the package."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.evaluate import bundled
from pipeline.evaluate.calibrate import CalibrationResult
from pipeline.imaging.corruptions import KINDS
from pipeline.quality.calibration import Calibration, read_calibration

pytest.importorskip("py_sod_metrics")


def png(pixels: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six photos of a bright square on grey."""
    rows = []
    for number in range(6):
        mask = np.zeros((60, 80), np.uint8)
        mask[20:45, 10 + number : 40] = 255
        image = np.where(mask[..., None] > 0, 230, 60).repeat(3, 2).astype(np.uint8)
        rows.append({"item_id": f"p{number}", "source": ["a", "b"][number % 2], "image": png(image), "mask": png(mask)})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "photos.parquet")
    return tmp_path / "photos.parquet"


def test_every_photo_has_each_kind_of_box(photos: Path, tmp_path: Path) -> None:
    path = bundled.make_manifest(str(photos), tmp_path / "out", every=2)
    rows = {row["item_id"]: row for row in pq.read_table(path).to_pylist()}
    assert {name.partition("@")[0] for name in rows} == {"p0", "p2", "p4"}
    for photo in ("p0", "p2", "p4"):
        kinds = {name.partition("@")[2] for name in rows if name.startswith(photo)}
        assert {"none", "tight", "loose"} < kinds
        assert len(kinds & set(bundled.IN_TURN)) == 1 and len(kinds) - len(kinds & set(KINDS)) == 4
        assert rows[f"{photo}@none"]["box"] is None and len(rows[f"{photo}@tight"]["box"]) == 4
        assert rows[f"{photo}@loose"]["tags"] == ["a", "box:loose"] and rows[f"{photo}@loose"]["group"] == photo
        assert all(rows[f"{photo}@{kind}"]["box"] is None for kind in kinds & set(KINDS))
    before = path.stat().st_mtime_ns
    assert bundled.make_manifest(str(photos), tmp_path / "out", every=2).stat().st_mtime_ns == before


def test_results_of_the_same_weights_are_kept(
    photos: Path, tmp_path: Path, fake_preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = bundled.make_manifest(str(photos), tmp_path / "out")
    output = bundled.measured(fake_preset, manifest, tmp_path / "out")
    assert list(output.files.list(output.layout.evaluation, suffixes=(".parquet",)))
    monkeypatch.setattr(bundled, "evaluate", lambda *_: pytest.fail("measured again"))
    assert bundled.measured(fake_preset, manifest, tmp_path / "out") == output


def test_a_calibration_and_its_hash_are_written_together(tmp_path: Path) -> None:
    facts: dict[str, Any] = {
        "weights_sha256": None,
        "frame_px": 32,
        "estimator_sha256": "e",
        "good_from": 0.95,
        "bias": 0.0,
        "terms": {},
    }
    calibration = Calibration(version=1, model="m", fitted_on={}, **facts)
    preset = tmp_path / "m.yaml"
    preset.write_text(f"recipe:\n  calibration_sha256: {'0' * 64}\n  sharpen: 2.0\n")
    bundled.install("m", CalibrationResult(calibration, {}, {}, None, 0), tmp_path, tmp_path)
    data = (tmp_path / "m.calibration.json").read_bytes()
    assert read_calibration(data, "there") == calibration
    assert preset.read_text() == f"recipe:\n  calibration_sha256: {hashlib.sha256(data).hexdigest()}\n  sharpen: 2.0\n"
    preset.write_text("about: x\nrecipe:\n  sharpen: 2.0\n")
    bundled.install("m", CalibrationResult(calibration, {}, {}, None, 0), tmp_path, tmp_path)
    assert yaml.safe_load(preset.read_text())["recipe"] == {
        "sharpen": 2.0,
        "calibration": "bundled:m.calibration.json",
        "calibration_sha256": hashlib.sha256(data).hexdigest(),
    }
    preset.write_text(f"recipe:\n  calibration_sha256: {'0' * 64}\n  calibration_sha256: {'0' * 64}\n")
    with pytest.raises(ConfigError, match="has 2 lines calibration_sha256"):
        bundled.install("m", CalibrationResult(calibration, {}, {}, None, 0), tmp_path, tmp_path)
