"""Small stand-ins for what the pack in ``infra/comfyui`` imports of ComfyUI, which is on no package index.

``make comfyui-check`` runs the pack in ComfyUI itself.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

PACK = Path(__file__).resolve().parents[2] / "infra" / "comfyui"


class Slot:
    """An input or output, with what it was declared with."""

    def __init__(self, io_type: str, id: str, display_name: str | None = None, **facts: Any) -> None:
        self.io_type, self.id, self.display_name, self.facts = io_type, id, display_name, facts


def kind(io_type: str) -> Any:
    """Return a type of ``comfy_api.latest.io``."""

    def slot(id: str, display_name: str | None = None, **facts: Any) -> Slot:
        return Slot(io_type, id, display_name, **facts)

    return SimpleNamespace(io_type=io_type, Input=slot, Output=slot)


def of_several_types(widget: Slot, types: list[Any]) -> Slot:
    """Return ``io.MultiType.Input``: a widget that can also be connected to other types."""
    return Slot(",".join([widget.io_type, *(one.io_type for one in types)]), widget.id, **widget.facts)


class Schema(SimpleNamespace):
    """Whatever a node declares."""


class NodeOutput:
    """What a node gives: ``args`` has one value per output."""

    def __init__(self, *args: Any, ui: Any = None) -> None:
        self.args, self.ui = args, ui


class ComfyNode:
    """The base of nodes."""


class ComfyExtension:
    """The base of packs."""


class ExecutionBlocker:
    """A value that keeps nodes from being run."""

    def __init__(self, message: str | None) -> None:
        self.message = message


class ProgressBar:
    """A progress bar that remembers; ``stop_at`` is a person who presses the stop button."""

    stop_at: int | None = None
    seen: list[tuple[int, int]]

    def __init__(self, total: int) -> None:
        self.total = total
        ProgressBar.seen = []

    def update_absolute(self, value: int) -> None:
        ProgressBar.seen.append((value, self.total))
        if value == ProgressBar.stop_at:
            raise InterruptedError


class FolderPaths(ModuleType):
    """ComfyUI's folders, below one of a test."""

    def __init__(self, base: Path) -> None:
        super().__init__("folder_paths")
        self.base, self.models_dir = base, str(base / "models")
        self.folders: dict[str, list[str]] = {}

    def add_model_folder_path(self, name: str, path: str) -> None:
        self.folders.setdefault(name, []).append(path)

    def get_folder_paths(self, name: str) -> list[str]:
        return self.folders[name]

    def get_output_directory(self) -> str:
        return str(self.base / "output")

    def get_save_image_path(self, prefix: str, folder: str, width: int, height: int) -> tuple[str, str, int, str, str]:
        target = Path(folder) / prefix
        target.parent.mkdir(parents=True, exist_ok=True)
        number = len(list(target.parent.glob(f"{target.name}_*")))
        return str(target.parent), target.name, number + 1, str(Path(prefix).parent), prefix


def load_pack(base: Path) -> ModuleType:
    """Load the pack as ComfyUI does, in an interpreter that has the stand-ins. ``base`` is ComfyUI's folder."""
    names = ("Image", "Mask", "String", "Combo", "Float", "Int", "Boolean", "BBOX")
    io = SimpleNamespace(
        **{name: kind(name.upper()) for name in names},
        **{"Custom": kind, "MultiType": SimpleNamespace(Input=of_several_types)},
        **{"Schema": Schema, "NodeOutput": NodeOutput, "ComfyNode": ComfyNode},
    )
    device = SimpleNamespace(get_torch_device=lambda: torch.device("cpu"))
    contents: dict[str, dict[str, Any]] = {
        "comfy_api": {},
        "comfy_api.latest": {"io": io, "ComfyExtension": ComfyExtension},
        "comfy": {"model_management": device},
        "comfy.utils": {"ProgressBar": ProgressBar},
        "comfy_execution": {},
        "comfy_execution.graph": {"ExecutionBlocker": ExecutionBlocker},
    }
    for name, content in contents.items():
        module = sys.modules[name] = ModuleType(name)
        vars(module).update(content)
    sys.modules["folder_paths"] = FolderPaths(base)
    name = "matteline_in_comfyui"  # ComfyUI's name of it is its path
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py", submodule_search_locations=[str(PACK)])
    assert spec is not None and spec.loader is not None
    pack = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    return pack
