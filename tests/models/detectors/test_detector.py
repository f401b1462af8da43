"""Choose an item's box from what a detector found."""

from __future__ import annotations

from pipeline.config.detector import Detector
from pipeline.models.detectors.detector import Detection, choose, iou, not_found, tidy
from pipeline.types import Box, Size

SIZE = Size(100, 200)


def detection(*corners: float, score: float = 0.5, label: str = "cup") -> Detection:
    return Detection(Box(*corners), score, label)


def settings(**changes: object) -> Detector:
    return Detector.model_validate({"model": "owlv2", "weights": "here", "threshold": 0.3} | changes)


def test_boxes_are_clipped_and_the_best_comes_first() -> None:
    beyond, inside = detection(-10, -5, 250, 60, score=0.4), detection(10, 10, 50, 50, score=0.9)
    assert tidy([beyond, inside], SIZE, 20) == [inside, detection(0, 0, 200, 60, score=0.4)]


def test_boxes_outside_the_image_or_without_area_are_dropped() -> None:
    assert tidy([detection(300, 10, 400, 50), detection(10, 10, 10.5, 80), detection(0, float("nan"), 0, 5)], SIZE, 20) == []


def test_an_object_counts_once_per_name() -> None:
    first, again = detection(10, 10, 90, 90, score=0.9), detection(11, 10, 90, 91, score=0.8)
    other_name, elsewhere = detection(10, 10, 90, 90, score=0.7, label="mug"), detection(110, 10, 190, 90, score=0.6)
    assert tidy([again, elsewhere, other_name, first], SIZE, 20) == [first, other_name, elsewhere]


def test_the_number_of_boxes_is_limited() -> None:
    found = [detection(10 * number, 0, 10 * number + 8, 8, score=number / 20) for number in range(1, 15)]
    assert [one.score for one in tidy(found, SIZE, 3)] == [14 / 20, 13 / 20, 12 / 20]


def test_best_and_union() -> None:
    found = [detection(10, 10, 50, 50, score=0.9), detection(100, 30, 150, 90, score=0.4, label="mug")]
    assert choose(found, settings()) == found[0]
    assert choose(found, settings(many="union")) == detection(10, 10, 150, 90, score=0.9)
    assert choose([], settings(many="union")) is None


def test_the_error_names_what_was_looked_for_and_the_threshold() -> None:
    text = str(not_found(("potted plant", "Übertopf"), settings()))
    assert "'potted plant', 'Übertopf'" in text
    assert "0.3" in text
    assert "--" not in text, "it is also the answer of the service and of the Python API"


def test_iou() -> None:
    assert iou(Box(0, 0, 10, 10), Box(5, 0, 15, 10)) == 1 / 3
    assert iou(Box(0, 0, 10, 10), Box(20, 20, 30, 30)) == 0
