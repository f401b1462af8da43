"""YOLO data sets, read as ultralytics reads them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from outputs import SIZE, Write, mask
from PIL import Image

from pipeline.datasets.export import Choices, DatasetReport, Targets, export_dataset
from pipeline.errors import ConfigError
from pipeline.output.output import Output


def export(output: Output, folder: Path, **choices: Any) -> DatasetReport:
    return export_dataset(output, Targets(yolo=str(folder)), Choices(**choices))


def labels(folder: Path, split: str = "train") -> dict[str, list[tuple[int, np.ndarray]]]:
    """Return class and filled polygon of each object by the photo's name, as ultralytics' YOLODataset finds and reads them.

    Photos are the files below the folder in data.yaml. In a photo's path the last /images/ becomes /labels/
    (``img2label_paths``). A line of more than 6 values is a polygon in shares of the photo's size (``verify_image_label``),
    which is filled by ``polygon2mask``.
    """
    content = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))
    root = folder / content.get("path", "") / content[split]
    found = {}
    for photo in sorted(path for path in root.rglob("*.*") if path.is_file()):
        sa, sb = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
        label = Path(sb.join(str(photo).rsplit(sa, 1)).rsplit(".", 1)[0] + ".txt")
        width, height = Image.open(photo).size
        found[str(photo.relative_to(root))] = objects = []
        for line in label.read_text().splitlines():
            number, *values = line.split()
            assert len(values) > 6 - 1 and all(0 <= float(value) <= 1 for value in values)
            assert 0 <= int(number) < len(content["names"])
            made = np.zeros((height, width), np.uint8)
            corners = np.array(values, np.float64).reshape(-1, 2) * (width, height)
            cv2.fillPoly(made, [corners.astype(np.int32)], 1)
            objects.append((int(number), made))
    return found


def test_polygons_have_class_numbers(output: Output, write: Write, tmp_path: Path) -> None:
    masks = {"a.jpg#1": mask(5, 5, 20, 20, alpha=200), "a.jpg#2": mask(25, 2, 38, 28), "shelf/ä b.png": mask(0, 0, 40, 30)}
    write(masks, category=["mug", "bowl", "mug"])
    write({"empty.jpg": mask(0, 0, 40, 30, alpha=100)}, category=None)
    report = export(output, tmp_path / "yolo")
    assert (report.images, report.objects, report.empty, report.written) == (3, 3, 1, [str(tmp_path / "yolo")])
    content = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text(encoding="utf-8"))
    assert content == {"train": "images/train", "val": "images/train", "names": {0: "bowl", 1: "mug", 2: "object"}}
    found = labels(tmp_path / "yolo")
    assert {name: [number for number, _ in objects] for name, objects in found.items()} == {
        "a.jpg": [1, 0],
        "empty.jpg": [],
        "shelf/ä b.png": [1],
    }
    for (_, made), expected in zip(found["a.jpg"], masks.values(), strict=False):
        assert np.array_equal(made, expected > 127)
    assert found["shelf/ä b.png"][0][1].all()
    assert (tmp_path / "yolo/images/train/a.jpg").read_bytes() == (tmp_path / "photos/a.jpg").read_bytes()


def test_splits_are_folders(output: Output, write: Write, tmp_path: Path) -> None:
    write({f"{number}.jpg": mask(1, 1, 9, 9) for number in range(4)}, split=["train", "train", "valid", "test"])
    export(output, tmp_path / "yolo")
    content = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text())
    assert content == {"train": "images/train", "val": "images/val", "test": "images/test", "names": {0: "object"}}
    assert {split: list(labels(tmp_path / "yolo", split)) for split in ("train", "val", "test")} == {
        "train": ["0.jpg", "1.jpg"],
        "val": ["2.jpg"],
        "test": ["3.jpg"],
    }


@pytest.mark.parametrize("split", ["path", "names", "nc", "channels", "download"])
def test_a_split_is_no_key_of_the_list(output: Output, write: Write, tmp_path: Path, split: str) -> None:
    """``download`` would be run as a program."""
    write({"a.jpg": mask(1, 1, 9, 9), "b.jpg": mask(1, 1, 9, 9)}, split=["train", split])
    with pytest.raises(ConfigError, match=rf"the split '{split}' has the name of a key of data\.yaml; rename it"):
        export(output, tmp_path / "yolo")


def test_a_folder_named_images_does_not_hide_labels(output: Output, write: Write, tmp_path: Path) -> None:
    """A manifest beside a folder ``images`` is common, and ultralytics replaces the last /images/ of a path."""
    write({"images/a.jpg": mask(1, 1, 9, 9), "x/images/images/b.jpg": mask(1, 1, 9, 9), "images-2/c.jpg": mask(1, 1, 9, 9)})
    export(output, tmp_path / "yolo")
    found = labels(tmp_path / "yolo")
    assert list(found) == ["Images/a.jpg", "images-2/c.jpg", "x/Images/Images/b.jpg"] and all(found.values())


def test_classes_follow_the_ids_of_the_source(output: Output, write: Write, tmp_path: Path) -> None:
    categories = '[{"id": 7, "name": "mug"}, {"id": 2, "name": "tray"}, {"id": 1, "name": "zebra"}]'
    (tmp_path / "source.json").write_text('{"images": [], "annotations": [{"id": 5}], "categories": ' + categories + "}")
    write({"a.jpg#5": mask(1, 1, 9, 9)}, category="mug", coco_id="5", coco_file=str(tmp_path / "source.json"))
    export(output, tmp_path / "yolo")
    content = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text())
    assert content["names"] == {0: "zebra", 1: "tray", 2: "mug"}
    assert [number for number, _ in labels(tmp_path / "yolo")["a.jpg"]] == [2]


def test_photos_are_linked_if_asked(output: Output, write: Write, tmp_path: Path) -> None:
    write({"a.jpg": mask(1, 1, 9, 9)})
    export(output, tmp_path / "yolo", images="link")
    link = tmp_path / "yolo/images/train/a.jpg"
    assert link.is_symlink() and link.resolve() == (tmp_path / "photos/a.jpg").resolve()
    assert list(labels(tmp_path / "yolo")) == ["a.jpg"]


def test_photos_elsewhere_cannot_be_linked(output: Output, write: Write, tmp_path: Path) -> None:
    write({"a.jpg": mask(1, 1, 9, 9)}, image_uri="s3://bucket/a.jpg")
    with pytest.raises(ConfigError, match="is not a local file of its own, so it cannot be linked; use --images copy"):
        export(output, tmp_path / "yolo", images="link")
    assert not (tmp_path / "yolo").exists()


def test_a_photo_without_a_suffix_gets_that_of_its_format(output: Output, write: Write, tmp_path: Path) -> None:
    write({"photo": mask(1, 1, 9, 9), "wrong.png": mask(1, 1, 9, 9)})
    (tmp_path / "photos/wrong.png").write_bytes((tmp_path / "photos/photo").read_bytes())
    write({"wrong.png": mask(1, 1, 9, 9)}, finished_at=2)
    export(output, tmp_path / "yolo")
    assert list(labels(tmp_path / "yolo")) == ["photo.jpg", "wrong.jpg"]


def test_photos_that_cannot_be_read_are_left_out_and_told(output: Output, write: Write, tmp_path: Path) -> None:
    write({"a.jpg": mask(1, 1, 9, 9), "b.jpg": mask(1, 1, 9, 9), "c.jpg": mask(1, 1, 9, 9)})
    write({"secret": mask(1, 1, 9, 9)}, image_uri="/etc/hostname")
    (tmp_path / "photos/a.jpg").unlink()
    (tmp_path / "photos/b.jpg").write_bytes((tmp_path / "photos/c.jpg").read_bytes() + b" ")
    report = export_dataset(output, Targets(yolo=str(tmp_path / "yolo"), indexed=str(tmp_path / "labels")))
    assert (report.images, report.without_photo) == (4, 3)
    assert "/etc/hostname' lies outside the allowed roots" in report.first_reason
    assert list(labels(tmp_path / "yolo")) == ["c.jpg"]
    assert sorted(path.name for path in (tmp_path / "yolo/labels/train").iterdir()) == ["c.txt"]
    assert len(list((tmp_path / "labels").rglob("*.png"))) == 4, "forms without photos are complete"


def test_a_changed_photo_is_not_taken_for_the_one_of_the_mask(output: Output, write: Write, tmp_path: Path) -> None:
    write({"a.jpg": mask(1, 1, 9, 9)})
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "photos/a.jpg")
    report = export(output, tmp_path / "yolo")
    assert report.first_reason.endswith("has changed since its mask was made; run again with --changed")


def test_a_folder_with_files_is_refused(output: Output, write: Write, tmp_path: Path) -> None:
    """Photos of an earlier export would become part of this one."""
    write({"a.jpg": mask(1, 1, 9, 9)})
    export(output, tmp_path / "yolo")
    with pytest.raises(ConfigError, match="is not empty; give --yolo a new folder, or delete it"):
        export(output, tmp_path / "yolo")
