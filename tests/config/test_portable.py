"""A job as files for another machine is the same job, and holds neither local files nor secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.job import Job, load_job, merge_settings
from pipeline.config.portable import JOB_FILE, PRESET_FILE, portable_job
from pipeline.errors import ConfigError

JOB = """
manifest: s3://shop/manifest.parquet
output: {uri: s3://shop/cutouts, name: "{sku}"}
preset: mvanet-lite
recipe: {renditions: [amazon-main, OWN], review_below: 0.9}
compute: {fetch_threads: 16}
limits: {max_pixels: 5000000}
storage: {allow_roots: ["https://cdn.example.com/photos"], region: eu-west-1}
budget: {max_failed_share: 0.02, deadline_s: 21600}
drift: {accepted: "s3://shop/accepted.json"}
run: {changed: true, retry: "fetch,write"}
"""
RENDITION = 'about: ours\naspect: "4:5"\nfill: 0.8\nsize_px: [300, 600]\nshadow: true\nbackground: "#F4F1EA"\nformat: jpeg\n'
PRESET = (
    "about: ours\nlicence: none\ncommercial: true\nsize_mb: 0\nsource: none\n"
    "recipe: {model: mvanet, weights: 'bundled:mvanet-lite.safetensors', frame_px: 512}\n"
)


def portable(**given: Any) -> tuple[Job, dict[str, str]]:
    """A job and its files."""
    job = load_job(**given)
    return job, portable_job(
        job, merge_settings(**{key: value for key, value in given.items() if key != "renditions"}), "/there"
    )


def there(files: dict[str, str], folder: Path) -> Job:
    """The job as it is read on the other machine."""
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text.replace("/there", str(folder)), encoding="utf-8")
    return load_job(job_file=str(folder / JOB_FILE))


def own(folder: Path) -> Path:
    (folder / "mine.yaml").write_text(RENDITION)
    path = folder / "nightly.yaml"
    path.write_text(JOB.replace("OWN", str(folder / "mine.yaml")))
    return path


def test_every_setting_travels(tmp_path: Path) -> None:
    job, files = portable(
        job_file=str(own(tmp_path)), overrides=["limits.fetch_s=9", "recipe.outputs=[mask]"], renditions=["transparent"]
    )
    assert set(files) == {JOB_FILE}
    assert str(tmp_path) not in files[JOB_FILE]
    again = there(files, tmp_path / "there")
    expected = job.model_dump()
    expected["compute"]["ray_address"] = "auto"
    assert again.model_dump() == expected
    assert [one.name for one in again.recipe.renditions] == ["amazon-main", "mine", "transparent"]
    assert [type(one) for one in yaml.safe_load(files[JOB_FILE])["recipe"]["renditions"]] == [str, dict, str]


def test_a_preset_of_the_users_own_travels(tmp_path: Path) -> None:
    (tmp_path / "shoes.yaml").write_text(PRESET)
    job, files = portable(manifest="s3://a/m", output="s3://a/o", preset=str(tmp_path / "shoes.yaml"))
    assert set(files) == {JOB_FILE, PRESET_FILE}
    again = there(files, tmp_path / "there")
    assert again.recipe == job.recipe and again.recipe.name == "shoes"


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("storage.profile=shop", "storage.profile would be readable"),
        ("notify.to=https://hooks.example.com/T/secret", "kubectl create secret generic matteline-notify"),
        ("drift.accepted=accepted.json", "drift.accepted 'accepted.json' is a file of this machine"),
        ("recipe.weights=mine.safetensors", "recipe.weights 'mine.safetensors' is a file of this machine"),
        ("recipe.detector.weights=/models/gdino", "recipe.detector.weights '/models/gdino' is a file of this machine"),
        ("recipe.calibration=/tmp/c.json", "recipe.calibration '/tmp/c.json' is a file"),
        ("recipe.video_background=sea.jpg", "recipe.video_background 'sea.jpg' is a file of this machine"),
        ("storage.allow_roots=[/data/photos]", "the allowed root '/data/photos' is a file"),
        ("compute.ray_address=ray://head:10001", "compute.ray_address: the run gets a Ray cluster of its own"),
    ],
)
def test_what_the_other_machine_lacks_is_refused(pair: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        portable(manifest="s3://a/m", output="s3://a/o", overrides=[pair])


def test_credentials_are_refused_without_a_word_of_them() -> None:
    with pytest.raises(ConfigError, match="storage.key would be readable") as refused:
        portable(manifest="s3://a/m", output="s3://a/o", overrides=["storage.key=AKIA123", "storage.secret=s3cr3t"])
    assert "AKIA" not in str(refused.value) and "s3cr3t" not in str(refused.value)


def test_files_beside_own_presets_and_renditions_are_refused(tmp_path: Path) -> None:
    (tmp_path / "shoes.yaml").write_text(PRESET.replace("bundled:mvanet-lite.safetensors", "mine.safetensors"))
    where = {"manifest": "s3://a/m", "output": "s3://a/o"}
    with pytest.raises(ConfigError, match=r"shoes.yaml: recipe.weights 'mine.safetensors' is a file of this machine"):
        portable(**where, preset=str(tmp_path / "shoes.yaml"))
    (tmp_path / "table.yaml").write_text("background: table.jpg\nformat: jpeg\n")
    with pytest.raises(ConfigError, match="rendition table: background '.*/table.jpg' is a file of this machine"):
        portable(**where, renditions=[str(tmp_path / "table.yaml")])


def test_a_second_model_travels_unless_it_is_a_file_of_this_machine(tmp_path: Path) -> None:
    where = {"manifest": "s3://shop/m.parquet", "output": "s3://shop/out"}
    job, files = portable(**where, overrides=["recipe.second=u2netp", "recipe.second.below=0.4"])
    assert there(files, tmp_path / "there").recipe == job.recipe
    (tmp_path / "large.yaml").write_text(PRESET)
    for changes, said in (
        ([f"recipe.second={tmp_path}/large.yaml", 'recipe.calibration=""'], r"preset .*large\.yaml' is a file of this machine"),
        (
            ["recipe.second={preset: u2netp, recipe: {calibration: mine.json}}"],
            r"recipe\.second\.recipe\.calibration 'mine\.json'",
        ),
    ):
        with pytest.raises(ConfigError, match=said):
            portable(**where, overrides=changes)


DETECTOR = (
    "about: ours\nlicence: none\nsize_mb: 0\nsource: none\n"
    "detector: {model: nanodet, weights: WEIGHTS, threshold: 0.3, label: [mug], max_boxes: 3}\n"
)


@pytest.mark.parametrize("weights", ["bundled:nanodet-g.onnx", "s3://shop/models/mugs.onnx"])
@pytest.mark.parametrize("way", ["option", "preset"])
def test_a_detector_of_the_users_own_travels(weights: str, way: str, tmp_path: Path) -> None:
    own_detector = tmp_path / "mugs.yaml"
    own_detector.write_text(DETECTOR.replace("WEIGHTS", weights))
    given: dict[str, Any] = {"manifest": "s3://a/m", "output": "s3://a/o"}
    if way == "option":
        given["overrides"] = [f"recipe.detector={own_detector}"]
    else:
        (tmp_path / "shoes.yaml").write_text(PRESET.replace("frame_px: 512", f"frame_px: 512, detector: {own_detector}"))
        given["preset"] = str(tmp_path / "shoes.yaml")
    job, files = portable(**given)
    assert str(tmp_path) not in files[JOB_FILE]
    again = there(files, tmp_path / "there").recipe.detector
    assert job.recipe.detector is not None and again is not None
    same = {"weights", "model", "threshold", "label", "max_boxes"}
    assert again.model_dump(include=same) == job.recipe.detector.model_dump(include=same)


def test_a_detector_whose_weights_lie_beside_its_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mugs.yaml").write_text(DETECTOR.replace("WEIGHTS", "mugs.onnx"))
    with pytest.raises(ConfigError, match="recipe.detector.weights '.*/mugs.onnx' is a file of this machine"):
        portable(manifest="s3://a/m", output="s3://a/o", overrides=[f"recipe.detector={tmp_path}/mugs.yaml"])
