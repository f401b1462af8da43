"""Detectors with random weights: the boxes of transformers, whatever the batch, and labels of any script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from pipeline.config.detector import detector_with
from pipeline.errors import PromptError, WeightsError
from pipeline.models.detectors.detector import Detection
from pipeline.models.detectors.files import resolve_detector
from pipeline.models.detectors.load import load_detector
from pipeline.models.detectors.zero_shot import TEMPLATE
from pipeline.storage.files import Files

MODELS = ("grounding-dino", "owlv2")
THRESHOLDS = {"grounding-dino": 0.9, "owlv2": 0.5}
"""Some of the random scores are above, some below."""

SIZES = ((80, 120), (200, 90), (80, 120), (64, 64))
NAMES = (("cup",), ("Red Cup", "potted plant", "shoe"), ("lamp", "chair"), ("cup", "shoe"))


def images() -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


@pytest.fixture(scope="module")
def load(tiny_detectors: dict[str, Path]) -> Any:
    def make(model: str, **changes: Any) -> Any:
        given = {"model": model, "weights": str(tiny_detectors[model]), "threshold": THRESHOLDS[model]} | changes
        return load_detector(*resolve_detector(detector_with(given), Files(), gpu=False), device="cpu", threads=None)

    return make


def theirs(model: str, folder: Path, image: Any, names: tuple[str, ...]) -> tuple[Any, Any]:
    """Return the boxes and scores of transformers' own processing of one image."""
    processor = transformers.AutoProcessor.from_pretrained(folder)
    network = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
    grounded = model == "grounding-dino"
    text = [list(names)] if grounded else [[TEMPLATE.format(name) for name in names]]
    inputs = processor(images=[image], text=text, return_tensors="pt")
    with torch.inference_mode():
        outputs = network(**inputs)
    ids = (inputs["input_ids"],) if grounded else ()
    (found,) = processor.post_process_grounded_object_detection(
        outputs, *ids, threshold=THRESHOLDS[model], target_sizes=[image.shape[:2]]
    )
    return found["boxes"].numpy(), found["scores"].numpy()


@pytest.mark.parametrize("model", MODELS)
def test_boxes_and_scores_are_those_of_transformers(model: str, load: Any, tiny_detectors: dict[str, Path]) -> None:
    counts = []
    for image, names in zip(images(), NAMES, strict=True):
        boxes, scores = theirs(model, tiny_detectors[model], image, names)
        (found,) = load(model)([image], [names])
        np.testing.assert_allclose([one.box for one in found], boxes.reshape(-1, 4).tolist(), atol=1e-3)
        np.testing.assert_allclose([one.score for one in found], scores, atol=1e-5)
        assert {one.label for one in found} <= set(names)
        counts.append(len(found))
    assert any(counts)


@pytest.mark.parametrize("model", MODELS)
def test_transformers_pipeline_finds_the_same(model: str, load: Any, tiny_detectors: dict[str, Path]) -> None:
    """Their pipeline looks for one name after the other; with one name, both see the same text."""
    pipe = transformers.pipeline("zero-shot-object-detection", model=str(tiny_detectors[model]), device="cpu")
    image, name = images()[0], "cup"
    text = f"{name}." if model == "grounding-dino" else TEMPLATE.format(name)
    found = pipe(Image.fromarray(image), candidate_labels=[text], threshold=THRESHOLDS[model])
    (ours,) = load(model)([image], [(name,)])
    ours = sorted(ours, key=lambda one: -one.score)
    assert ours and len(ours) == len(found)
    np.testing.assert_allclose([one.score for one in ours], [one["score"] for one in found], atol=1e-5)
    boxes = [[one["box"][key] for key in ("xmin", "ymin", "xmax", "ymax")] for one in found]
    np.testing.assert_allclose([one.box for one in ours], boxes, atol=1)  # theirs are whole numbers


