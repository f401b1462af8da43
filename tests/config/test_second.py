"""Settings of a second model: its preset, its part of the fingerprint, and what cannot be combined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.job import load_job
from pipeline.config.presets import load_preset
from pipeline.config.recipe import Recipe
from pipeline.config.second import Second
from pipeline.errors import ConfigError
from pipeline.models.resolve import check_licence

UNCALIBRATED = {"calibration": "", "precision": "fp32"}


def recipe(second: Any = None, **changes: Any) -> Recipe:
    return load_preset("u2netp", UNCALIBRATED | changes | ({} if second is None else {"second": second})).recipe


def own(**changes: Any) -> dict[str, Any]:
    """u2net as the second model, uncalibrated as the first one."""
    return {"preset": "u2net", "recipe": {"calibration": ""}} | changes


def test_a_preset_s_name_is_enough() -> None:
    second = load_preset("mvanet-lite", {"second": "u2netp"}).recipe.second
    assert second is not None
    assert (second.preset, second.below, second.joined_by) == ("u2netp", 0.2, "better")
    assert second.recipe == load_preset("u2netp").recipe
    assert load_preset("mvanet-lite", {"second": None}).recipe.second is None


def test_qualities_are_compared_only_if_they_are_calibrated() -> None:
    plain = recipe(own()).second
    assert plain is not None and plain.joined_by == "replace"
    assert plain.facts()["join"] == "replace"
    assert load_preset("mvanet-lite", {"second": "u2net"}).recipe.second.facts()["join"] == "better"  # type: ignore[union-attr]


def test_settings_of_the_command_line_reach_it() -> None:
    pairs = ["second=u2netp", "second.below=0.5", "second.join=mean", "second.recipe.views=[flip]"]
    job = load_job(manifest="m", output="o", overrides=[f"recipe.{pair}" for pair in pairs])
    assert job.recipe.second == Second(
        preset="u2netp", below=0.5, join="mean", recipe=load_preset("u2netp", {"views": ["flip"]}).recipe
    )


def test_a_preset_may_have_a_second_model_of_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_text(
        "about: x\nlicence: MIT\ncommercial: true\nsize_mb: 1\nsource: x\nrecipe: {model: fake, frame_px: 128}\n"
    )
    small = tmp_path / "small.yaml"
    small.write_text(
        "about: x\nlicence: MIT\ncommercial: true\nsize_mb: 1\nsource: x\n"
        "recipe: {model: fake, second: {preset: large.yaml, below: 0.4}}\n"
    )
    second = load_preset(str(small)).recipe.second
    assert second is not None and (second.recipe.name, second.recipe.frame_px, second.below) == ("large", 128, 0.4)
    assert Path(second.preset) == tmp_path / "large.yaml"


def test_without_a_second_model_fingerprints_are_those_of_before() -> None:
    assert "second" not in recipe().facts()


@pytest.mark.parametrize(
    "changes",
    [
        {"below": 0.5},
        {"join": "mean"},
        {"recipe": {"calibration": "", "sharpen": 2}},
        {"preset": "isnet"},
    ],
)
def test_what_changes_masks_or_scores_changes_the_fingerprint(changes: dict[str, Any]) -> None:
    settled = {"calibration": "", "precision": "fp32"}
    made = []
    for second in (own(), own(**changes)):
        second["recipe"] = second["recipe"] | settled
        made.append(recipe(second).fingerprint())
    assert made[0] != made[1] != recipe().fingerprint()


@pytest.mark.parametrize("changes", [{"foreground": "none"}, {"renditions": ["transparent"]}, {"name": "other"}])
def test_what_is_the_first_model_s_does_not(changes: dict[str, Any]) -> None:
    other = own(recipe={"calibration": ""} | changes)
    assert recipe(other).fingerprint() == recipe(own()).fingerprint()


def test_the_second_model_is_pinned_before_the_fingerprint() -> None:
    with pytest.raises(ConfigError, match="no weights_sha256 yet"):
        recipe(own(recipe={"calibration": "", "weights": "mine.onnx"})).fingerprint()


@pytest.mark.parametrize(
    ("second", "changes", "said"),
    [
        ("u2nett", {}, r"recipe\.second: there is no preset 'u2nett'"),
        ({"preset": "u2net", "recipe": {"frame": 3}}, {}, r"recipe\.second: .*recipe\.frame"),
        ({"below": 0.3}, {}, r"second\.preset"),
        (own(below=2), {}, r"second\.below"),
        (own(join="best"), {}, r"second\.join"),
        (own(recipe="u2netp"), {}, r"second\.recipe"),
        (3, {}, "second"),
        (own(recipe={"calibration": "", "second": own()}), {}, "u2net has a second model itself"),
        (own(recipe={"calibration": "", "detector": "owlv2-base"}), {}, "u2net has a detector"),
        (own(), {"every": 2}, r"for pictures; remove recipe\.every"),
        ({"preset": "mvanet-lite"}, {}, "quality of mvanet-lite is calibrated and that of u2netp is not"),
        (own(join="better"), {}, "both need a calibration"),
    ],
)
def test_what_cannot_be_combined_is_refused(second: Any, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        recipe(second, **changes)


def test_the_licence_of_the_second_model_counts() -> None:
    chosen = load_preset("u2netp", UNCALIBRATED | {"second": {"preset": "rmbg-1.4"}})
    with pytest.raises(ConfigError, match=r"weights of rmbg-1\.4 .* --accept-licence"):
        check_licence(chosen, accepted=False)
    check_licence(chosen, accepted=True)


def test_what_is_asked_of_the_result_is_asked_of_both_models(tmp_path: Path) -> None:
    asked = {"holes": "fill", "hole_share": 0.04, "box_margin": 0.2, "views": ["flip"]}
    second = recipe(own(), **asked).second
    assert second is not None
    assert (second.recipe.holes, second.recipe.hole_share, second.recipe.box_margin) == ("fill", 0.04, 0.2)
    assert second.recipe.views == ()
    second = recipe(own(recipe={"calibration": "", "holes": "keep", "box_margin": 0.1}), **asked).second
    assert second is not None
    assert (second.recipe.holes, second.recipe.hole_share, second.recipe.box_margin) == ("keep", 0.04, 0.1)
    preset = tmp_path / "mine.yaml"
    text = "about: x\nlicence: MIT\ncommercial: true\nsize_mb: 1\nsource: x\nrecipe: {model: fake, holes: fill"
    preset.write_text(text + ", second: {preset: u2netp, recipe: {calibration: ''}}}\n")
    chosen = load_preset(str(preset)).recipe.second
    assert chosen is not None and chosen.recipe.holes == "fill"
    preset.write_text(text + "}\n")
    chosen = load_preset(str(preset), {"second": own()}).recipe.second
    assert chosen is not None and chosen.recipe.holes == "keep", "the file says what suits its own model"
