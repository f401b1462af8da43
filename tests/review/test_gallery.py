"""A gallery shows what it may, and names the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from pipeline.output.layout import Layout
from pipeline.review.gallery import entries, listing
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files

MakeOutput = Callable[..., None]


def test_a_gallery_shows_what_it_may_and_names_the_rest(tmp_path: Path, make_output: MakeOutput) -> None:
    layout, photos = Layout(str(tmp_path / "out"), "fake-0"), tmp_path / "photos"
    make_output(layout, photos=photos)
    photos.mkdir()
    Image.new("RGB", (40, 30), "red").save(photos / "0.png")
    rows, total = listing(layout, Files())
    assert total == 61 and [row["item_id"] for row in rows[:3]] == ["bad", "i0", "i1"]
    shown = entries(layout, Files(), AllowList((str(photos),)), ["i0", "i1", "i5"])
    assert shown[0].notes == [] and shown[0].views is not None and shown[0].views.photo is not None
    assert "photo not shown" in shown[1].notes[0] and shown[1].views is not None and shown[1].views.photo is None
    assert len(shown[2].notes) == 3 and shown[2].views is None
    (outside,) = entries(layout, Files(), AllowList((str(tmp_path / "elsewhere"),)), ["i0"])
    assert "outside the allowed roots" in outside.notes[0]
