"""``matteline manifest`` and ``matteline evaluate`` one after the other, as a person types them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytest.importorskip("py_sod_metrics")
pytestmark = pytest.mark.usefixtures("few_resamples")
Command = Callable[..., subprocess.CompletedProcess[str]]
MakePhotos = Callable[..., list[Path]]


def write_masks(photos: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for photo in photos:
        grey = np.asarray(Image.open(photo).convert("L"))
        Image.fromarray(((grey > 120) * 255).astype(np.uint8)).save(folder / f"{photo.stem}.png")


def test_a_folder_of_masks_becomes_tables(
    matteline: Command, tmp_path: Path, make_photos: MakePhotos, fake_preset: str
) -> None:
    write_masks(make_photos(tmp_path / "set" / "photos", 4), tmp_path / "set" / "masks")
    made = matteline("manifest", "set/photos", "--masks", "set/masks", "-o", "set/manifest.csv")
    assert made.returncode == 0, made.stderr
    assert "4 items, 0 with a box, 4 with ground truth" in made.stdout
    assert "--allow-root" not in made.stdout
    shown = matteline("evaluate", "-m", "set/manifest.csv", "-o", "out", "-p", fake_preset, "--hce")
    assert shown.returncode == 0, shown.stderr
    for words in ("Models", "Every metric", "boundary IoU", "HCE", "How good is the score", "evaluation.md"):
        assert words in shown.stdout
    (model,) = json.loads((tmp_path / "out" / "evaluation.json").read_text())["models"]
    assert (model["items"], model["measured"], model["failed"]) == (4, 4, 0)
    checked = matteline("verify", "out")
    assert checked.returncode == 0, checked.stdout
    assert matteline("gc", "out", "--min-age", "0", "--delete").returncode == 0
    assert list((tmp_path / "out").glob("*/_matteline/evaluation/part-*.parquet")), "an evaluation is nothing left over"


def test_failures_are_counted_and_no_reason_to_give_up(
    matteline: Command, tmp_path: Path, make_photos: MakePhotos, fake_preset: str
) -> None:
    write_masks(make_photos(tmp_path / "photos", 3), tmp_path / "masks")
    for number in range(2):
        (tmp_path / "photos" / f"photo-00{number}.jpg").write_bytes(b"no image")
    assert matteline("manifest", "photos", "--masks", "masks", "-o", "all.jsonl").returncode == 0
    shown = matteline("evaluate", "-m", "all.jsonl", "-o", "out", "-p", fake_preset)
    assert shown.returncode == 0, shown.stderr
    assert "Not measured" in shown.stdout
    (model,) = json.loads((tmp_path / "out" / "evaluation.json").read_text())["models"]
    assert (model["failed"], model["measured"], model["errors"]["decode"]["count"]) == (2, 1, 2)


def test_without_truths_there_is_nothing_to_do(
    matteline: Command, tmp_path: Path, make_photos: MakePhotos, fake_preset: str
) -> None:
    make_photos(tmp_path / "photos", 1)
    shown = matteline("evaluate", "-m", "photos", "-o", "out", "-p", fake_preset)
    assert shown.returncode == 2
    assert "the manifest has no column 'truth_uri'; --truth names one of its further columns" in shown.stderr
    assert not (tmp_path / "out").exists()


def test_manifests_with_truths_from_elsewhere(matteline: Command, tmp_path: Path, make_photos: MakePhotos) -> None:
    photos = make_photos(tmp_path / "DIS-VD" / "im", 2)
    write_masks(photos, tmp_path / "DIS-VD" / "gt")
    made = matteline("manifest", "DIS-VD", "--dis5k", "-o", "dis.csv")
    assert "2 items, 0 with a box, 2 with ground truth" in made.stdout, made.stderr

    square = {"id": 1, "image_id": 1, "bbox": [1, 1, 9, 9], "segmentation": [[1, 1, 9, 1, 9, 9, 1, 9]], "iscrowd": 0}
    image = {"id": 1, "file_name": photos[0].name, "height": 90, "width": 120}
    (tmp_path / "coco.json").write_text(json.dumps({"images": [image], "annotations": [square]}))
    arguments = ["manifest", "DIS-VD/im", "--coco", "coco.json", "--write-masks", "masks", "-o", "coco.csv"]
    made = matteline(*arguments)
    assert "1 items, 1 with a box, 1 with ground truth" in made.stdout, made.stderr
    assert len(list((tmp_path / "masks").glob("*.png"))) == 1

    cells = [{"bytes": path.read_bytes(), "path": path.name} for path in photos]
    truths = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted((tmp_path / "DIS-VD" / "gt").iterdir())]
    pq.write_table(pa.table({"image": cells, "mask": truths}), tmp_path / "hub.parquet")
    made = matteline("manifest", "hub.parquet", "--unpack", "my files", "-o", "far/hub.csv")
    assert "2 items, 0 with a box, 2 with ground truth" in made.stdout, made.stderr
    assert f"run it with --allow-root '{tmp_path / 'my files'}'" in made.stdout

    same = matteline("manifest", "hub.parquet", "--unpack", "files", "-o", "hub.parquet")
    assert same.returncode == 2 and "hub.parquet is what the command reads" in same.stderr
    both = matteline("manifest", "DIS-VD", "--dis5k", "--unpack", "files", "-o", "a.csv")
    assert both.returncode == 2
    assert "--dis5k and --unpack cannot be combined" in both.stderr
