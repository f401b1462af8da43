"""COCO files as tools write them: what can be used is used, the rest is counted with its reason."""

from __future__ import annotations

import json
import logging
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.manifest.coco import coco_objects, from_coco
from pipeline.manifest.coco_images import find_images
from pipeline.manifest.coco_masks import from_coco_masks
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


def told(logged: list[logging.LogRecord]) -> str:
    return "\n".join(one.getMessage() for one in logged)


USABLE = {
    "RLE": annotation(segmentation=RLE),
    "flat polygon": annotation(segmentation=POLYGON),
    "a degenerate part": annotation(segmentation=[POLYGON, [5, 5, 6, 6]]),
    "no box": without(annotation(), "bbox"),
    "box of null": annotation(bbox=None),
    "box without area": annotation(bbox=[30, 20, 0, 0]),
    "box of NaN": annotation(bbox=[30, 20, 60, float("nan")]),
    "box of a number above all floats": annotation(bbox=[30, 20, 10**400, 50]),
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
        ("C:\\data\\one.jpg", "one.jpg"),
        ("images/one.jpg", "one.jpg"),
        ("images/train/a/same.jpg", "a/same.jpg"),
        ("same.jpg", "a/same.jpg"),
        ("has%20space.jpg", "has space.jpg"),
        ("images/has%20space.jpg", "has space.jpg"),
        ("cafe\u0301.jpg", "caf\xe9.jpg"),
        ("A/SAME.JPG", "a/same.jpg"),
        ("Images/ONE.jpg", "one.jpg"),
        ("https://cdn.example.com/shop/a/same.jpg?v=2", "a/same.jpg"),
        ("file:///data/one.jpg", "one.jpg"),
    ],
)
def test_paths_of_other_systems(photos: Path, name: str, found: str, logged: list[logging.LogRecord]) -> None:
    for more in ("has space.jpg", "caf\xe9.jpg"):
        (photos / more).write_bytes((photos / "one.jpg").read_bytes())
    (row,) = build(photos, [image(name=name)], [annotation()])
    assert row["image_uri"] == str(photos / found)
    assert row["truth_uri"] is not None
    if name not in ("a\\same.jpg", "./a/same.jpg"):
        assert f"found by another path than in the annotations, such as {photos / found} for " in told(logged)


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("/data/gone.jpg", "/data/gone.jpg"),
        ("gone.jpg", "{photos}/gone.jpg"),
        ("https://cdn.example.com/gone.jpg", "https://cdn.example.com/gone.jpg"),
        ("caf\ud83d.jpg", "{photos}/caf\ufffd.jpg"),
    ],
)
def test_a_path_that_is_found_nowhere_stays_and_is_told(
    photos: Path, name: str, uri: str, logged: list[logging.LogRecord]
) -> None:
    (row,) = build(photos, [image(name=name)], [annotation()], masks=False)
    assert row["image_uri"] == uri.format(photos=photos)
    assert f"1 image is not found below {photos}, first " in told(logged)


def test_many_images_of_one_name_are_found_quickly(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "image.jpg").write_bytes(b"")
    names = [f"data/{number}/image.jpg" for number in range(300)] + ["http://[::1/x.jpg", "image.jpg"]
    found = find_images(names, str(tmp_path), Files())
    assert [found[f"data/{number}/image.jpg"] for number in range(300)] == [f"{tmp_path}/{n}/image.jpg" for n in range(300)]
    assert found["http://[::1/x.jpg"] == "http://[::1/x.jpg" and found["image.jpg"] == f"{tmp_path}/image.jpg"


def test_a_message_has_few_reasons(photos: Path, logged: list[logging.LogRecord]) -> None:
    images = [image(number, f"{number}.jpg", width=10**9, height=number + 1) for number in range(50)]
    build(photos, images, [annotation(number, number) for number in range(50)])
    assert told(logged).count("the image has") == 10 and "…)" in told(logged)


def test_a_file_is_not_taken_for_two_images_nor_an_image_for_two_files(photos: Path, logged: list[logging.LogRecord]) -> None:
    (photos / "b").mkdir()
    (photos / "b" / "same.jpg").write_bytes((photos / "one.jpg").read_bytes())
    names = ["train/one.jpg", "val/one.jpg", "same.jpg", "x/two.jpg", "two.jpg"]
    images = [image(number, name) for number, name in enumerate(names)]
    rows = build(photos, images, [annotation(number, number) for number in range(5)], masks=False)
    assert [row["image_uri"] for row in rows] == [str(photos / name) for name in names]
    assert "4 images are not found" in told(logged) and "several files or several names fit" in told(logged)


