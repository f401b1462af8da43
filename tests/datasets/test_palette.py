"""Palette PNGs of class ids."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from outputs import SIZE, Write, mask
from PIL import Image

from pipeline.datasets.classes import MAX_LABEL, Classes
from pipeline.datasets.export import Choices, Targets, export_dataset
from pipeline.errors import ConfigError
from pipeline.output.output import Output


def export(output: Output, folder: Path) -> None:
    export_dataset(output, Targets(indexed=str(folder)), Choices(class_ids=True))


def test_pixels_are_class_ids(output: Output, write: Write, tmp_path: Path) -> None:
    masks = {"a.jpg#1": mask(0, 0, 20, 20), "a.jpg#2": mask(10, 10, 40, 30, alpha=250), "a.jpg#3": mask(30, 0, 40, 5)}
    write(masks, category=["mug", " bowl ", "mug"])
    export(output, tmp_path / "labels")
    made = Image.open(tmp_path / "labels/a.png")
    expected = np.zeros(SIZE, int)
    expected[10:30, 10:40], expected[0:20, 0:20], expected[0:5, 30:40] = 1, 2, 2
    assert made.mode == "P" and np.array_equal(np.asarray(made), expected)
    assert json.loads((tmp_path / "labels/id2label.json").read_text()) == {"0": "background", "1": "bowl", "2": "mug"}


def test_ids_are_those_of_the_source(output: Output, write: Write, tmp_path: Path) -> None:
    categories = '[{"id": 44, "name": "bottle"}, {"id": 3, "name": "car"}]'
    (tmp_path / "source.json").write_text('{"annotations": [{"id": 5}], "categories": ' + categories + "}")
    write({"a.jpg#5": mask(1, 1, 9, 9)}, category="bottle", coco_id="5", coco_file=str(tmp_path / "source.json"), split="val")
    export(output, tmp_path / "labels")
    assert set(np.unique(np.asarray(Image.open(tmp_path / "labels/val/a.png")))) == {0, 44}
    assert json.loads((tmp_path / "labels/id2label.json").read_text()) == {"0": "background", "3": "car", "44": "bottle"}


def test_ids_that_no_palette_can_hold_are_replaced() -> None:
    """Exports of Roboflow begin at 0, which is the background here."""
    classes = Classes.of(["new"], [{"id": 1, "name": "cup"}, {"id": 0, "name": "all"}])
    assert classes == Classes(("all", "cup", "new"), (0, 1, 2))
    assert classes.labels() == {1: "all", 2: "cup", 3: "new"}
    twice = Classes.of([], [{"id": 3, "name": "cup"}, {"id": 3, "name": "mug"}])
    assert twice.labels() == {1: "cup", 2: "mug"}, "one number would name both"
    with pytest.raises(ConfigError, match="there are 255 categories, but a palette holds 254"):
        Classes.of(map(str, range(MAX_LABEL + 1))).labels()


def test_more_objects_than_colours_are_no_problem_for_class_ids(output: Output, write: Write, tmp_path: Path) -> None:
    write({f"many.jpg#{number}": mask(0, 0, 9, 9) for number in range(MAX_LABEL + 1)}, category="mug")
    export(output, tmp_path / "labels")
    assert set(np.unique(np.asarray(Image.open(tmp_path / "labels/many.png")))) == {0, 1}
