"""Manifests with corrupted copies: their rows, their files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from jobs.main import app
from pipeline.errors import ConfigError
from pipeline.imaging.corruptions import KINDS, tag
from pipeline.manifest.box_copies import with_rough_boxes
from pipeline.manifest.corruptions import is_copy, parse_kinds, with_corruptions
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos with ground truth, in ``photos/`` and ``masks/``, and one without."""
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    y, x = np.mgrid[:60, :80]
    for number in range(4):
        inside = (y - 28) ** 2 + (x - 30 - 5 * number) ** 2 < 14**2
        Image.fromarray(np.where(inside[..., None], (30, 60, 200), (90, 150, 60 + number)).astype(np.uint8)).save(
            tmp_path / "photos" / f"{number}.png"
        )
        if number < 3:
            Image.fromarray((inside * 255).astype(np.uint8)).save(tmp_path / "masks" / f"{number}.png")
    return tmp_path


def matteline(*words: str) -> tuple[int, str, BaseException | None]:
    result = CliRunner().invoke(app, ["manifest", *words])
    return result.exit_code, result.output, result.exception


def test_copies_are_rows_with_tags_and_a_group(photos: Path) -> None:
    command = [f"{photos}/photos", "--masks", f"{photos}/masks", "--corruptions", "all", "-o", f"{photos}/m.parquet"]
    code, output, _ = matteline(*command)
    assert code == 0 and "m.parquet: 25 items" in output
    rows = pq.read_table(photos / "m.parquet").to_pylist()
    assert [row["item_id"] for row in rows[:4]] == [row["group"] for row in rows[:4]] == [f"{n}.png" for n in range(4)]
    assert {row["item_id"]: row["tags"] for row in rows[4:11]} == {f"0.png@{kind}": [tag(kind)] for kind in KINDS}
    assert [is_copy(row["item_id"]) for row in rows] == 4 * [False] + 21 * [True]
    assert not is_copy("blur") and not is_copy("a@b.jpg")
    for row in rows[4:]:
        assert row["group"] == row["item_id"].partition("@")[0] and row["truth_uri"] == f"masks/{row['group']}"
        assert row["image_uri"].startswith("copies/")
        assert Image.open(photos / row["image_uri"]).size == (80, 60)
    contents = {path: path.read_bytes() for path in (photos / "copies").iterdir()}
    matteline(*command)
    assert {path: path.read_bytes() for path in (photos / "copies").iterdir()} == contents


def test_items_of_one_photo_share_a_group_and_keep_their_columns(photos: Path) -> None:
    uris = {name: f"{photos}/{folder}/0.png" for name, folder in (("image_uri", "photos"), ("truth_uri", "masks"))}
    table = pa.Table.from_pylist([uris | {"item_id": name, "x0": 16, "tags": "hair; thin"} for name in ("a", "b")])
    table, left_out = with_corruptions(table, ("blur",), str(photos / "c"), AllowList((str(photos),)), Files())
    assert left_out == {}
    assert [(row["item_id"], row["group"], row["x0"], row["tags"]) for row in table.to_pylist()] == [
        *((name, "a", 16, ["hair", "thin"]) for name in ("a", "b")),
        *((f"{name}@blur", "a", 16, ["hair", "thin", tag("blur")]) for name in ("a", "b")),
    ]


def test_a_row_without_a_picture_has_no_copy_and_is_alone(photos: Path) -> None:
    """A Parquet data set may have masks without pictures; see ``unpack``."""
    masks = [f"{photos}/masks/{number}.png" for number in range(3)]
    rows = [{"item_id": f"i{number}", "image_uri": None, "truth_uri": mask} for number, mask in enumerate(masks)]
    rows[2]["image_uri"] = f"{photos}/photos/2.png"
    allowlist, files = AllowList((str(photos),)), Files()
    table, left_out = with_corruptions(pa.Table.from_pylist(rows), ("blur",), str(photos / "c"), allowlist, files)
    assert left_out == {"i0: it has no picture": 1, "i1: it has no picture": 1}
    assert [(row["item_id"], row["group"]) for row in table.to_pylist()] == [
        *(("i0", "i0"), ("i1", "i1"), ("i2", "i2"), ("i2@blur", "i2"))
    ]
    boxed, _ = with_rough_boxes(pa.Table.from_pylist(rows), ("tight",), allowlist, files)
    assert boxed["group"].to_pylist() == ["i0", "i1", "i2"] * 2


def test_missing_copies_are_reported(photos: Path) -> None:
    (photos / "masks" / "0.png").write_bytes(b"not an image")
    Image.new("L", (5, 5), 255).save(photos / "masks" / "1.png")
    Image.new("L", (80, 60), 255).save(photos / "masks" / "2.png")
    command = [f"{photos}/photos", "--masks", f"{photos}/masks", "-o", f"{photos}/m.jsonl"]
    code, output, _ = matteline(*command, "--corruptions", "noise,shadow")
    assert code == 0 and len((photos / "m.jsonl").read_text().splitlines()) == 5
    for words in ("2 copies left out: 0.png: ", "1.png: the ground truth has another size", "1 copy left out: shadow"):
        assert words in output
    code, output, _ = matteline(*command, "--corruptions", "noise,shadow", "--boxes", "tight")
    assert code == 0 and "3 copies left out: 0.png: " in output, "of both options together"


def test_annotations_cannot_name_files_outside_the_roots(photos: Path) -> None:
    """Otherwise a file name in untrusted JSON could be read and published as a copy."""
    (photos / "few").mkdir()
    annotations = {
        "images": [{"id": 1, "file_name": "../photos/0.png", "height": 60, "width": 80}],
        "annotations": [{"id": 1, "image_id": 1, "bbox": [0, 0, 9, 9], "segmentation": [[0, 0, 9, 0, 9, 9]]}],
    }
    (photos / "coco.json").write_text(json.dumps(annotations))
    words = ["--coco", f"{photos}/coco.json", "--write-masks", f"{photos}/true", "--corruptions", "blur"]
    code, output, _ = matteline(f"{photos}/few", *words, "-o", f"{photos}/m.csv")
    assert code == 0 and "outside the allowed roots" in output
    assert not (photos / "copies").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--masks", "masks", "--corruptions", "blurr", "-o", "m.csv"], "unknown kind 'blurr'; the kinds are blur, low_light"),
        (["--corruptions", "blur", "-o", "m.csv"], "--corruptions needs ground truth"),
        (["--masks", "masks", "--corruptions", "blur", "-o", "photos/m.csv"], "photos/copies"),
    ],
)
def test_invalid_options_are_refused(photos: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    monkeypatch.chdir(photos)
    code, _, error = matteline("photos", *words)
    assert code == 1 and isinstance(error, ConfigError) and message in str(error)
    assert not list(photos.rglob("m.csv"))


def test_kinds_are_returned_in_their_own_order() -> None:
    assert parse_kinds(" shadow,blur,") == ("blur", "shadow") and parse_kinds("all") == KINDS and parse_kinds("") == ()
