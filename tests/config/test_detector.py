"""Settings of detectors: bundled ones, their part of the recipe and its fingerprint, and names as users write them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from jobs.options import label_settings
from pipeline.config.detector import (
    BUNDLED_DETECTOR,
    DEFAULT_DETECTOR,
    MAX_CHARS,
    MAX_NAMES,
    detector_names,
    load_detector_preset,
    parse_names,
    split_names,
)
from pipeline.config.job import load_job
from pipeline.config.presets import load_preset
from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError, PromptError
from pipeline.paths import WEIGHTS
from pipeline.storage.weights_cache import file_sha256

RESOLVED = {"detector.weights_sha256": "1" * 64, "detector.precision": "fp32", "precision": "fp32"}


def recipe(**changes: Any) -> Recipe:
    return load_preset("u2netp", RESOLVED | changes).recipe


@pytest.mark.parametrize("name", ["grounding-dino-base", "grounding-dino-tiny", "owlv2-base"])
def test_bundled_detectors_are_pinned_and_say_what_users_must_know(name: str) -> None:
    preset = load_detector_preset(name)
    assert name in detector_names()
    assert preset.detector.preset == name
    assert re.fullmatch(r"hf://[\w-]+/[\w-]+@[0-9a-f]{40}", preset.detector.weights)
    assert preset.licence == "Apache-2.0"
    assert preset.source == f"https://huggingface.co/{preset.detector.weights[5:].partition('@')[0]}"


def test_the_bundled_detector_is_pinned_by_hash() -> None:
    preset = load_detector_preset(BUNDLED_DETECTOR)
    assert preset.licence == "Apache-2.0"
    assert Path(preset.detector.weights).parent == WEIGHTS
    assert file_sha256(Path(preset.detector.weights)) == preset.detector.weights_sha256


@pytest.mark.parametrize(
    ("settings", "preset"),
    [
        ({"detector.label": ["cup"]}, BUNDLED_DETECTOR),
        ({"detector.label": ["Potted Plant", "tv"], "detector.threshold": 0.4}, BUNDLED_DETECTOR),
        ({"detector.label": ["cup", "mug"]}, DEFAULT_DETECTOR),
        ({"detector.label": ["cups"]}, DEFAULT_DETECTOR),
        ({"detector.threshold": 0.4}, DEFAULT_DETECTOR),
        ({"detector.label": ["cup"], "detector.weights": "folder"}, DEFAULT_DETECTOR),
        ({"detector.label": ["cup"], "detector": "owlv2-base"}, "owlv2-base"),
    ],
)
def test_names_choose_the_detector_if_none_is_configured(settings: dict[str, Any], preset: str) -> None:
    detector = load_preset("u2netp", settings).recipe.detector
    assert detector is not None
    assert detector.preset == preset


def test_a_recipe_names_its_detector_in_several_ways() -> None:
    by_name = load_preset("u2netp", {"detector": "owlv2-base"}).recipe.detector
    assert by_name is not None
    assert by_name.model == "owlv2"
    assert load_preset("u2netp", {"detector": {"preset": "owlv2-base"}}).recipe.detector == by_name
    default = load_preset("u2netp", {"detector.label": "cup"}).recipe.detector
    assert default is not None
    assert (default.preset, default.label) == (BUNDLED_DETECTOR, ("cup",))
    mixed = load_preset("u2netp", {"detector": "owlv2-base", "detector.threshold": 0.2}).recipe.detector
    assert mixed == by_name.model_copy(update={"threshold": 0.2})
    assert load_preset("u2netp").recipe.detector is None


def test_settings_of_the_command_line_reach_it() -> None:
    job = load_job(
        manifest="m",
        output="o",
        overrides=["recipe.detector=owlv2-base", "recipe.detector.many=union", 'recipe.detector.label=["Topf", "Vase"]'],
    )
    assert job.recipe.detector is not None
    assert (job.recipe.detector.many, job.recipe.detector.label) == ("union", ("Topf", "Vase"))


def test_other_weights_drop_the_hash_of_the_presets_own(tmp_path: Any) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"about: mine\nlicence: MIT\nsize_mb: 1\nsource: none\n"
        f"detector: {{model: owlv2, weights: model, threshold: 0.2, weights_sha256: {'a' * 64}}}\n"
    )
    mine = load_preset("u2netp", {"detector": str(path)}).recipe.detector
    assert mine is not None
    assert (mine.preset, mine.weights, mine.weights_sha256) == ("mine", str(tmp_path / "model"), "a" * 64)
    other = load_preset("u2netp", {"detector": {"preset": str(path), "weights": "elsewhere"}}).recipe.detector
    assert other is not None
    assert (other.weights, other.weights_sha256) == ("elsewhere", None)


def test_without_a_detector_fingerprints_are_those_of_before() -> None:
    assert "detector" not in load_preset("u2netp", {"precision": "fp32"}).recipe.facts()
    assert recipe().fingerprint() != load_preset("u2netp", {"precision": "fp32"}).recipe.fingerprint()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("label", "cup"), ("threshold", 0.3), ("many", "union"), ("max_boxes", 5), ("missing", "salient")),
        *(("precision", "fp16"), ("weights_sha256", "3" * 64)),
    ],
)
def test_what_changes_results_is_in_the_fingerprint(key: str, value: Any) -> None:
    assert recipe(**{f"detector.{key}": value}).fingerprint() != recipe().fingerprint()


def test_where_the_weights_are_is_not() -> None:
    assert recipe(**{"detector.weights": "s3://bucket/model"}).fingerprint() == recipe().fingerprint()


def test_an_unpinned_detector_has_no_fingerprint() -> None:
    with pytest.raises(ConfigError, match="detector is not pinned yet"):
        load_preset("u2netp", {"detector": "owlv2-base", "precision": "fp32"}).recipe.fingerprint()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"detector": "yolo"}, "there is no detector 'yolo'; choose from grounding-dino-base"),
        ({"detector.threshold": 2}, "recipe.detector.threshold: Input should be less than 1"),
        ({"detector.many": "all"}, "recipe.detector.many: Input should be 'best', 'union' or 'each'"),
        ({"detector.label": ["x" * 300]}, "recipe.detector.label: the label"),
        ({"detector.colour": 1}, "recipe.detector.colour"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_preset("u2netp", changes)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("  potted   plant ", ("potted plant",)),
        (["cup", "Cup", "cup"], ("cup", "Cup")),
        ("auto", ()),
        (["Auto"], ()),
        (["auto", "cup"], ("cup",)),
        ("кружка", ("кружка",)),
        ("", None),
        (None, None),
        (math.nan, None),
        ([None, " "], None),
    ],
)
def test_names_are_cleaned(given: Any, names: Any) -> None:
    assert parse_names(given) == names


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "label 3 is not a name"),
        (["cup", 2.5], "label 2.5 is not a name"),
        ("x" * (MAX_CHARS + 1), "has 201 characters; a name may have 200"),
        ([f"name {number}" for number in range(MAX_NAMES + 1)], "there are 101 labels"),
    ],
)
def test_what_is_no_name_is_refused(given: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        parse_names(given)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cup; plant", ["cup", " plant"]),
        ('["cup", "a; b"]', ["cup", "a; b"]),
        ("[cup]", ["[cup]"]),
        (["cup"], ["cup"]),
        (None, None),
    ],
)
def test_lists_of_names_as_text(text: Any, names: Any) -> None:
    assert split_names(text) == names


@pytest.mark.parametrize("auto", [["auto"], ["AUTO", " "]])
def test_auto_takes_the_place_of_a_job_files_names(auto: list[str], tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("manifest: m\noutput: o\nrecipe: {detector: {preset: nanodet, label: [cat]}}\n")
    given = label_settings(auto)
    detector = load_job(job_file=str(tmp_path / "job.yaml"), overrides=given).recipe.detector
    assert detector is not None and (detector.preset, detector.label) == ("nanodet", ())
    assert load_job(manifest="m", output="o", overrides=given).recipe.detector is None, "auto needs no detector"
    assert label_settings(None) == label_settings([""]) == []


def test_precisions_of_all_models_may_depend_on_gpus() -> None:
    assert not load_preset("u2netp").recipe.has_open_precision
    assert load_preset("u2netp", {"detector": "grounding-dino-tiny"}).recipe.has_open_precision
    second = {"preset": "u2netp", "recipe": {"precision": "auto"}}
    assert load_preset("mvanet-lite", {"precision": "fp32", "second": second}).recipe.has_open_precision
