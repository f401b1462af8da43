"""A manifest with copies: rows that say where they come from, and files below one folder."""

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
from pipeline.imaging.corruptions import KINDS
from pipeline.manifest.corruptions import kinds_of, with_copies
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos with true masks, in ``photos/`` and ``masks/``, and one without."""
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
    done = CliRunner().invoke(app, list(words))
    return done.exit_code, done.output, done.exception


def test_copies_are_rows_with_tags_and_their_photos_group(photos: Path) -> None:
    command = ["manifest", f"{photos}/photos", "--masks", f"{photos}/masks", "--copies", "all", "-o", f"{photos}/m.parquet"]
    code, said, _ = matteline(*command)
    assert code == 0 and "m.parquet: 25 items" in said
    rows = pq.read_table(photos / "m.parquet").to_pylist()
    assert [row["item_id"] for row in rows[:4]] == [row["group"] for row in rows[:4]] == [f"{n}.png" for n in range(4)]
    assert {row["item_id"]: row["tags"] for row in rows[4:11]} == {
        **{f"0.png@{kind}": [f"harder:{kind}"] for kind in KINDS[:5]},
        **{f"0.png@{kind}": [kind] for kind in ("shadow", "reflection")},
    }
    for row in rows[4:]:
        assert row["group"] == row["item_id"].partition("@")[0] and row["truth_uri"] == f"masks/{row['group']}"
        assert row["image_uri"].startswith("copies/")
        assert Image.open(photos / row["image_uri"]).size == (80, 60)
    made = {path: path.read_bytes() for path in (photos / "copies").iterdir()}
    matteline(*command)
    assert {path: path.read_bytes() for path in (photos / "copies").iterdir()} == made


def test_boxes_and_tags_stay_and_one_photos_items_are_one_group(photos: Path) -> None:
    uris = {name: f"{photos}/{folder}/0.png" for name, folder in (("image_uri", "photos"), ("truth_uri", "masks"))}
    rows = [uris | {"item_id": name, "x0": 16, "tags": "hair; thin"} for name in ("a", "b")]
    table, left_out = with_copies(pa.Table.from_pylist(rows), ("blur",), str(photos / "c"), AllowList((str(photos),)), Files())
    assert left_out == {}
    assert [(row["item_id"], row["group"], row["x0"], row["tags"]) for row in table.to_pylist()] == [
        *((name, "a", 16, ["hair", "thin"]) for name in ("a", "b")),
        *((f"{name}@blur", "a", 16, ["hair", "thin", "harder:blur"]) for name in ("a", "b")),
    ]


def test_what_cannot_be_copied_is_left_out_and_said(photos: Path) -> None:
    (photos / "masks" / "0.png").write_bytes(b"no picture")
    Image.new("L", (5, 5), 255).save(photos / "masks" / "1.png")
    Image.new("L", (80, 60), 255).save(photos / "masks" / "2.png")
    command = ["manifest", f"{photos}/photos", "--masks", f"{photos}/masks", "-o", f"{photos}/m.jsonl"]
    code, said, _ = matteline(*command, "--copies", "noise,shadow")
    assert code == 0 and len((photos / "m.jsonl").read_text().splitlines()) == 5
    for words in (
        "2 copies left out: 0.png: ",
        "2 copies left out: 1.png: the true mask has another size",
        "1 copy left out: shadow",
    ):
        assert words in said


def test_annotations_lead_nowhere_else(photos: Path, tmp_path: Path) -> None:
    """A file name out of a stranger's JSON must not be read, let alone be published as a copy."""
    (photos / "few").mkdir()
    annotations = {
        "images": [{"id": 1, "file_name": "../photos/0.png", "height": 60, "width": 80}],
        "annotations": [{"id": 1, "image_id": 1, "bbox": [0, 0, 9, 9], "segmentation": [[0, 0, 9, 0, 9, 9]]}],
    }
    (photos / "coco.json").write_text(json.dumps(annotations))
    words = ["--coco", f"{photos}/coco.json", "--write-masks", f"{photos}/true", "--copies", "blur"]
    code, said, _ = matteline("manifest", f"{photos}/few", *words, "-o", f"{photos}/m.csv")
    assert code == 0 and "outside the allowed roots" in said
    assert not (photos / "copies").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--masks", "masks", "--copies", "blurr", "-o", "m.csv"], "no kind 'blurr'; there are blur, low_light"),
        (["--copies", "blur", "-o", "m.csv"], "--copies needs true masks"),
        (["--masks", "masks", "--copies", "blur", "-o", "photos/m.csv"], "among the photos; write the manifest beside"),
    ],
)
def test_what_cannot_be_done_is_refused(photos: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], sentence: str) -> None:
    monkeypatch.chdir(photos)
    code, _, error = matteline("manifest", "photos", *words)
    assert code == 1 and isinstance(error, ConfigError) and sentence in str(error)
    assert not list(photos.rglob("m.csv"))


def test_kinds_are_in_their_own_order() -> None:
    assert kinds_of(" shadow,blur,") == ("blur", "shadow") and kinds_of("all") == KINDS and kinds_of("") == ()
