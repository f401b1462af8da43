"""Imports run one way, and heavy libraries have one home."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted([*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")])

LAYERS = [
    {"pipeline.errors"},
    {"pipeline.types"},
    {"pipeline.schema"},
    {"pipeline.settings"},
    {"pipeline.rendition", "pipeline.page"},
    {"pipeline.recipe"},
    {"pipeline.config", "pipeline.log", "pipeline.examples", "pipeline.stopping", "pipeline.deploy"},
    {"pipeline.imaging", "pipeline.models", "pipeline.storage"},
    {"pipeline.quality"},
    {"pipeline.training", "pipeline.backgrounds", "pipeline.labelled", "pipeline.copies", "pipeline.sampling"},
    {"pipeline.segmenter"},
    {"pipeline.stages", "pipeline.preflight"},
    {"pipeline.cluster"},
    {"pipeline.flow", "pipeline.report", "pipeline.verify", "pipeline.dataset", "pipeline.gallery", "pipeline.verdicts"},
    {"pipeline.acceptance", "pipeline.garbage", "pipeline.compare", "pipeline.cost", "pipeline.progress", "pipeline.notify"},
    {"pipeline.run", "pipeline.pages", "pipeline.watch"},
    {"pipeline.evaluate"},
    {"pipeline.bench"},
    {"jobs"},
]
HOMES = {
    "torch": ("pipeline.models", "pipeline.training", "pipeline.bench"),
    "timm": ("pipeline.models", "pipeline.training"),
    "onnxruntime": ("pipeline.models",),
    "pymatting": ("pipeline.models.closed_form",),
    "transformers": ("pipeline.models.vitmatte_weights",),
    "sklearn": ("pipeline.quality.fitting",),
    "openvino": ("pipeline.models", "pipeline.bench"),
    "py_sod_metrics": ("pipeline.quality.metrics",),
    "ray": (
        "pipeline.cluster",
        "pipeline.flow",
        "pipeline.evaluate.flow",
        "pipeline.stages.ledger",
        "pipeline.stages.source",
        "pipeline.stages.metrics",
    ),
    "matplotlib": ("pipeline.training.tell",),
    "cv2": ("pipeline.imaging", "pipeline.quality", "pipeline.stages.worker", "pipeline.training"),
    "PIL": ("pipeline.imaging", "pipeline.bench", "pipeline.training"),
    "fsspec": ("pipeline.storage",),
    "s3fs": ("pipeline.storage",),
    "botocore": ("pipeline.storage",),
    "pydantic": ("pipeline.settings", "pipeline.rendition", "pipeline.recipe", "pipeline.config", "pipeline.training.recipe"),
    "typer": ("jobs",),
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> tuple[int, str]:
    for rank, names in enumerate(LAYERS):
        for name in names:
            if module == name or module.startswith(name + "."):
                return rank, name
    raise AssertionError(f"{module} is in no layer; add it to LAYERS")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(str(node.module))
    return found


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_run_one_way(path: Path) -> None:
    module = module_of(path)
    if module == "pipeline":  # the package's front door, which imports on demand
        return
    rank, name = layer_of(module)
    for imported in imports_of(path):
        if imported.split(".")[0] not in {"pipeline", "jobs"} or imported == "pipeline":
            continue
        their_rank, their_name = layer_of(imported)
        assert their_rank < rank or their_name == name, f"{module} must not import {imported}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_heavy_libraries_have_one_home(path: Path) -> None:
    module = module_of(path)
    for imported in imports_of(path):
        homes = HOMES.get(imported.split(".")[0])
        assert homes is None or module.startswith(homes), f"{module} imports {imported}, which lives in {homes}"


def test_files_and_functions_stay_small() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 400, f"{path.name} has grown past 400 lines"


def test_no_block_is_ever_dropped() -> None:
    """Ray's max_errored_blocks throws whole blocks away without a word."""
    for path in FILES:
        assert "max_errored_blocks" not in path.read_text(encoding="utf-8"), path


def test_workers_without_a_model_do_without_its_libraries() -> None:
    """What they unpickle they import: 300 MB and seconds in every process that only reads, decodes and writes."""
    stages = "admit, commit, decode, finish, ledger, source"
    heavy = f"import sys; from pipeline.stages import {stages}; print(*{{'torch', 'timm', 'onnxruntime'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout.split() == []
