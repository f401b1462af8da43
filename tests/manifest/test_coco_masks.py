"""Ground truth from COCO annotations and from Parquet; nothing is written outside the target folder."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pycocotools import mask as coco

from pipeline.manifest.coco_masks import from_coco_masks
from pipeline.storage.files import Files


def png(level: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.full((6, 8), level, np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def coco_manifest(tmp_path: Path, segmentations: list[Any], **image: Any) -> pa.Table:
    entry = {"image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 30], "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 100, "width": 120} | image],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": [entry | {"id": number, "segmentation": one} for number, one in enumerate(segmentations)],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    return from_coco_masks(str(tmp_path / "coco.json"), "/photos", str(tmp_path / "masks"), Files())


def test_polygons_and_run_lengths_become_masks(tmp_path: Path) -> None:
    square = np.zeros((100, 120), np.uint8)
    square[20:50, 10:40] = 1
    packed = coco.encode(np.asfortranarray(square))
    compressed = {"size": packed["size"], "counts": packed["counts"].decode()}
    runs = np.flatnonzero(np.diff(square.T.reshape(-1), prepend=0, append=1))
    plain = {"size": [100, 120], "counts": np.diff(runs, prepend=0).tolist()}
    table = coco_manifest(tmp_path, [[[10, 20, 40, 20, 40, 50, 10, 50]], compressed, plain])
    assert table["item_id"].to_pylist() == ["a.jpg#0", "a.jpg#1", "a.jpg#2"]
    assert table["x1"].to_pylist() == [40, 40, 40]
    for uri in table["truth_uri"].to_pylist():
        assert Path(uri).parent == tmp_path / "masks"
        assert np.array_equal(np.asarray(Image.open(uri)), square * 255)


def test_unusable_segmentations_give_no_ground_truth(tmp_path: Path) -> None:
    bad: list[Any] = [None, [], [[1, 2, 3]], "text", {"size": [9, 9], "counts": [81]}, {"size": [100, 120], "counts": [5]}, {}]
    bad += [{"size": 1.5, "counts": [12_000]}, {"size": [100, None], "counts": "0"}]
    assert coco_manifest(tmp_path, bad)["truth_uri"].to_pylist() == [None] * len(bad)
    huge = coco_manifest(tmp_path, [[[0, 0, 9, 0, 9, 9]]], height=10**6, width=10**6)
    assert huge["truth_uri"].to_pylist() == [None]


def test_photos_elsewhere_are_not_read_for_their_size(tmp_path: Path) -> None:
    """Annotations may name any location, and it would be read with the user's credentials."""
    files = Files()
    (tmp_path / "photos").mkdir()
    for uri in ("memory://private/x.png", str(tmp_path / "private.png"), str(tmp_path / "photos" / "mine.png")):
        files.write(uri, png(1))
    (tmp_path / "photos" / "link.png").symlink_to(tmp_path / "private.png")
    names = ["memory://private/x.png", "../private.png", str(tmp_path / "private.png"), "link.png", "mine.png"]
    content = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [
            {"id": number, "image_id": number, "segmentation": [[0, 0, 4, 0, 4, 4]], "bbox": [0, 0, 4, 4]}
            for number in range(len(names))
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    table = from_coco_masks(str(tmp_path / "coco.json"), str(tmp_path / "photos"), str(tmp_path / "masks"), files)
    assert [uri is not None for uri in table["truth_uri"].to_pylist()] == [False] * 4 + [True]
