"""An evaluation with manifest, images, ground truth and output on S3."""

from __future__ import annotations

import io
import json
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config.job import Storage, load_job
from pipeline.evaluate.driver import EvaluateOptions, evaluate
from pipeline.output.output import open_output
from pipeline.storage.files import Files

pytest.importorskip("py_sod_metrics")
pytestmark = pytest.mark.usefixtures("few_resamples")


def test_on_s3(s3: Any, tmp_path: Path, make_photos: Any, fake_preset: str) -> None:
    s3.make_bucket("evaluate")
    storage, root = Storage(**s3.settings), f"s3://evaluate/{secrets.token_hex(6)}"
    files = Files(storage)
    lines = ["image_uri,truth_uri,tags"]
    for photo in make_photos(tmp_path / "photos", 3):
        grey, sink = np.asarray(Image.open(photo).convert("L")), io.BytesIO()
        Image.fromarray(((grey > 120) * 255).astype(np.uint8)).save(sink, "PNG")
        files.write(f"{root}/photos/{photo.name}", photo.read_bytes())
        files.write(f"{root}/masks/{photo.stem}.png", sink.getvalue())
        lines.append(f"photos/{photo.name},masks/{photo.stem}.png,a;b")
    files.write(f"{root}/manifest.csv", "\n".join(lines).encode())
    job = load_job(manifest=f"{root}/manifest.csv", output=f"{root}/out", preset=fake_preset)
    job = job.model_copy(update={"storage": storage})
    (summary,) = evaluate([job], EvaluateOptions(tags="tags"))
    assert (summary.overall.items, summary.unreadable) == (3, 0)
    assert set(summary.tags) >= {"a", "b"}
    assert json.loads(files.read(f"{root}/out/evaluation.json"))["models"][0]["measured"] == 3
    assert len(list(files.list(open_output(f"{root}/out", files).layout.evaluation))) == 1
