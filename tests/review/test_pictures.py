"""A page shows the pictures that it may read, and reports the others."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.imaging.png import encode_cutout
from pipeline.output.index import write_part
from pipeline.output.output import Output
from pipeline.review.pictures import Missing, MissingPictures, load_entries, missing_pictures
from pipeline.schema import INDEX
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files

MakeOutput = Callable[..., None]


def test_missing_and_forbidden_pictures_are_reported(tmp_path: Path, make_output: MakeOutput) -> None:
    output, photos = Output.at(str(tmp_path / "out"), Files()), tmp_path / "photos"
    make_output(output, photos=photos)
    photos.mkdir()
    Image.new("RGB", (40, 30), "red").save(photos / "0.png")
    entries = load_entries(output, AllowList((str(photos),)), ["i0", "i1", "i5"])
    assert entries[0].missing == [] and entries[0].views is not None and entries[0].views.photo is not None
    assert [one.kind for one in entries[1].missing] == ["photo"] and entries[1].views is not None
    assert [one.kind for one in entries[2].missing] == ["photo", "cutout", "mask"] and entries[2].views is None
    found = missing_pictures(entries)
    assert [(one.kind, one.ids) for one in found] == [("photo", ["i1", "i5"]), ("cutout", ["i5"]), ("mask", ["i5"])]
    assert found[0].describe().startswith("2 photos (i1, i5): ") and "does not exist" in found[0].describe()
    (outside,) = load_entries(output, AllowList((str(tmp_path / "elsewhere"),)), ["i0"])
    assert "outside the allowed roots" in outside.missing[0].reason and "--allow-root" in outside.missing[0].reason


def test_a_photo_that_has_changed_its_size_is_missing(tmp_path: Path, make_output: MakeOutput) -> None:
    output, photos = Output.at(str(tmp_path / "out"), Files()), tmp_path / "photos"
    make_output(output, photos=photos)
    photos.mkdir()
    Image.new("RGB", (41, 30), "red").save(photos / "0.png")
    (entry,) = load_entries(output, AllowList((str(photos),)), ["i0"])
    assert entry.missing == [Missing("photo", "it has changed since the run: its size differs from the mask's")]
    assert entry.views is not None and entry.views.photo is None and entry.views.cutout is not None


def test_long_lists_of_missing_pictures_are_shortened() -> None:
    many = MissingPictures("photo", [f"i{number}" for number in range(2000)], "gone")
    assert many.describe() == "2,000 photos (i0, i1, i2 and 1,997 more): gone"
    assert MissingPictures("cutout", ["a"], "gone").describe() == "1 cutout (a): gone"
    assert MissingPictures("amazon-main", ["a", "b"], "gone").describe() == "2 of amazon-main (a, b): gone"


@pytest.fixture
def with_renditions(tmp_path: Path) -> Output:
    """An item with renditions: opaque, transparent, run lengths, one that was not written, one whose file is gone."""
    output = Output.at(str(tmp_path / "out"), Files())
    opaque, mask = io.BytesIO(), np.zeros((60, 90), np.uint8)
    mask[10:50, 20:70] = 200
    Image.new("RGB", (2000, 1000), "white").save(opaque, "JPEG")
    transparent = encode_cutout(np.full((60, 90, 3), (200, 30, 30), np.uint8), mask)
    files = {"white/a.jpg": opaque.getvalue(), "clear/a.png": transparent, "rle/a.json": b"{}"}
    for path, data in files.items():
        output.write(output.layout.uri(path), data)
    renditions = [{"name": path.split("/")[0], "path": path} for path in (*files, "gone/a.png", "../../etc/a.png")]
    renditions.append({"name": "empty", "path": None, "note": "no object, so no file"})
    row = {"item_id": "a", "output_name": "a", "status": "ok", "renditions": renditions}
    write_part(output, pa.Table.from_pylist([row], INDEX))
    return output


def test_renditions_are_shown_with_their_transparency(with_renditions: Output) -> None:
    (entry,) = load_entries(with_renditions, AllowList(()), ["a"])
    by_name = {one.name: one for one in entry.renditions}
    white, clear = by_name["white"].picture, by_name["clear"].picture
    assert white is not None and (white.width, white.height) == (960, 480)
    assert clear is not None
    shown = np.asarray(Image.open(io.BytesIO(clear.data)).convert("RGBA")).astype(int)
    assert shown[30, 45, 3] == pytest.approx(200, abs=12) and shown[2, 2, 3] == 0
    assert np.abs(shown[30, 45, :3] - (200, 30, 30)).max() < 25, "its own colour, without the white below it"
    assert by_name["rle"].picture is None and by_name["empty"].note == "no object, so no file"
    assert [one.kind for one in entry.missing] == ["gone", ".."]
    assert "not a path inside the output" in entry.missing[1].reason
