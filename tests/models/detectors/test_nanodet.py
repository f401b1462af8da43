"""The bundled detector: its boxes against a plain reference, real photos, odd images, and names that it does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from pipeline.config.common_names import COMMON_NAMES, class_of
from pipeline.config.detector import Detector, detector_with
from pipeline.errors import ConfigError, PromptError, SegmentError, WeightsError
from pipeline.imaging.detection import letterbox, without_duplicates
from pipeline.models.detectors.detector import Detection, Find, iou
from pipeline.models.detectors.files import resolve_detector
from pipeline.models.detectors.load import load_detector
from pipeline.models.detectors.nanodet import MEAN, STD
from pipeline.paths import EXAMPLES, WEIGHTS
from pipeline.storage.files import Files
from pipeline.types import Box


def load(**changes: Any) -> Any:
    given = {"preset": "nanodet"} | changes
    return load_detector(*resolve_detector(detector_with(given), Files(), gpu=False), device="cpu", threads=2)


@pytest.fixture(scope="module")
def find() -> Find:
    return load()


def photo(name: str) -> Any:
    return np.asarray(Image.open(EXAMPLES / name).convert("RGB"))


def best(find: Find, name: str, *names: str) -> Detection:
    (found,) = find([photo(name)], [names])
    assert isinstance(found, list)
    return max(found, key=lambda one: one.score)


@pytest.mark.parametrize(
    ("name", "label", "box"),
    [
        ("cat.jpg", "cat", (2, 0, 442, 296)),
        ("astronaut.jpg", "Person", (15, 14, 364, 508)),
        ("osprey.jpg", "BIRD", (297, 116, 466, 485)),
        ("suitcase.jpg", "suitcase", (363, 302, 676, 728)),
    ],
)
def test_objects_of_the_bundled_photos(find: Find, name: str, label: str, box: tuple[float, ...]) -> None:
    found = best(find, name, "toaster", label)
    assert found.label == label
    assert 0.25 < found.score < 1
    assert iou(found.box, Box(*box)) > 0.9
    assert all(type(value) is float for value in (*found.box, found.score))


def reference(image: Any, name: str, threshold: float) -> list[tuple[float, list[float]]]:
    """Return scores and boxes of one name, point by point, and each box compared with all better ones."""
    placed = letterbox(image, 416)
    x = ((placed.square[..., ::-1] - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32)
    scores, distances = onnxruntime.InferenceSession(str(WEIGHTS / "nanodet-g.onnx")).run(["scores", "distances"], {"image": x})
    found, number = [], 0
    for stride in (8, 16, 32):
        for row in range(416 // stride):
            for column in range(416 // stride):
                score, logits = float(scores[0, number, class_of(name)]), distances[0, number].reshape(4, 11).astype(np.float64)
                number += 1
                if score <= threshold:
                    continue
                p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
                left, up, right, down = (p * np.arange(11)).sum(1) * stride
                x0, y0 = (column + 0.5) * stride, (row + 0.5) * stride
                corners = np.array([x0 - left, y0 - up, x0 + right, y0 + down])
                corners = (corners - np.array(placed.offset * 2)) / np.array(placed.scale * 2)
                found.append((score, corners.tolist()))
    kept: list[tuple[float, list[float]]] = []
    for one in sorted(found, reverse=True):
        if all(iou(Box(*one[1]), Box(*other[1])) <= 0.6 for other in kept):
            kept.append(one)
    return kept


@pytest.mark.parametrize(("name", "label"), [("osprey.jpg", "bird"), ("espresso.jpg", "cup"), ("espresso.jpg", "fork")])
def test_boxes_and_scores_are_those_of_a_plain_reference(name: str, label: str) -> None:
    expected = reference(photo(name), label, 0.1)
    (found,) = load(threshold=0.1)([photo(name)], [(label,)])
    assert len(expected) > 1
    assert [one.label for one in found] == [label] * len(expected)
    np.testing.assert_allclose([one.score for one in found], [score for score, _ in expected], atol=1e-5)
    np.testing.assert_allclose([one.box for one in found], [box for _, box in expected], atol=0.01)


def test_a_batch_equals_its_items(find: Find) -> None:
    images = [photo("cat.jpg"), photo("astronaut.jpg"), photo("osprey.jpg")]
    names = [("cat",), ("person", "chair"), ("bird",)]
    assert find(images, names) == [find([image], [wanted])[0] for image, wanted in zip(images, names, strict=True)]


@pytest.mark.parametrize("name", ["teapot", "cups", "potted  plants", "кружка", "", "x" * 200, "cat.", "CAT "])
def test_a_name_outside_of_the_80_fails_alone(find: Find, name: str) -> None:
    refused, found = find([photo("cat.jpg")] * 2, [("cat", name), ("cat",)])
    assert isinstance(refused, PromptError)
    assert "is none of the 80 names" in str(refused)
    assert "matteline models --names" in str(refused)
    assert "recipe.detector=grounding-dino-tiny" in str(refused)
    assert isinstance(found, list) and found


def test_the_names() -> None:
    assert len(set(COMMON_NAMES)) == 80
    assert (COMMON_NAMES[0], COMMON_NAMES[41]) == ("person", "cup")
    assert (class_of("Wine GLASS"), class_of("teddy bear")) == (40, 77)
    assert all(class_of(name) == number for number, name in enumerate(COMMON_NAMES))


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (3000, 2), (416, 416), (31, 57)])
def test_images_of_any_shape(find: Find, shape: tuple[int, int]) -> None:
    placed = letterbox(np.full((*shape, 3), 200, np.uint8), 416)
    assert placed.square.shape == (416, 416, 3)
    corner = np.array(placed.offset) + np.array(placed.scale) * shape[::-1]
    back = placed.to_image(np.array([[*placed.offset, *corner]], np.float32))
    np.testing.assert_allclose(back, [[0, 0, shape[1], shape[0]]], rtol=1e-5, atol=1e-3)
    (found,) = find([np.zeros((*shape, 3), np.uint8)], [("cat",)])
    assert isinstance(found, list)


def test_duplicates_are_dropped_and_the_best_comes_first() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 11], [0, 0, 10, 30]], np.float32)
    assert without_duplicates(boxes, np.array([0.5, 0.9, 0.6, 0.55], np.float32), 0.1, 0.6) == [1, 2, 3]
    assert without_duplicates(boxes[:0], np.zeros(0, np.float32), 0.1, 0.6) == []


def test_it_is_pinned_and_computes_in_fp32_on_all_machines(tmp_path: Path) -> None:
    settings = detector_with({"preset": "nanodet"})
    resolved, path = resolve_detector(settings, Files(), gpu=True)
    assert (resolved.precision, path) == ("fp32", WEIGHTS / "nanodet-g.onnx")
    assert resolve_detector(resolved, Files(), gpu=False) == (resolved, path)
    with pytest.raises(ConfigError, match="fp16 is not for nanodet"):
        resolve_detector(settings.model_copy(update={"precision": "fp16"}), Files(), gpu=True)
    changed = tmp_path / "changed.onnx"
    changed.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(WeightsError, match="hash"):
        resolve_detector(settings.model_copy(update={"weights": str(changed)}), Files(), gpu=False)


def small(path: Path, scores: Any) -> Detector:
    """Return the settings of a graph that returns these scores for any image."""
    made = {"scores": np.float32(scores).reshape(1, 3549, 80), "distances": np.zeros((1, 3549, 44), np.float32)}
    nodes = [
        helper.make_node("Constant", [], [name], value=helper.make_tensor(name, TensorProto.FLOAT, value.shape, value.ravel()))
        for name, value in made.items()
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 416, 416])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in made.items()]
    graph = helper.make_graph(nodes, "small", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return detector_with({"model": "nanodet", "weights": str(path), "threshold": 0.3})


def test_a_file_of_ones_own_and_numbers_that_are_not_finite(tmp_path: Path) -> None:
    scores = np.zeros((3549, 80))
    scores[-1, 3] = 0.5

    def make(name: str) -> Any:
        return load_detector(*resolve_detector(small(tmp_path / name, scores), Files(), gpu=False), device="cpu", threads=1)

    image = np.zeros((416, 416, 3), np.uint8)
    ((one,),) = make("good.onnx")([image], [("motorcycle",)])
    assert one == Detection(Box(240.0, 240.0, 560.0, 560.0), 0.5, "motorcycle")
    scores[7, 7] = np.nan
    (failed,) = make("bad.onnx")([image], [("motorcycle",)])
    assert isinstance(failed, SegmentError)


def test_files_that_are_no_nanodet_are_refused(tmp_path: Path) -> None:
    (none := tmp_path / "none.onnx").write_bytes(b"not ONNX")
    for path, message in ((WEIGHTS / "u2netp.onnx", "but nanodet needs"), (none, "ONNX")):
        settings = detector_with({"model": "nanodet", "weights": str(path), "threshold": 0.3})
        with pytest.raises(WeightsError, match=message):
            load_detector(*resolve_detector(settings, Files(), gpu=False), device="cpu", threads=1)