@pytest.mark.parametrize(
    ("images", "more", "words"),
    [
        ([{"id": 2}], {}, "no image with a file_name has their image_id, first number 2 (id 2)"),
        ([{"file_name": "two.jpg"}], {}, "no image with a file_name has their image_id, first number 2"),
        ([{"id": 2, "file_name": None}], {}, "no image with a file_name"),
        ([None, 3], {}, "no image with a file_name"),
        ([], {"image_id": None}, "they lack an id or an image_id, first number 2 (id 2)"),
        ([], {"id": None, "image_id": 1}, "they lack an id or an image_id, first number 2"),
        ([], {"image_id": [1]}, "no image with a file_name"),
        ([], {"image_id": 1, "iscrowd": "1"}, "1: crowds, first number 2 (id 2)"),
    ],
)
def test_one_bad_entry_costs_no_more_than_its_annotation(
    photos: Path, images: list[Any], more: dict[str, Any], words: str, logged: list[logging.LogRecord]
) -> None:
    rows = build(photos, [image(), *images], [annotation(1), annotation(2, 2) | more])
    assert [row["item_id"] for row in rows] == ["one.jpg#1"]
    assert "1 annotations of" in told(logged) and words in told(logged)


@pytest.mark.parametrize(
    ("of_image", "of_annotation"),
    [
        ({"width": 0}, {}),
        ({"height": None}, {}),
        ({}, {"image_id": "1"}),
        ({"id": "1"}, {}),
        ({"id": 1.0}, {}),
        ({}, {"iscrowd": "0"}),
        ({}, {"iscrowd": False}),
        ({}, {"bbox": [30, 20, float("nan"), 50]}),
        ({}, {"segmentation": [POLYGON, [5, 5, float("nan"), 6, 9, 9]]}),
        ({}, {"segmentation": [[5, 5, None, 6, 9, 9], POLYGON], "bbox": None}),
        ({}, {"segmentation": [list(map(str, POLYGON))]}),
    ],
)
def test_odd_values_are_used(photos: Path, of_image: dict[str, Any], of_annotation: dict[str, Any]) -> None:
    (row,) = build(photos, [image() | of_image], [annotation() | of_annotation])
    assert tuple(row[name] for name in ("x0", "y0", "x1", "y1")) == BOX
    assert area(row) == 3000 and row["category"] == "t"


@pytest.mark.parametrize("categories", [[{"id": 1}], [{"id": 1, "name": None}], [{"name": "t"}], [None, "t"], None, []])
def test_a_category_without_a_name_is_none(photos: Path, categories: Any) -> None:
    (row,) = build(photos, [image()], [annotation()], masks=False, categories=categories)
    assert row["category"] is None


def test_run_lengths_of_a_huge_image_take_no_memory(photos: Path, logged: list[logging.LogRecord]) -> None:
    side = 30_000
    huge = {"size": [side, side], "counts": [side * side // 2, side, side * side // 2 - side]}
    large = {"size": [9_000, 10_000], "counts": [0, 90_000_000]}
    tracemalloc.start()
    rows = build(
        photos,
        [image()],
        [annotation(number, bbox=None, segmentation=one) for number, one in enumerate((huge, large))],
        masks=False,
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [row["x1"] for row in rows] == [10_000]
    assert "the image has 30000 x 30000 pixels; allowed are 1 to 100000000, first one.jpg#0" in told(logged)
    assert peak < 10 * 2**20


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
    assert "1: crowds, first number 1 (id 1)" in told[0] and "1: they lack an id or an image_id, first number 7" in told[0]
    assert "1: no image with a file_name has their image_id, first number 2 (id 2)" in told[0]
    assert "1: their image id belongs to two images" in told[0]
    assert (
        "1 annotations" in told[1] and "(1: they have neither a bbox nor a polygon or run lengths, first one.jpg#4)" in told[1]
    )
    assert "have no ground truth (1: it has no polygon of three corners or more, first one.jpg#5)" in told[2]


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
    with pytest.raises(ConfigError, match=r"has no annotations|no annotation of .*coco\.json has a box"):
        build(photos, [image()], annotations)


def test_the_size_of_a_photo_elsewhere_is_not_read(photos: Path, logged: list[logging.LogRecord]) -> None:
    Image.new("RGB", (9, 9)).save(photos.parent / "secret.png")
    rows = build(photos, [without(image(name="../secret.png"), "width", "height")], [annotation()])
    assert rows[0]["truth_uri"] is None
    assert "the file has no height and width of its image, and the photo is not below the folder of photos" in told(logged)


def test_the_message_about_other_bytes_does_not_quote_them(photos: Path) -> None:
    path = photos / "notes.json"
    path.write_bytes(b'{"images": [' + b"\xff" * 5000)
    with pytest.raises(ConfigError, match="is not COCO JSON") as refused:
        coco_objects(str(path), Files())
    assert len(str(refused.value)) < 400