@pytest.mark.parametrize("model", MODELS)
def test_a_batch_equals_its_items(model: str, load: Any) -> None:
    find = load(model)
    together = find(images(), NAMES)
    alone = [find([image], [names])[0] for image, names in zip(images(), NAMES, strict=True)]
    assert any(together)
    for one, other in zip(together, alone, strict=True):
        assert [found.label for found in one] == [found.label for found in other]
        np.testing.assert_allclose([found.box for found in one], [found.box for found in other], atol=1e-3)
        np.testing.assert_allclose([found.score for found in one], [found.score for found in other], atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_labels_of_any_script_and_twenty_at_once(model: str, load: Any) -> None:
    image = images()[0]
    many = tuple(f"{word} {number}" for number, word in enumerate(["cup", "plant", "shoe", "bag"] * 5))
    long = "a very long name " * (10 if model == "grounding-dino" else 2)
    odd = (("кружка 🫖",), ("No. 5? bottle", "…"), (long,), many)
    found = load(model, threshold=0.001)([image] * len(odd), odd)
    for names, one in zip(odd, found, strict=True):
        assert isinstance(one, list)
        assert one
        assert {detection.label for detection in one} <= set(names)


def test_the_label_is_the_name_that_the_box_belongs_to(load: Any) -> None:
    """A name's tokens decide, also if another name shares some of its words."""
    find = load("grounding-dino", threshold=0.01)
    image = images()[0]
    (found,) = find([image], [("red cup", "potted plant", "shoe")])
    inputs = find._inputs(image, ("red cup", "potted plant", "shoe"))
    ((logits, _),) = find._forward([inputs])
    words = inputs["input_ids"][0].tolist()
    tokenizer = find.processor.tokenizer
    positions = {
        name: [words.index(tokenizer.convert_tokens_to_ids(word)) for word in name.split()]
        for name in ("red cup", "potted plant", "shoe")
    }
    p = logits.sigmoid()
    kept = [query for query in range(len(p)) if p[query].max() > 0.01]
    for query, one in zip(kept, found, strict=True):
        assert one.label == max(positions, key=lambda name: p[query, positions[name]].max().item())
    assert len({one.label for one in found}) > 1


def test_names_beyond_the_detectors_input_fail_alone(load: Any) -> None:
    names = tuple(f"{word} {'cup ' * 30}{number}" for number, word in enumerate(["lamp"] * 10))
    refused, found = load("grounding-dino")(images()[:2], [names, ("cup",)])
    assert isinstance(refused, PromptError)
    assert "give fewer" in str(refused)
    assert isinstance(found, list)


@pytest.mark.parametrize("name", [".", "? .?"])
def test_a_name_of_full_stops_fails_alone(load: Any, name: str) -> None:
    refused, found = load("grounding-dino")(images()[:2], [("cup", name), ("cup",)])
    assert isinstance(refused, PromptError) and f"the name {name!r} has no letters" in str(refused)
    assert isinstance(found, list)


def test_a_name_of_which_owlv2_would_see_the_beginning_only_fails_alone(load: Any) -> None:
    refused, found = load("owlv2")(images()[:2], [("cup", "very " * 20 + "red cup"), ("cup",)])
    assert isinstance(refused, PromptError)
    assert "the name 'very very" in str(refused) and "tokens in its sentence, and the detector takes 48" in str(refused)
    assert isinstance(found, list)


def test_a_threshold_above_all_scores_finds_nothing(load: Any) -> None:
    assert load("owlv2", threshold=0.99999)(images(), NAMES) == [[]] * len(SIZES)


def test_results_are_plain_values(load: Any) -> None:
    """They travel between processes."""
    one = next(one for found in load("grounding-dino")(images(), NAMES) for one in found)
    assert isinstance(one, Detection)
    assert all(type(value) is float for value in (*one.box, one.score))


def test_weights_that_lack_a_tensor_are_refused(tiny_detectors: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for path in tiny_detectors["owlv2"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    gone = next(key for key in tensors if "box_head" in key)
    save_file({key: value for key, value in tensors.items() if key != gone}, tmp_path / "model.safetensors", {"format": "pt"})
    settings = detector_with({"model": "owlv2", "weights": str(tmp_path), "threshold": 0.5})
    with pytest.raises(WeightsError, match=f"lacks weights, such as {gone}"):
        load_detector(*resolve_detector(settings, Files(), gpu=False), device="cpu", threads=None)
