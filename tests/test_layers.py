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
    {"errors", "types", "schema", "log", "concurrency", "paths"},
    {"config", "deploy"},
    {"storage", "imaging"},
    {"quality"},
    {"models"},
    {"manifest"},
    {"output"},
    {"datasets"},
    {"segmenter"},
    {"video"},
    {"run"},
    {"detect"},
    {"review"},
    {"serve"},
    {"evaluate"},
    {"training"},
    {"bench"},
    {"jobs"},
]
"""A module may import its own folder and what stands above it."""

HOMES = {
    "torch": ("pipeline.models", "pipeline.training", "pipeline.bench"),
    "transformers": ("pipeline.models.detectors.zero_shot",),
    "timm": ("pipeline.models", "pipeline.training"),
    "onnxruntime": ("pipeline.models",),
    "openvino": ("pipeline.models", "pipeline.bench"),
    "sklearn": ("pipeline.quality.calibration_fit",),
    "py_sod_metrics": ("pipeline.quality.metrics",),
    "ray": ("pipeline.run", "pipeline.detect.graph", "pipeline.evaluate.graph", "pipeline.serve.on_ray"),
    "matplotlib": ("pipeline.training.reporting",),
    "cv2": ("pipeline.imaging", "pipeline.quality", "pipeline.run.stages.process", "pipeline.training", "pipeline.video"),
    "av": ("pipeline.video",),
    "PIL": ("pipeline.imaging", "pipeline.bench", "pipeline.training"),
    "fsspec": ("pipeline.storage",),
    "s3fs": ("pipeline.storage",),
    "botocore": ("pipeline.storage",),
    "aiohttp": ("pipeline.storage",),
    "pydantic": ("pipeline.config", "pipeline.training.recipe"),
    "typer": ("jobs",),
    "starlette": ("pipeline.serve",),
    "uvicorn": ("pipeline.serve",),
    "h11": ("pipeline.serve",),
}
"""The only modules that may import each heavy library."""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def folder_of(module: str) -> str:
    """Return ``jobs``, or the folder or module directly below ``pipeline``."""
    parts = module.split(".")
    return parts[0] if parts[0] == "jobs" else parts[1]


def layer_of(module: str) -> int:
    for rank, names in enumerate(LAYERS):
        if folder_of(module) in names:
            return rank
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


@pytest.fixture(scope="module")
def imports() -> list[tuple[str, str]]:
    """Pairs of a module and one that it imports."""
    return [(module_of(path), imported) for path in FILES for imported in sorted(imports_of(path))]


def is_allowed(module: str, imported: str) -> bool:
    """Whether a module may import another one."""
    if imported.partition(".")[0] not in {"pipeline", "jobs"} or "pipeline" in (module, imported):
        return True  # the package's front door imports on demand
    ours, theirs = layer_of(module), layer_of(imported)
    return theirs < ours or folder_of(imported) == folder_of(module) or ours == theirs == 0


def test_imports_run_one_way(imports: list[tuple[str, str]]) -> None:
    assert len(imports) > len(FILES)
    assert [f"{module} imports {imported}" for module, imported in imports if not is_allowed(module, imported)] == []
    assert is_allowed("pipeline.run.graph", "pipeline.storage.files")
    assert not is_allowed("pipeline.storage.files", "pipeline.run.graph")


def test_heavy_libraries_have_one_home(imports: list[tuple[str, str]]) -> None:
    homes = {imported: HOMES.get(imported.split(".")[0]) for _, imported in imports}
    assert any(homes.values())
    lost = [(module, imported) for module, imported in imports if not module.startswith(homes[imported] or "")]
    assert [f"{module} imports {imported}, which lives in {homes[imported]}" for module, imported in lost] == []


def test_files_and_functions_stay_small() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 400, f"{path.name} has grown past 400 lines"


def test_no_block_is_ever_dropped() -> None:
    """Ray's max_errored_blocks throws whole blocks away without a word."""
    for path in FILES:
        assert "max_errored_blocks" not in path.read_text(encoding="utf-8"), path


def test_the_root_of_the_package_stays_small() -> None:
    assert len(list((ROOT / "pipeline").glob("*.py"))) <= 8


def test_every_folder_says_what_it_knows_and_may_import() -> None:
    for init in (ROOT / "pipeline").rglob("__init__.py"):
        documented = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""
        assert "mport" in documented and len(documented.splitlines()) >= 2, f"{init} needs a docstring"


def test_workers_without_a_model_do_without_its_libraries() -> None:
    """What they unpickle they import: 300 MB and seconds in every process that only reads, decodes and writes.

    Processes with a model import PyTorch only if it has no graph; see ``test_without_torch``.
    """
    script = """
import sys
from pipeline.run import crash_ledger, driver, ledger_actor, local, on_cluster, worker
from pipeline.run.stages import commit, decode, derive, read, write
print(*{"torch", "timm", "onnxruntime"} & set(sys.modules))
from pipeline.models import check, graph_pass, passes
from pipeline.run.stages import segment
print(*{"torch", "timm", "transformers"} & set(sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split() == []


def test_clients_of_s3_and_http_are_imported_when_an_address_needs_them() -> None:
    """They take a quarter of a second of CPU time, in every process. A missing file is told without them, too."""
    script = (
        "import sys; from pipeline.run import driver; from pipeline.storage.files import Files\n"
        "try: Files().read('missing')\n"
        "except Exception as error: assert 'does not exist' in str(error)\n"
        "print(*{'aiohttp', 'botocore', 's3fs', 'fsspec'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split() == []
