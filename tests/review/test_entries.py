"""A report page shows the pictures that it may read, and names the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from pipeline.output.output import Output
from pipeline.review.entries import list_rows, load_entries
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files

MakeOutput = Callable[..., None]


def test_missing_and_forbidden_pictures_are_notes(tmp_path: Path, make_output: MakeOutput) -> None:
    output, photos = Output.at(str(tmp_path / "out"), Files()), tmp_path / "photos"
    make_output(output, photos=photos)
    photos.mkdir()
    Image.new("RGB", (40, 30), "red").save(photos / "0.png")
    rows, total = list_rows(output)
    assert total == 61 and [row["item_id"] for row in rows[:3]] == ["bad", "i0", "i1"]
    shown = load_entries(output, AllowList((str(photos),)), ["i0", "i1", "i5"])
    assert shown[0].notes == [] and shown[0].views is not None and shown[0].views.photo is not None
    assert "photo not shown" in shown[1].notes[0] and shown[1].views is not None and shown[1].views.photo is None
    assert len(shown[2].notes) == 3 and shown[2].views is None
    (outside,) = load_entries(output, AllowList((str(tmp_path / "elsewhere"),)), ["i0"])
    assert "outside the allowed roots" in outside.notes[0]
