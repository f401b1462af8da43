"""COCO files as tools write them: what can be used is used, the rest is counted with its reason."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.manifest.coco import coco_objects, from_coco
from pipeline.manifest.ground_truth import from_coco_masks
from pipeline.storage.files import Files

WIDTH, HEIGHT = 120, 90
POLYGON = [30, 20, 90, 20, 90, 70, 30, 70]
BOX = (30.0, 20.0, 90.0, 70.0)


def image(number: Any = 1, name: str = "one.jpg", **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT} | more


def annotation(number: Any = 1, image_id: Any = 1, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image_id, "category_id": 1, "bbox": [30, 20, 60, 50], "segmentation": [POLYGON]} | more


def without(entry: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in names}


def run_lengths() -> list[int]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[20:70, 30:90] = 1
    down = mask.T.reshape(-1)
    ends = np.flatnonzero(np.diff(down)) + 1
    return np.diff([0, *ends, down.size]).tolist()


RLE = {"size": [HEIGHT, WIDTH], "counts": run_lengths()}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("one.jpg", "two.jpg", "a/same.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (230, 230, 225)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def build(photos: Path, images: list[Any], annotations: Any, *, masks: bool = True, **more: Any) -> list[dict[str, Any]]:
    path = photos.parent / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "t"}]} | more))
    if masks:
        table = from_coco_masks(str(path), str(photos), str(photos.parent / "masks"), Files())
    else:
        table = from_coco(str(path), str(photos), Files())
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def area(row: dict[str, Any]) -> int:
    return int((np.asarray(Image.open(row["truth_uri"])) > 0).sum())


USABLE = {
    "RLE": annotation(segmentation=RLE),
    "flat polygon": annotation(segmentation=POLYGON),
    "a degenerate part": annotation(segmentation=[POLYGON, [5, 5, 6, 6]]),
    "no box": without(annotation(), "bbox"),
    "box of null": annotation(bbox=None),
    "box without area": annotation(bbox=[30, 20, 0, 0]),
    "box of NaN": annotation(bbox=[30, 20, 60, float("nan")]),
    "box of text": annotation(bbox=["30", "20", "60", "50"]),
    "RLE without a box": without(annotation(segmentation=RLE), "bbox"),
}


@pytest.mark.parametrize("case", USABLE)
def test_what_can_be_used_is_used(photos: Path, case: str) -> None:
    (row,) = build(photos, [image()], [USABLE[case]])
    assert tuple(row[name] for name in ("x0", "y0", "x1", "y1")) == BOX
    assert area(row) == 3000


@pytest.mark.parametrize("segmentation", [[POLYGON], RLE])
def test_a_missing_size_is_that_of_the_run_lengths_or_the_photo(photos: Path, segmentation: Any) -> None:
    (row,) = build(photos, [without(image(), "width", "height")], [annotation(segmentation=segmentation)])
    assert area(row) == 3000


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a\\same.jpg", "a/same.jpg"),
        ("/data/upload/1/one.jpg", "one.jpg"),
        ("/x/a/same.jpg", "a/same.jpg"),
        ("./a/same.jpg", "a/same.jpg"),
    ],
)
def test_paths_of_other_systems(photos: Path, name: str, found: str) -> None:
    (row,) = build(photos, [image(name=name)], [annotation()])
    assert row["image_uri"] == str(photos / found)


def test_a_path_that_is_found_nowhere_stays(photos: Path) -> None:
    (row,) = build(photos, [image(name="/data/gone.jpg")], [annotation()], masks=False)
    assert row["image_uri"] == "/data/gone.jpg"


def test_what_cannot_be_used_is_counted_with_its_reason(photos: Path, logged: list[logging.LogRecord]) -> None:
    annotations = [
        annotation(1, iscrowd=1),
        annotation(2, image_id=7),
        annotation(3, image_id=2),
        without(annotation(4), "bbox", "segmentation"),
        annotation(5, segmentation=[[30, 20, 90, 70]]),
        annotation(6),
        None,
    ]
    rows = build(photos, [image(), image(2), image(2, "two.jpg")], annotations)
    assert [row["item_id"] for row in rows] == ["one.jpg#5", "one.jpg#6"]
    assert [row["truth_uri"] is not None for row in rows] == [False, True]
    told = [one.getMessage() for one in logged]
    assert "1: crowds" in told[0] and "2: they lack an id" in told[0] and "1: their image id belongs to two images" in told[0]
    assert told[1:] == [
        "1 annotations are left out: they have neither a bbox nor a polygon",
        "1 annotations have no ground truth: it has no polygon of three corners or more",
    ]


@pytest.mark.parametrize("masks", [True, False])
def test_two_objects_of_one_id_are_refused(photos: Path, masks: bool) -> None:
    annotations = [annotation(1), annotation(2), annotation(1, bbox=[0, 0, 9, 9])]
    with pytest.raises(ConfigError, match=r"coco\.json: its annotations 1 and 3 both have the id 1 and the image 'one\.jpg'"):
        build(photos, [image()], annotations, masks=masks)
    rows = build(photos, [image(), image(2, "two.jpg")], [annotation(1), annotation(1, image_id=2)], masks=masks)
    assert [row["item_id"] for row in rows] == ["one.jpg#1", "two.jpg#1"]


def test_an_annotation_that_is_there_twice_is_used_once(photos: Path, logged: list[logging.LogRecord]) -> None:
    rows = build(photos, [image()], [annotation(1), annotation(1)])
    assert [row["item_id"] for row in rows] == ["one.jpg#1"]
    assert "1: they repeat another annotation" in logged[0].getMessage()


@pytest.mark.parametrize("annotations", [None, [], [annotation(iscrowd=1)], [without(annotation(), "bbox", "segmentation")]])
def test_a_file_is_refused_when_nothing_can_be_used(photos: Path, annotations: Any) -> None:
    with pytest.raises(ConfigError, match=r"has no annotations|no annotation has a bbox"):
        build(photos, [image()], annotations)


def test_the_size_of_a_photo_elsewhere_is_not_read(photos: Path, logged: list[logging.LogRecord]) -> None:
    Image.new("RGB", (9, 9)).save(photos.parent / "secret.png")
    rows = build(photos, [without(image(name="../secret.png"), "width", "height")], [annotation()])
    assert rows[0]["truth_uri"] is None
    assert [one.getMessage() for one in logged] == [
        "1 annotations have no ground truth: the file has no height and width of its image, and the photo is not below the "
        "folder of photos"
    ]


def test_the_message_about_other_bytes_does_not_quote_them(photos: Path) -> None:
    path = photos / "notes.json"
    path.write_bytes(b'{"images": [' + b"\xff" * 5000)
    with pytest.raises(ConfigError, match="is not COCO JSON") as refused:
        coco_objects(str(path), Files())
    assert len(str(refused.value)) < 400
