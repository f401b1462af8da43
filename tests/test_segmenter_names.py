"""Cut out by name from Python, with detectors of random weights and the fake model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from pipeline import Cutout, Segmenter
from pipeline.config.detector import load_detector_preset
from pipeline.config.recipe import ESTIMATOR_SHA256
from pipeline.errors import ConfigError, PromptError
from pipeline.models import devices
from pipeline.models.cascade import Segment
from pipeline.models.detectors.detector import Detection
from pipeline.models.graph_pass import GraphPass
from pipeline.models.scored import run_scored
from pipeline.paths import EXAMPLES
from pipeline.types import Box

Make = Callable[..., Segmenter]


@pytest.fixture(scope="module")
def make(tiny_detectors: dict[str, Path], fake_preset: str) -> Make:
    def segmenter(**changes: Any) -> Segmenter:
        detector = {"model": "owlv2", "weights": str(tiny_detectors["owlv2"]), "threshold": 0.3} | changes
        return Segmenter(fake_preset, detector=detector, device="cpu")

    return segmenter


@pytest.fixture(scope="module")
def by_name(make: Make) -> Segmenter:
    return make()


def picture(seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (80, 120, 3), np.uint8)


def test_the_box_that_was_found_is_used(by_name: Segmenter) -> None:
    found = by_name(picture(), label="cup")
    assert isinstance(found.detection, Detection)
    assert found.detection.label == "cup"
    assert found.detection.score > 0.3
    same = by_name(picture(), box=found.detection.box)
    np.testing.assert_array_equal(found.mask, same.mask)
    assert found.quality == same.quality
    assert same.detection is None


def test_a_box_wins_and_auto_is_the_salient_object(by_name: Segmenter) -> None:
    assert by_name(picture(), box=(10, 10, 60, 60), label="cup").detection is None
    salient = by_name(picture(), label="auto")
    assert salient.detection is None
    np.testing.assert_array_equal(salient.mask, by_name(picture()).mask)


def test_any_of_several_names(by_name: Segmenter) -> None:
    found = by_name(picture(), label=["кружка", "potted plant"])
    assert found.detection is not None
    assert found.detection.label in ("кружка", "potted plant")


def test_pictures_with_names_of_their_own(by_name: Segmenter) -> None:
    pictures = [picture(0), picture(1), picture(2)[:60], picture(3)]
    together = by_name(pictures, box=[None, None, None, (5, 5, 50, 50)], label=["cup", None, ["shoe", "bag"], "cup"])
    assert [one.detection and one.detection.label for one in together[:2]] == ["cup", None]
    assert together[2].detection is not None
    assert together[3].detection is None
    for one, alone in zip(together, [by_name(pictures[0], label="cup"), by_name(pictures[1])], strict=False):
        np.testing.assert_array_equal(one.mask, alone.mask)
    assert all(one.detection is not None for one in by_name(pictures, label="cup"))


def test_union_is_the_box_around_all(make: Make, by_name: Segmenter) -> None:
    found = [one.box for one in by_name.finder.all([picture()], [("cup",)])[0]]
    union = make(many="union")(picture(), label="cup").detection
    assert len(found) > 1
    assert union.box == (*np.min(found, 0)[:2], *np.max(found, 0)[2:])


def test_nothing_found(make: Make) -> None:
    with pytest.raises(PromptError, match="no 'cup' was found with a score above 0.99999"):
        make(threshold=0.99999)(picture(), label="cup")
    salient = make(threshold=0.99999, missing="salient")(picture(), label="cup")
    assert salient.detection is None
    np.testing.assert_array_equal(salient.mask, make()(picture()).mask)


def test_names_of_the_recipe_are_the_default(make: Make) -> None:
    segmenter = make(label="cup")
    assert segmenter(picture()).detection.label == "cup"
    assert segmenter(picture(), label="shoe").detection.label == "shoe"
    assert segmenter(picture(), label="auto").detection is None
    assert [one.detection is None for one in segmenter([picture(), picture()], label=[None, "auto"])] == [False, True]


def test_unequal_numbers_and_numbers_as_labels_are_refused(by_name: Segmenter) -> None:
    with pytest.raises(ConfigError, match="2 pictures but 1 labels"):
        by_name([picture(), picture()], label=["cup"])
    with pytest.raises(PromptError, match="label 3 is not a name"):
        by_name(picture(), label=3)  # type: ignore[call-overload]


def test_without_a_detector_the_default_one_is_asked_for(fake_preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    segmenter = Segmenter(fake_preset, device="cpu")
    assert segmenter(picture()).detection is None
    with pytest.raises(ConfigError, match=r"pip install 'matteline\[names\]'"):
        segmenter(picture(), label="red cup")


def test_without_a_detector_common_names_work_at_once(fake_preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The box reaches past the photo's edge, and is clipped to it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    segmenter = Segmenter(fake_preset, device="cpu")
    cat, birds = (Image.open(EXAMPLES / name).convert("RGB") for name in ("cat.jpg", "osprey.jpg"))
    found = segmenter(cat, label=["dog", "Cat"]).detection
    assert found is not None
    assert (found.label, found.box.y0) == ("Cat", 0)
    all_birds = segmenter.finder.all([np.asarray(birds)], [("bird",)])[0]
    assert isinstance(all_birds, list)
    assert {one.box.x1 >= birds.width for one in all_birds} == {False, True}
    assert max(one.box.x1 for one in all_birds) == birds.width
    with pytest.raises(PromptError, match=r"no 'toaster' was found with a score above 0\.25"):
        segmenter(cat, label="toaster")


def test_many_with_the_bundled_detector(fake_preset: str) -> None:
    segmenter = Segmenter(fake_preset, detector={"preset": "nanodet", "many": "union"}, device="cpu")
    photo = np.asarray(Image.open(EXAMPLES / "osprey.jpg"))
    (found,) = segmenter.finder.all([photo], [("bird",)])
    assert isinstance(found, list) and len(found) > 1
    corners = np.array([one.box for one in found])
    union = found[0]._replace(box=Box(*corners[:, :2].min(0).tolist(), *corners[:, 2:].max(0).tolist()))
    assert segmenter(photo, label="bird").detection == union
    with pytest.raises(PromptError, match="'teapot' is none of the 80 names"):
        segmenter(photo, label="teapot")


def test_the_calibration_knows_how_sure_the_detector_was(fake_preset: str, tmp_path: Path) -> None:
    """Its term counts for the detector that it was fitted on, and for nothing else."""
    cat = np.asarray(Image.open(EXAMPLES / "cat.jpg"))
    detector = {"preset": "nanodet", "weights_sha256": load_detector_preset("nanodet").detector.weights_sha256}
    facts = {"version": 1, "model": "fake", "weights_sha256": None, "frame_px": 64, "estimator_sha256": ESTIMATOR_SHA256}
    term = {"at": [0.9, 0.99], "adds": [-3, 3], "missing": 0, "usual": 2}

    def cut(box: Box | None, sha256: str | None) -> Cutout:
        content = facts | {
            "detector_sha256": sha256,
            "good_from": 0.95,
            "bias": 0,
            "fitted_on": {},
            "terms": {"detector_score": term},
        }
        (tmp_path / "calibration.json").write_text(json.dumps(content))
        segmenter = Segmenter(fake_preset, calibration=str(tmp_path / "calibration.json"), detector=detector, device="cpu")
        return segmenter(cat, box=box, label="cat")

    unsure = cut(None, detector["weights_sha256"])
    assert unsure.quality == pytest.approx(0.0474, abs=1e-3)
    assert unsure.reasons == ("detector_score",)
    assert unsure.detection is not None
    assert cut(unsure.detection.box, detector["weights_sha256"]).quality == 0.5
    assert cut(None, "f" * 64).quality == 0.5


def test_a_point_picks_an_object(fake_preset: str) -> None:
    photo = np.full((120, 200, 3), 20, np.uint8)
    photo[30:90, 20:80] = photo[40:80, 120:180] = 230
    segmenter = Segmenter(fake_preset, device="cpu")
    found = segmenter(photo, label="auto", point=(50, 60))
    assert found.mask[60, 50] > 127 and not found.mask[60, 150]
    with pytest.raises(PromptError, match="no object was found at the point 100,10"):
        segmenter(photo, point=np.array([100, 10]))
    picked, whole, missed = segmenter.segment([photo] * 3, [None] * 3, points=[(50, 60), None, (100, 10)])
    assert isinstance(picked, Segment) and np.array_equal(picked.mask, found.mask)
    assert isinstance(whole, Segment) and whole.mask[60, 150] > 127
    assert isinstance(missed, PromptError)
    for wrong in ({"box": (1, 2, 3, 4)}, {"label": "cup"}):
        with pytest.raises(ConfigError, match="cannot be combined with a box or a label"):
            segmenter(photo, point=(1, 2), **wrong)
    with pytest.raises(ConfigError, match="is not two numbers"):
        segmenter(photo, point=(1, 2, 3))
    with pytest.raises(ConfigError, match="a point is for one picture"):
        segmenter([photo], point=(1, 2))  # type: ignore[call-overload]


def test_the_score_of_a_default_detector_and_that_for_a_second_model_count(
    fake_preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A calibration that knows the detector takes its score: without a detector in the recipe, and in a second model, too."""
    seen: list[tuple[str, list[float | None]]] = []

    def noting(run_pass: Any, recipe: Any, calibration: Any, images: Any, boxes: Any, placements: Any, scores: Any) -> Any:
        seen.append((recipe.name, list(scores)))
        return run_scored(run_pass, recipe, None, images, boxes, placements, [None] * len(images))

    monkeypatch.setattr("pipeline.segmenter.run_scored", noting)
    cat = Image.open(EXAMPLES / "cat.jpg").convert("RGB")
    sha256 = load_detector_preset("nanodet").detector.weights_sha256
    for detector in (None, "nanodet"):
        second = {"preset": fake_preset, "below": 1, "recipe": {"name": "second"}}
        segmenter = Segmenter(fake_preset, device="cpu", second=second, detector=detector)
        for one in (segmenter, segmenter.second):
            assert one is not None
            knows = SimpleNamespace(detector_sha256=sha256, terms={})
            one.resolved = replace(one.resolved, calibration=knows)  # type: ignore[arg-type]
        found = segmenter(cat, label="cat").detection
        assert found is not None
        assert [scores for _, scores in seen] == [[found.score], [found.score]]
        assert [name for name, _ in seen] == ["fake", "second"]
        seen.clear()


def test_a_detector_computes_in_the_precision_of_the_device_that_the_model_runs_on(
    tiny_detectors: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine with a GPU, and an ONNX Runtime that cannot use it."""
    monkeypatch.setattr(devices, "has_cuda", lambda: True)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    detector = {"model": "owlv2", "weights": str(tiny_detectors["owlv2"]), "threshold": 0.3}
    segmenter = Segmenter("u2netp", detector=detector, threads=1)
    assert segmenter.device == "cpu" and segmenter.recipe.detector is not None
    assert segmenter.recipe.detector.precision == "fp32"
    assert segmenter(picture(), label="cup").detection is not None
    assert isinstance(segmenter.run_pass, GraphPass), "without PyTorch, as on a machine without a GPU"
