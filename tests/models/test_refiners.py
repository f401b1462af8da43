"""Choosing a refiner, and checking its weights before any work."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config.job import load_job
from pipeline.config.recipe import CGM_SHA256, Recipe
from pipeline.errors import ConfigError, WeightsError
from pipeline.models.refiners.cgm import BUNDLED, ConfidenceGuided
from pipeline.models.refiners.guided import Guided
from pipeline.models.refiners.load import check_refiner, load_refiner
from pipeline.models.resolve import resolve
from pipeline.storage.files import Files

CPU = torch.device("cpu")


def cgm_recipe(preset: str, folder: Path, **settings: str) -> Recipe:
    pairs = [f"recipe.{key}={value}" for key, value in ({"refiner": "cgm"} | settings).items()]
    return load_job(manifest=str(folder), output=str(folder / "out"), preset=preset, overrides=pairs).recipe


def test_a_recipe_names_its_refiner(recipe: Any) -> None:
    assert load_refiner(recipe("fake", refiner="none"), None, CPU) is None
    assert isinstance(load_refiner(recipe("fake", refiner="guided"), None, CPU), Guided)
    assert isinstance(load_refiner(recipe("fake"), BUNDLED, CPU), ConfidenceGuided), "the default"
    for refuse in (check_refiner, lambda *given: load_refiner(*given, CPU)):
        with pytest.raises(WeightsError, match=r"set recipe\.refiner_weights"):
            refuse(recipe("fake"), None)


def test_weights_of_a_refiner_are_pinned_and_checked(fake_preset: str, tmp_path: Path) -> None:
    def check(**settings: str) -> None:
        resolve(cgm_recipe(fake_preset, tmp_path, **settings), Files(), gpu=False).check("auto")

    path = tmp_path / "own.safetensors"
    with pytest.raises(WeightsError, match=r"does not exist; .*recipe\.refiner_weights"):
        check(refiner_weights=str(path))
    path.write_bytes(b"not weights at all")
    with pytest.raises(WeightsError, match=r"recipe\.refiner_weights_sha256 is 00000"):
        check(refiner_weights=str(path), refiner_weights_sha256="0" * 64)
    with pytest.raises(WeightsError, match=r"neither a \.safetensors nor a PyTorch weights file"):
        check(refiner_weights=str(path), refiner_weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(WeightsError, match=r"recipe\.refiner_weights_sha256"):
        check(refiner_weights="http://somewhere.example/own.safetensors")


def test_fp16_on_a_cpu_is_refused_before_the_file_is_read(recipe: Any) -> None:
    with pytest.raises(ConfigError, match=r"recipe\.precision=fp16 is for GPUs"):
        load_refiner(recipe("fake", precision="fp16"), Path("nothing"), CPU)


def test_own_weights_of_cgm_change_the_fingerprint(fake_preset: str, tmp_path: Path) -> None:
    bundled = resolve(cgm_recipe(fake_preset, tmp_path), Files(), gpu=False)
    assert bundled.refiner_weights == BUNDLED and bundled.recipe.refiner_weights_sha256 == CGM_SHA256
    path = tmp_path / "own.safetensors"
    save_file({key: 0.5 * value for key, value in load_file(BUNDLED).items()}, path)
    recipe = cgm_recipe(fake_preset, tmp_path, refiner_weights=str(path))
    with pytest.raises(ConfigError, match="no refiner_weights_sha256 yet"):
        recipe.fingerprint()
    own = resolve(recipe, Files(), gpu=False)
    assert own.refiner_weights == path
    assert own.recipe.fingerprint() != bundled.recipe.fingerprint()
    facts = bundled.recipe.facts()
    assert "refiner_weights_sha256" in facts and str(BUNDLED) not in str(facts)
