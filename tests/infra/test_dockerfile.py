"""The Dockerfile passes hadolint, does not run as root, pins its dependencies and copies files that exist."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "infra" / "Dockerfile"


@pytest.fixture
def text() -> str:
    return DOCKERFILE.read_text(encoding="utf-8")


def lint(text: str, want: Callable[[str], NoReturn]) -> list[str]:
    """Return the findings of hadolint."""
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        want("hadolint is not installed")
    done = subprocess.run([hadolint, "--no-color", "-"], input=text, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def last_user(text: str) -> str:
    """Return the user of the final stage, root by default."""
    last_stage = re.split(r"^FROM ", text, flags=re.MULTILINE)[-1]
    return (re.findall(r"^USER (\S+)$", last_stage, re.MULTILINE) or ["root"])[-1]


def copied(text: str) -> list[str]:
    """Return the paths that are copied from the build context."""
    lines = [line for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) if "--from" not in line]
    return [source for line in lines for source in line.split()[:-1]]


def test_hadolint_finds_nothing(text: str, want: Callable[[str], NoReturn], bars: Any) -> None:
    bars.at_most("findings of hadolint", len(lint(text, want)), 0)


def test_the_user_is_numeric_and_not_root(text: str) -> None:
    assert last_user(text) == "1000:1000"  # runAsNonRoot cannot check a name


def test_dependencies_are_pinned_by_the_lock_file(text: str) -> None:
    installs = re.findall(r"pip install (.+?)(?: && |$)", re.sub(r"\s*\\\n\s*", " ", text), re.MULTILINE)
    assert len(installs) == 2
    assert all("-c requirements.lock" in line or "--no-deps" in line for line in installs)


def test_copied_files_exist_and_are_in_the_build_context(text: str) -> None:
    sources = copied(text)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line[1:] for line in ignored if line.startswith("!")]
    assert "*" in ignored
    assert {"pipeline", "jobs", "configs", "infra", "requirements.lock"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) for pattern in kept), f"{source} is excluded by .dockerignore"


def test_no_weights_are_baked_in_by_default(text: str) -> None:
    assert 'ARG WEIGHTS=""' in text


def test_baked_weights_are_outside_every_volume(text: str) -> None:
    """Kubernetes mounts an empty volume at the cache."""
    (baked,) = re.findall(r"MATTELINE_BAKED=(\S+)", text)
    assert f"MATTELINE_CACHE={baked} python" in text
    mounts = re.findall(r"mountPath: ([^\s,}]+)", (ROOT / "infra" / "base" / "rayjob.yaml").read_text(encoding="utf-8"))
    assert mounts and not any(Path(baked).is_relative_to(mount) for mount in mounts)


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [("USER root", "DL3002"), ("USER 1000:1000\nRUN cd /tmp && ls", "DL3003"), ("USER 1000:1000\nRUN sudo ls", "DL3004")],
)
def test_hadolint_finds_a_planted_mistake(text: str, wrong: str, rule: str, want: Callable[[str], NoReturn]) -> None:
    assert any(rule in line for line in lint(text.replace("USER 1000:1000", wrong), want))


def test_last_user_recognises_root(text: str) -> None:
    assert last_user(text.replace("USER 1000:1000", "USER root")) == "root"
    assert last_user(text.replace("USER 1000:1000\n", "")) == "root"


def stub_wheel(folder: Path, version: str) -> None:
    """Write an empty wheel of PyTorch and the page of an index that lists it."""
    info, tag = f"torch-{version}.dist-info", "py3-none-any"
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    (folder / "torch").mkdir(parents=True)
    name = f"torch-{version}-{tag}.whl"
    with zipfile.ZipFile(folder / "torch" / name, "w") as wheel:
        for path, text in (files | {f"{info}/RECORD": record}).items():
            wheel.writestr(path, text)
    (folder / "torch" / "index.html").write_text(f'<a href="{name.replace("+", "%2B")}">{name}</a>')


def test_the_cpu_build_is_chosen_from_an_extra_index(text: str, tmp_path: Path) -> None:
    """The lock file's pin allows it, and pip prefers it to PyPI's build of the same version."""
    (pinned,) = re.findall(r"^torch==(\S+)$", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    stub_wheel(tmp_path / "pypi", pinned)
    stub_wheel(tmp_path / "cpu", f"{pinned}+cpu")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    command = [sys.executable, "-m", "pip", "install", "--isolated", "--dry-run", "--quiet", "--target", str(tmp_path / "site")]
    pin = ["-c", str(ROOT / "requirements.lock"), "--report", "-"]
    index = ["--index-url", (tmp_path / "pypi").as_uri(), "--extra-index-url", (tmp_path / "cpu").as_uri()]
    done = subprocess.run([*command, *pin, *index, "torch"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (torch,) = json.loads(done.stdout)["install"]
    assert torch["metadata"]["version"] == f"{pinned}+cpu"
    assert '--extra-index-url "$TORCH_INDEX"' in text and "-c requirements.lock" in text
    guide = (ROOT / "pipeline" / "INSTALL.md").read_text(encoding="utf-8")
    assert "-c requirements.lock --extra-index-url https://download.pytorch.org/whl/cpu" in guide


def test_one_range_of_pythons_is_named_everywhere() -> None:
    """In the package, the workflow, the Makefile and the guide."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [word.rpartition(" ")[2] for word in project["classifiers"] if "Python ::" in word]
    assert named == ["3.11", "3.12", "3.13"] and project["requires-python"] == ">=3.11,<3.14"
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert yaml.safe_load(workflow)["jobs"]["ci"]["strategy"]["matrix"]["python"] == named
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "Python 3.11, 3.12 or 3.13" in (ROOT / "pipeline" / "INSTALL.md").read_text(encoding="utf-8")


def test_the_guide_lists_every_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    table = (ROOT / "pipeline" / "INSTALL.md").read_text(encoding="utf-8").partition("| extra |")[2]
    assert set(re.findall(r"`(\w+)`", table.partition("\n\n")[0])) - {"matteline"} == set(extras) - {"dev"}
