"""The bundled presets: complete, pinned, and of the same fingerprint everywhere."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime
import pytest
import yaml

from pipeline.config.job import JOB_SECTIONS, load_job
from pipeline.config.presets import load_preset, preset_names
from pipeline.config.recipe import DERIVED, REVIEW_BELOW, UNHASHED, Recipe
from pipeline.errors import ConfigError
from pipeline.paths import CONFIGS

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ["mvanet-lite", "u2netp"]
NAMES = ["ben2-base", "ben2-onnx", "birefnet", "finegrain-box", "isnet", "mvanet-dis", "rmbg-1.4", "u2net", *BUNDLED]
SETTLED = {"precision": "fp32"}
"""What resolving chooses."""


def test_all_presets_are_here() -> None:
    assert preset_names() == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_preset_says_what_users_must_know(name: str) -> None:
    preset = load_preset(name)
    assert preset.recipe.name == name
    assert 20 < len(preset.about) < 140
    assert re.match(r"(MIT|Apache-2\.0|LicenseRef-)", preset.licence)
    assert 1 < preset.size_mb < 2000
    assert preset.source.startswith("https://")
    assert name in (ROOT / "NOTICE").read_text(encoding="utf-8")


def test_bundled_models_say_how_they_did() -> None:
    for name in ("mvanet-lite", "u2netp"):
        preset = load_preset(name)
        assert preset.measured is not None
        assert preset.describe() == f"{preset.about}. {preset.measured.describe()}"
        assert f"Dice {preset.measured.dice:.3f}; with their boxes" in preset.describe()
    assert load_preset("mvanet-lite", {"weights": "mine.safetensors"}).measured is None, "these are the numbers of others"
    assert load_preset("birefnet").describe() == load_preset("birefnet").about


def test_presets_are_found_in_any_case(tmp_path: Path) -> None:
    assert load_preset("U2NetP") == load_preset("u2netp")
    (tmp_path / "Mine.YAML").write_bytes((CONFIGS / "u2netp.yaml").read_bytes())
    assert load_preset(str(tmp_path / "Mine.YAML")).recipe.model == "onnx"
    with pytest.raises(ConfigError, match="there is no preset 'U3Net'; choose from"):
        load_preset("U3Net")


@pytest.mark.parametrize("name", NAMES)
def test_preset_is_pinned(name: str) -> None:
    recipe = load_preset(name).recipe
    assert recipe.weights_sha256 is not None
    if name in BUNDLED:
        assert Path(recipe.weights).is_file()
    elif recipe.weights.startswith("hf://"):
        assert re.fullmatch(r"hf://[\w.-]+/[\w.-]+/[\w./-]+@([0-9a-f]{40}|v0\.1)", recipe.weights)
    else:
        assert re.fullmatch(r"https://github\.com/[\w./-]+/releases/download/[\w./-]+\.onnx", recipe.weights)


def test_only_the_non_commercial_one_asks() -> None:
    assert [name for name in NAMES if not load_preset(name).commercial] == ["rmbg-1.4"]


@pytest.mark.parametrize("name", NAMES)
def test_no_preset_stretches(name: str) -> None:
    assert load_preset(name).recipe.stretch is False


def test_hashes_are_all_different() -> None:
    assert len({load_preset(name).recipe.weights_sha256 for name in NAMES}) == len(NAMES)
    assert len({load_preset(name, SETTLED).recipe.fingerprint() for name in NAMES}) == len(NAMES)


def test_a_precision_left_to_the_machine_has_no_fingerprint() -> None:
    with pytest.raises(ConfigError, match="still auto"):
        load_preset("ben2-base").recipe.fingerprint()


def test_bundled_weights_are_found_from_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_preset("u2netp").recipe
    assert hashlib.sha256(Path(recipe.weights).read_bytes()).hexdigest() == recipe.weights_sha256
    assert Path(recipe.weights).with_suffix(".LICENSE").read_text(encoding="utf-8").lstrip().startswith("Apache License")


def test_a_copy_of_a_bundled_preset_finds_the_bundled_weights(tmp_path: Path) -> None:
    copy = tmp_path / "mine.yaml"
    copy.write_bytes((CONFIGS / "u2netp.yaml").read_bytes())
    assert load_preset(str(copy)).recipe.weights == load_preset("u2netp").recipe.weights


def test_bundled_weights_run() -> None:
    recipe = load_preset("u2netp").recipe
    session = onnxruntime.InferenceSession(recipe.weights, providers=["CPUExecutionProvider"])
    assert recipe.input_name == session.get_inputs()[0].name
    assert recipe.output_name == session.get_outputs()[0].name
    zeros = np.zeros((1, 3, recipe.frame_px, recipe.frame_px), np.float32)
    (alpha,) = session.run([recipe.output_name], {recipe.input_name: zeros})
    assert alpha.shape == (1, 1, recipe.frame_px, recipe.frame_px)
    assert alpha.min() >= 0
    assert alpha.max() < 0.01  # a probability already, and nothing is there


def own_preset(folder: Path, *, recipe: dict[str, Any] | None = None, **changes: Any) -> str:
    """A user's preset: u2netp's content with changes, in a file of its own."""
    content = yaml.safe_load((CONFIGS / "u2netp.yaml").read_text(encoding="utf-8"))
    content = content | changes | {"recipe": content["recipe"] | (recipe or {})}
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def test_own_preset_names_itself_and_finds_its_weights(tmp_path: Path) -> None:
    recipe = load_preset(own_preset(tmp_path, recipe={"weights": "here/model.onnx"})).recipe
    assert recipe.name == "own"
    assert recipe.weights == str(tmp_path / "here" / "model.onnx")


def test_other_weights_drop_the_pinned_hash() -> None:
    assert load_preset("u2netp", {"weights": "s3://bucket/mine.onnx"}).recipe.weights_sha256 is None


def test_a_calibration_is_for_the_weights_that_it_was_fitted_on() -> None:
    bundled = load_preset("u2netp").recipe
    assert Path(bundled.calibration).is_file() and bundled.review_below is None, "the calibration's threshold"
    own = load_preset("u2netp", {"weights": "s3://bucket/mine.onnx"}).recipe
    assert own.calibration == "" and own.calibration_sha256 is None
    assert own.review_below == REVIEW_BELOW
    other = load_preset("u2netp", {"calibration": "mine.json"}).recipe
    assert other.calibration == "mine.json" and other.calibration_sha256 is None
    with pytest.raises(ConfigError, match="no calibration_sha256 yet"):
        other.fingerprint()


@pytest.mark.parametrize(
    ("recipe", "changes", "said"),
    [
        ({"frame_pix": 320}, {}, r"own\.yaml.*recipe\.frame_pix"),
        ({}, {"license": "MIT"}, r"own\.yaml.*license"),
        ({"frame_px": 7}, {}, r"recipe\.frame_px"),
        ({"scale": "256"}, {}, r"recipe\.scale"),
        ({"std": [1, 0, 1]}, {}, "std must be above 0"),
        ({"weights_sha256": "ABC"}, {}, r"recipe\.weights_sha256"),
        ({"model": "mvanet"}, {}, "multiple of 128"),
        ({"refiner": "guided", "refiner_weights": "a"}, {}, "refiner=guided has no weights"),
        ({"refiner": "vitmatte"}, {}, r"recipe\.refiner"),
        ({"refiner_licence": "MIT"}, {}, r"recipe\.refiner_licence"),
        ({}, {"commercial": "perhaps"}, "commercial"),
    ],
)
def test_mistakes_are_refused_by_name(recipe: dict[str, Any], changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        load_preset(own_preset(tmp_path, recipe=recipe, **changes))


def test_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"ben2-base.*u2netp"):
        load_preset("u2netq")


def test_fingerprints_are_the_same_in_another_process() -> None:
    script = (
        "import json; from pipeline.config.presets import load_preset, preset_names; "
        f"print(json.dumps({{name: load_preset(name, {SETTLED}).recipe.fingerprint() for name in preset_names()}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": "1234", "LC_ALL": "C"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {name: load_preset(name, SETTLED).recipe.fingerprint() for name in NAMES}


BASE = {"name": "base", "model": "onnx", "weights": "a.onnx", "weights_sha256": "0" * 64}

CHANGES: dict[str, Any] = {
    "views": ["flip"],
    "estimate": False,
    "calibration_sha256": "3" * 64,
    "model": "mvanet",
    "weights_sha256": "1" * 64,
    "frame_px": 512,
    "frame_resize": "lanczos",
    "mean": [0.5, 0.456, 0.406],
    "std": [0.229, 0.224, 0.226],
    "scale": "max",
    "precision": "bf16",
    "activation": "none",
    "input_name": "x",
    "output_name": "y",
    "box_margin": 0.051,
    "margin_without_box": True,
    "outside": "black",
    "alpha_resize": "plain",
    "stretch": True,
    "sharpen": 3.0,
    "every": 2,
    "steady": False,
    "videos": ["mov", "webm"],
    "video_background": "#102030",
    "video_background_sha256": "6" * 64,
    "holes": "fill",
    "hole_share": 0.01,
    "specks": 0.05,
    "refiner": "none",
    "refiner_weights_sha256": "2" * 64,
    "foreground": "none",
    "detector": {"preset": "owlv2-base", "weights_sha256": "4" * 64, "precision": "fp32"},
    "second": {"preset": "other", "recipe": {"name": "other", "model": "fake"}},
}

DERIVED_CHANGES: dict[str, Any] = {"outputs": ["mask"], "review_below": 0.6, "renditions": ["transparent"]}


BEHIND_VIDEOS = {"video_background": "beach.jpg", "video_background_sha256": "5" * 64}
OWN_CGM = {"refiner": "cgm", "refiner_weights": "a.safetensors", "refiner_weights_sha256": "0" * 64}


def test_every_field_that_can_change_is_tried() -> None:
    fixed = {name for name, field in Recipe.model_fields.items() if len(get_args(field.annotation)) == 1}
    assert set(CHANGES) == set(Recipe.model_fields) - UNHASHED - DERIVED - fixed
    assert set(DERIVED_CHANGES) == DERIVED
    assert sorted(UNHASHED) == ["calibration", "name", "refiner_weights", "weights"]


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_that_needs_the_model_changes_the_fingerprint(field: str) -> None:
    base = BASE | ({"model": "mvanet"} if field == "precision" else {}) | (OWN_CGM if field.startswith("refiner_") else {})
    base |= BEHIND_VIDEOS if field == "video_background_sha256" else {}
    base |= {"videos": ("webm", "mp4")} if field.startswith("video_background") else {}
    before, after = Recipe.model_validate(base), Recipe.model_validate(base | {field: CHANGES[field]})
    assert getattr(before, field) != getattr(after, field)
    assert before.fingerprint() != after.fingerprint()


@pytest.mark.parametrize("field", DERIVED_CHANGES)
def test_fields_that_are_applied_without_the_model_do_not(field: str) -> None:
    before, after = Recipe.model_validate(BASE), Recipe.model_validate(BASE | {field: DERIVED_CHANGES[field]})
    assert getattr(before, field) != getattr(after, field)
    assert before.fingerprint() == after.fingerprint() and before.facts() == after.facts()


def test_name_and_place_of_the_weights_do_not() -> None:
    moved = Recipe.model_validate(BASE | {"name": "other", "weights": "s3://bucket/other.onnx"})
    assert moved.fingerprint() == Recipe.model_validate(BASE).fingerprint()
    other = {"refiner_weights": "s3://bucket/other.safetensors"}
    moved = Recipe.model_validate(BASE | OWN_CGM | other)
    assert moved.fingerprint() == Recipe.model_validate(BASE | OWN_CGM).fingerprint()


def test_weights_of_a_refiner_are_pinned_before_the_fingerprint(tmp_path: Path) -> None:
    path = own_preset(tmp_path, recipe=OWN_CGM | {"refiner_weights": "here/cgm.safetensors"})
    recipe = load_preset(path).recipe
    assert recipe.refiner_weights == str(tmp_path / "here" / "cgm.safetensors")
    other = load_preset(path, {"refiner_weights": "s3://bucket/mine.safetensors"}).recipe
    assert other.refiner_weights_sha256 is None and other.weights_sha256 is not None
    with pytest.raises(ConfigError, match="no refiner_weights_sha256 yet"):
        other.fingerprint()


def test_what_is_behind_videos_counts_for_mp4_only() -> None:
    for behind in ({"video_background": "#102030"}, BEHIND_VIDEOS):
        for videos, counts in ((("webm", "png", "mov", "mask"), False), (("mp4",), True)):
            recipes = [Recipe.model_validate(BASE | {"videos": videos} | one) for one in ({}, behind)]
            assert (recipes[0].fingerprint() != recipes[1].fingerprint()) == counts


def test_a_picture_behind_videos_counts_by_its_hash(tmp_path: Path) -> None:
    base = BASE | BEHIND_VIDEOS | {"videos": ("mp4",)}
    moved = Recipe.model_validate(base | {"video_background": "s3://bucket/b.png"})
    assert moved.fingerprint() == Recipe.model_validate(base).fingerprint()
    with pytest.raises(ConfigError, match="no video_background_sha256 yet"):
        Recipe.model_validate(BASE | {"video_background": "beach.jpg"}).fingerprint()
    path = own_preset(tmp_path, recipe=BASE | BEHIND_VIDEOS)
    assert load_preset(path).recipe.video_background == str(tmp_path / "beach.jpg")
    other = load_preset(path, {"video_background": "hills.jpg"}).recipe
    assert (other.video_background, other.video_background_sha256) == ("hills.jpg", None)
    assert load_preset(own_preset(tmp_path, recipe=BASE | {"video_background": "Black"})).recipe.video_background == "#000000"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"video_background": "#fff"}, "'#fff' is not a colour"),
        ({"video_background": ""}, "'' is not a colour"),
        ({"steady": False, "every": 2}, "steady=false carries no masks"),
        ({"video_background_sha256": "0" * 64}, "needs a video_background that is a picture"),
    ],
)
def test_impossible_settings_of_videos_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_preset("u2netp", changes)


def test_one_output_or_a_list_with_commas_is_a_list() -> None:
    assert load_preset("u2netp", {"outputs": "mask"}).recipe.outputs == ("mask",)
    assert load_preset("u2netp", {"outputs": "mask, cutout"}).recipe.outputs == ("cutout", "mask")


def test_the_order_of_outputs_and_renditions_does_not_matter() -> None:
    for field, values in {"outputs": ["mask", "cutout"], "renditions": ["transparent", "amazon-main"]}.items():
        one, other = (Recipe.model_validate(BASE | {field: order}) for order in (values, values[::-1]))
        assert one == other


@pytest.mark.parametrize(
    ("outputs", "said"),
    [([], "at least one"), (["mask", "mask"], "only once"), (["trimap"], "name mask or cutout"), (["masks"], "outputs")],
)
def test_impossible_outputs_are_refused(outputs: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_preset("u2netp", {"outputs": outputs})


NOT_PIXELS = [
    "compute.device=cpu",
    "compute.engine=torch",
    "compute.ray_address=auto",
    "compute.local_items=0",
    "compute.actors=3",
    "compute.min_actors=2",
    "compute.max_actors=4",
    "compute.wait_for_gpus=2",
    "compute.wait_s=60",
    "compute.gpus_per_actor=0.5",
    "compute.cpus_per_actor=2",
    "compute.threads_per_actor=7",
    "compute.batch_size=16",
    "compute.rows_per_block=5",
    "compute.rows_per_part=6",
    "compute.fetch_threads=3",
    "compute.no_progress_s=1700",
    "compute.progress_s=5",
    "limits.max_pixels=1000",
    "limits.max_bytes=1000",
    "limits.fetch_s=3",
    "limits.item_s=3",
    "limits.max_frames=3",
    "limits.max_seconds=3",
    "storage.allow_roots=[s3://other]",
    "storage.endpoint_url=http://127.0.0.1:9000",
    "storage.region=eu-west-1",
    "storage.profile=other",
    "storage.anonymous=true",
    "storage.http=true",
    "budget.max_failed_share=0.5",
    "budget.allowed_failed=3",
    "budget.judged_after=7",
    "budget.deadline_s=3600",
    "drift.accepted=s3://shop/accepted.json",
    "drift.quality=0.2",
    "drift.review=0.1",
    "drift.failed=0.01",
    "drift.confidence=0.9",
    "notify.to=https://hooks.example.com/T0/B0/secret",
    "output.name={sku}",
    "columns.image=url",
    "columns.id=sku",
    "columns.box=bbox",
    "columns.boxes=bboxes",
    "columns.label=category",
    "run.retry=fetch",
    "run.changed=true",
    "run.replace=true",
    "run.accept_licence=true",
]


def test_every_setting_of_speed_is_tried() -> None:
    job = load_job(manifest="a", output="b")
    sections = [section for section in JOB_SECTIONS if section != "recipe"]
    fields = {f"{section}.{name}" for section in sections for name in type(getattr(job, section)).model_fields}
    secrets = {"storage.key", "storage.secret", "storage.token"}
    assert {pair.partition("=")[0] for pair in NOT_PIXELS} == fields - secrets - {"output.uri"}


@pytest.mark.parametrize("pair", NOT_PIXELS)
def test_no_other_setting_enters_the_fingerprint(pair: str) -> None:
    settled = [f"recipe.{name}={value}" for name, value in SETTLED.items()]
    plain, changed = (load_job(manifest="a", output="b", overrides=[*settled, *pairs]) for pairs in ([], [pair]))
    assert changed != plain
    assert changed.recipe.fingerprint() == plain.recipe.fingerprint()
    assert changed.recipe.label() == plain.recipe.label()


def test_a_hanging_item_must_end_before_the_run_is_given_up() -> None:
    with pytest.raises(ConfigError, match=r"limits.item_s=240 is more than a seventh of compute.no_progress_s=600"):
        load_job(manifest="m", output="o", overrides=["compute.no_progress_s=600"])
    load_job(manifest="m", output="o", overrides=["compute.no_progress_s=600", "limits.item_s=80"])
