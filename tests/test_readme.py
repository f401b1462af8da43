"""Every command and snippet of the README is run here, in the README's order; `make …` is what CI runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.M | re.S)
MakePhotos = Callable[..., list[Path]]


def commands() -> list[str]:
    lines = [line.split("  #")[0].strip() for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
    return [line for line in lines if line]


def run(command: list[str], folder: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | (env or {}), capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, make_photos: MakePhotos) -> Path:
    """A folder that looks like a checkout whose environment is set up."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    (folder / "pipeline").symlink_to(ROOT / "pipeline")
    make_photos(folder / "photos", 2)
    return folder


@pytest.mark.timeout(600)
def test_commands(checkout: Path) -> None:
    ours = [command for command in commands() if command.startswith(".venv/bin/")]
    assert len(ours) >= 7
    for command in ours:
        run(["bash", "-c", command], checkout)
    assert (checkout / "out" / "cup.png").exists()
    # The snippets read what the commands have made.
    snippets = [text for kind, text in BLOCKS if kind == "python"]
    assert len(snippets) >= 4
    for snippet in snippets:
        assert run([sys.executable, "-c", snippet], checkout, {"HF_HUB_OFFLINE": "1", "HF_HOME": str(checkout / "hf")})


def test_commands_on_s3(s3: Any, checkout: Path) -> None:
    ours = [command for command in commands() if "s3://" in command]
    assert ours
    s3.make_bucket("shop")
    photos = sorted((checkout / "photos").iterdir())
    for path in photos:
        s3.put("shop", f"photos/{path.name}", path.read_bytes())
    rows = "\n".join(["image_uri", *(f"photos/{path.name}" for path in photos)])
    s3.put("shop", "manifest.csv", rows.encode())
    for command in ours:
        run([sys.executable, "-m", "jobs.main", *command.split()[1:]], checkout, s3.environment)
    assert len([key for key in s3.keys("shop", "cutouts/") if key.endswith(".png")]) == 2 * len(photos)


def test_make_targets_are_what_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for command in commands():
        if command.startswith("make "):
            assert f"\n{command}\n" in ci
            assert f"\n{command.split()[1]}:" in makefile


def test_the_tree_and_the_links_are_true() -> None:
    for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path
    (tree,) = re.findall(r"## The tree\n\n```\n(.*?)```", README, re.S)
    for line in tree.splitlines():
        indent = "pipeline/" if line.startswith("  ") else ""
        names = re.split(r"\s{2,}", line.strip())[0]
        for name in names.split():
            assert (ROOT / indent / name).exists(), name


def test_every_column_and_preset_is_described() -> None:
    from pipeline.config.presets import preset_names
    from pipeline.schema import INDEX, SIGNALS

    for name in [*INDEX.names, *(field.name for field in SIGNALS), *preset_names()]:
        assert f"`{name}`" in README, name
