"""Run every command and snippet of the README, and check that documentation and code agree."""

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
PAGES = [path for path in ROOT.rglob("*.md") if not {".venv", "out", ".git"} & set(path.relative_to(ROOT).parts)]
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
    """A folder that looks like a checkout after ``make demo``."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    (folder / "pipeline").symlink_to(ROOT / "pipeline")
    make_photos(folder / "photos", 2)
    return folder


@pytest.mark.timeout(600)
def test_commands(checkout: Path) -> None:
    local = [command for command in commands() if command.startswith(".venv/bin/")]
    assert len(local) >= 5
    for command in local:
        run(["bash", "-c", command], checkout)
    assert (checkout / "out" / "cup.png").exists()
    # The snippets read what the commands have written.
    snippets = [text for kind, text in BLOCKS if kind == "python"]
    assert len(snippets) >= 2
    for snippet in snippets:
        assert run([sys.executable, "-c", snippet], checkout, {"HF_HUB_OFFLINE": "1", "HF_HOME": str(checkout / "hf")})


def test_commands_on_s3(s3: Any, checkout: Path) -> None:
    remote = [command for command in commands() if "s3://" in command]
    assert remote
    s3.make_bucket("shop")
    photos = sorted((checkout / "photos").iterdir())
    for path in photos:
        s3.put("shop", f"photos/{path.name}", path.read_bytes())
    rows = "\n".join(["image_uri", *(f"photos/{path.name}" for path in photos)])
    s3.put("shop", "manifest.csv", rows.encode())
    for command in remote:
        run([sys.executable, "-m", "jobs.main", *command.split()[1:]], checkout, s3.environment)
    assert len([key for key in s3.keys("shop", "cutouts/") if key.endswith(".png")]) == 2 * len(photos)


def test_make_targets_are_what_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for command in commands():
        if command.startswith("make "):
            assert f"\n{command}\n" in ci
            assert f"\n{command.split()[1]}:" in makefile


def test_the_readme_stays_short() -> None:
    lines = README.splitlines()
    assert len(lines) <= 150
    fenced = False
    for line in lines:
        fenced ^= line.startswith("```")
        assert fenced or line.startswith("|") or len(line) <= 160, line
    assert len((ROOT / "BENCHMARKS.md").read_text(encoding="utf-8").splitlines()) <= 250


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (page.parent / path).exists(), path
    for path in re.findall(r"`((?:pipeline|jobs|configs|infra|tests)/[\w./-]+)`", text):
        if path in {"pipeline/configs", "pipeline/infra"}:  # in the wheel only
            continue
        assert (ROOT / path).exists() or (page.parent / path).exists(), path


def test_the_tree_is_true() -> None:
    page = (ROOT / "pipeline" / "README.md").read_text(encoding="utf-8")
    (tree,) = re.findall(r"## The tree\n.*?```\n(.*?)```", page, re.S)
    shown = set()
    for line in tree.splitlines():
        folder = "pipeline" if line.startswith("  ") else ""
        for name in re.findall(r"^\s*\w+/|\w+\.py", line):
            assert (ROOT / folder / name.strip()).exists(), name
            shown.add(name.strip().rstrip("/"))
    parts = {path.name for path in (ROOT / "pipeline").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts - {"__init__.py"} <= shown


def test_every_command_error_code_and_exit_code_is_described() -> None:
    from jobs.main import app
    from pipeline.errors import ITEM_ERRORS

    page = (ROOT / "jobs" / "README.md").read_text(encoding="utf-8")
    names = [command.callback.__name__ for command in app.registered_commands if command.callback]
    for name in [*names, *(str(group.name) for group in app.registered_groups)]:
        assert f"`matteline {name}`" in page, name
        assert (ROOT / "jobs" / f"{name}.py").exists()
    for error in ITEM_ERRORS:
        assert f"`{error.code}`" in page


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_row_belongs_to_a_table_with_a_header(path: Path) -> None:
    assert rows_without_header(path.read_text(encoding="utf-8")) == []


def rows_without_header(text: str) -> list[str]:
    """Rows of tables that a reader would show as text, because no header and no line of dashes are above them."""
    lost: list[str] = []
    block: list[str] = []
    is_code = False
    for line in [*text.splitlines(), ""]:
        is_code ^= line.lstrip().startswith(("```", "~~~"))
        if line.startswith("|") and not is_code:
            block.append(line)
            continue
        if block and not (len(block) > 1 and re.fullmatch(r"\|(?:\s*:?-+:?\s*\|)+\s*", block[1])):
            lost += block
        block = []
    return lost


def test_rows_after_a_blank_line_are_found() -> None:
    table = "| a | b |\n|---|--:|\n| 1 | 2 |\n"
    assert rows_without_header(table) == []
    assert rows_without_header(f"{table}\n| 3 | 4 |\n") == ["| 3 | 4 |"]
    assert rows_without_header("```\n| 3 | 4 |\n```\n") == []
