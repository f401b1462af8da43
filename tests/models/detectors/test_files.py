"""Fetch a detector from a folder, S3 and the hub's cache; refuse what could run code or is another model."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.detector import Detector, detector_with
from pipeline.errors import ConfigError, WeightsError
from pipeline.models.detectors.files import NAMES, resolve_detector
from pipeline.storage.files import Files

COMMIT = "0123456789" * 4


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MATTELINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tiny_detectors: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_detectors["owlv2"], tmp_path / "model"))


def settings(weights: str | Path, **changes: Any) -> Detector:
    return detector_with({"model": "owlv2", "weights": str(weights), "threshold": 0.1} | changes)


def resolve(detector: Detector, files: Files | None = None, *, gpu: bool = False) -> tuple[Detector, Path]:
    return resolve_detector(detector, files or Files(), gpu=gpu)


def test_only_known_files_are_used_and_pinned_by_one_hash(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "adapter_config.json").write_text("{}")
    resolved, found = resolve(settings(folder))
    names = sorted(path.name for path in found.iterdir())
    assert set(names) <= set(NAMES)
    listed = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True).stdout
    total = subprocess.run(["sha256sum"], input=listed, capture_output=True, check=True).stdout.split()[0].decode()
    assert resolved.weights_sha256 == total
    assert resolve(resolved) == (resolved, found)


def test_a_changed_file_is_refused(folder: Path) -> None:
    resolved, _ = resolve(settings(folder))
    (folder / "processor_config.json").write_text((folder / "processor_config.json").read_text() + " ")
    with pytest.raises(WeightsError, match=r"hash to .*, not to the expected"):
        resolve(resolved)


def test_precision_is_chosen_by_the_device(folder: Path) -> None:
    assert resolve(settings(folder))[0].precision == "fp32"
    assert resolve(settings(folder), gpu=True)[0].precision == "fp16"
    with pytest.raises(ConfigError, match="is for GPUs"):
        resolve(settings(folder, precision="fp16"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "grounding-dino"}, "holds a model of the type 'grounding-dino'"),
        ({"auto_map": {"AutoModel": "modeling.Evil"}}, "refers to code"),
        ({"text_config": {"attn_implementation": "someone/kernel"}}, "refers to code"),
        ({"use_pretrained_backbone": True}, "refers to code or further files"),
        ({"backbone": "someone/resnet", "backbone_config": None}, "refers to code or further files"),
        ({"backbone_config": {"model_type": "timm_backbone", "backbone": "hf_hub:x/y"}}, "refers to timm_backbone"),
    ],
)
def test_other_models_and_code_are_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(WeightsError, match=message):
        resolve(settings(folder))


@pytest.mark.parametrize("content", ["[]", "{", '{"text_config": 3}', "[" * 5000])
def test_a_damaged_config_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=r"config\.json"):
        resolve(settings(folder))


def test_pickled_weights_alone_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"has no model\.safetensors"):
        resolve(settings(folder))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("nowhere", "is not a folder"),
        ("https://example.com/model", "a web address has no folders"),
        ("hf://onlyowner", r"is not of the form hf://owner/repository@revision"),
    ],
)
def test_other_places_are_refused(weights: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        resolve(settings(weights))


def test_from_s3(folder: Path, remote: Any) -> None:
    for path in folder.iterdir():
        remote.put(f"detector/{path.name}", path.read_bytes())
    resolved, found = resolve(settings(f"{remote.root}/detector"), remote.files)
    assert resolved.weights_sha256 == resolve(settings(folder))[0].weights_sha256
    assert (found / "config.json").read_bytes() == (folder / "config.json").read_bytes()


def test_a_cached_commit_of_the_hub_needs_no_network(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = cache / "huggingface" / "models--someone--detector" / "snapshots" / COMMIT
    shutil.copytree(folder, snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    resolved, _ = resolve(settings(f"hf://someone/detector@{COMMIT}"))
    assert resolved.weights_sha256 == resolve(settings(folder))[0].weights_sha256


def test_without_the_hub_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError) as caught:
        resolve(settings(f"hf://someone/detector@{COMMIT}"))
    text = str(caught.value)
    assert "hub can't be reached" in text
    assert f"hf download someone/detector --revision {COMMIT} --local-dir FOLDER" in text
    assert "--set recipe.detector.weights=FOLDER" in text


def test_without_transformers_the_error_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"the detector owlv2 needs transformers; .*pip install 'matteline\[names\]'"):
        resolve(settings(folder))
