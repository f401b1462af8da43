"""Which refiner a recipe names, what it needs, and that all of it is refused before any work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import pipeline.models.refiners.closed_form
from pipeline import Segmenter
from pipeline.config.job import load_job
from pipeline.config.presets import load_preset
from pipeline.config.recipe import CGM_SHA256
from pipeline.errors import ConfigError, WeightsError
from pipeline.models.refiners.cgm import BUNDLED, ConfidenceGuided
from pipeline.models.refiners.closed_form import ClosedForm
from pipeline.models.refiners.guided import Guided
from pipeline.models.refiners.load import EXTRAS, check_extra, load_refiner
from pipeline.models.resolve import pin_recipe
from pipeline.run.preflight import make_plan
from pipeline.storage.files import Files

CPU = torch.device("cpu")
MATTED = {"refiner": "vitmatte", "refiner_weights": "matte.safetensors", "refiner_licence": "our own"}


def changes(refiner: str) -> dict[str, str]:
    return MATTED if refiner == "vitmatte" else {"refiner": refiner}


def test_a_recipe_names_its_refiner(recipe: Any) -> None:
    assert load_refiner(recipe("fake", refiner="none"), None, CPU) is None
    assert isinstance(load_refiner(recipe("fake", refiner="guided"), None, CPU), Guided)
    assert isinstance(load_refiner(recipe("fake", refiner="closed_form"), None, CPU), ClosedForm)
    assert isinstance(load_refiner(recipe("fake"), BUNDLED, CPU), ConfidenceGuided), "the default"
    with pytest.raises(WeightsError, match=r"set recipe\.refiner_weights"):
        load_refiner(recipe("fake", **MATTED), None, CPU)


@pytest.mark.parametrize("refiner", EXTRAS)
def test_without_its_library_a_refiner_is_refused_before_any_work(
    refiner: str, fake_preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, extra = EXTRAS[refiner]
    pairs = [f"recipe.{key}={value}" for key, value in changes(refiner).items()]
    job = load_job(manifest=str(tmp_path / "gone.csv"), output=str(tmp_path / "out"), preset=fake_preset, overrides=pairs)
    check_extra(job.recipe)
    monkeypatch.setitem(sys.modules, library, None)
    refused = rf"recipe\.refiner={refiner} needs {library}.*pip install 'matteline\[{extra}\]'"
    for door in (lambda: make_plan(job, Files()), lambda: Segmenter(fake_preset, **changes(refiner))):
        with pytest.raises(ConfigError, match=refused):
            door()
    assert not (tmp_path / "out").exists()


def test_the_extras_are_the_projects() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for library, extra in EXTRAS.values():
        assert project["optional-dependencies"][extra][0].startswith(library)


def test_weights_of_a_refiner_are_pinned_and_looked_into(fake_preset: str, tmp_path: Path, make_photos: Any) -> None:
    import hashlib

    make_photos(tmp_path / "photos", 1)

    def plan(**settings: str) -> Any:
        pairs = [f"recipe.{key}={value}" for key, value in (MATTED | settings).items()]
        return make_plan(
            load_job(manifest=f"{tmp_path}/photos", output=f"{tmp_path}/out", preset=fake_preset, overrides=pairs), Files()
        )

    path = tmp_path / "matte.safetensors"
    with pytest.raises(WeightsError, match=r"does not exist; correct recipe\.refiner_weights"):
        plan(refiner_weights=str(path))
    path.write_bytes(b"not weights at all")
    with pytest.raises(WeightsError, match=r"hash to .* but recipe\.refiner_weights_sha256 is 00000"):
        plan(refiner_weights=str(path), refiner_weights_sha256="0" * 64)
    with pytest.raises(WeightsError, match=r"neither a \.safetensors nor a PyTorch weights file"):
        plan(refiner_weights=str(path), refiner_weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(WeightsError, match=r"use https:// or give recipe\.refiner_weights_sha256"):
        plan(refiner_weights="http://somewhere.example/matte.safetensors")


def test_a_half_precision_that_a_cpu_has_not_is_refused(recipe: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipe\.precision=fp16 is for GPUs"):
        load_refiner(recipe("fake", precision="fp16", **MATTED), tmp_path / "matte.safetensors", CPU)


def test_a_note_comes_with_the_cutout(fake_preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:200, :300]
    inside = np.hypot(x - 150, y - 100) < 60
    photo = np.where(inside[..., None], 230, rng.integers(20, 60, (200, 300, 3))).astype(np.uint8)
    segmenter = Segmenter(fake_preset, refiner="closed_form", device="cpu")
    assert segmenter(photo).note is None
    monkeypatch.setattr(pipeline.models.refiners.closed_form, "MOST_PX", 10)
    first, second = segmenter([photo, np.zeros_like(photo)])
    assert first.note == "closed_form gave up after 1e-05 million pixels; guided did the rest, 100% of the band"
    assert second.note is None, "it has no band"


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    script = "import sys; import pipeline.segmenter; print(*{'transformers', 'pymatting', 'numba'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split() == []
    assert load_preset("u2netp").recipe.refiner == "cgm"


def test_weights_of_one_s_own_for_cgm_make_another_recipe(fake_preset: str, tmp_path: Path) -> None:
    job = load_job(manifest=str(tmp_path), output=str(tmp_path / "out"), preset=fake_preset, overrides=["recipe.refiner=cgm"])
    bundled, _, path, _ = pin_recipe(job.recipe, Files())
    assert path == BUNDLED and bundled.refiner_weights_sha256 == CGM_SHA256
    mine = tmp_path / "mine.safetensors"
    save_file({key: 0.5 * value for key, value in load_file(BUNDLED).items()}, mine)
    own = load_job(
        manifest=str(tmp_path),
        output=str(tmp_path / "out"),
        preset=fake_preset,
        overrides=["recipe.refiner=cgm", f"recipe.refiner_weights={mine}"],
    ).recipe
    with pytest.raises(ConfigError, match="no refiner_weights_sha256 yet"):
        own.fingerprint()
    own, _, path, _ = pin_recipe(own, Files())
    assert path == mine
    assert own.fingerprint() != bundled.fingerprint()
    assert "refiner_weights_sha256" in bundled.facts() and str(BUNDLED) not in str(bundled.facts())
