"""List the choices of the nodes, and load the models behind them, one of each kind in memory.

Workflows come from strangers, and ComfyUI does not check every value of a list. A name that is not offered is refused, so that
none can be the path of a file.
"""

from functools import cache, lru_cache
from pathlib import Path

import folder_paths
from comfy import model_management

from pipeline.config.detector import detector_names, detector_with
from pipeline.config.presets import DEFAULT_PRESET, load_preset, preset_names
from pipeline.config.rendition import load_rendition, rendition_names
from pipeline.errors import ConfigError
from pipeline.models.detectors.finder import Finder
from pipeline.models.resolve import resolve_finder
from pipeline.segmenter import Segmenter
from pipeline.storage.files import Files

OWN = "matteline"
"""Folder in ComfyUI's ``models`` with the user's own presets, laid out as ``configs/``: renditions and detectors in folders."""

folder_paths.add_model_folder_path(OWN, str(Path(folder_paths.models_dir) / OWN))


def presets() -> dict[str, str]:
    """Return what ``Segmenter`` takes by the name that is shown. Bundled presets of non-commercial licences are left out."""
    return {name: name for name in _bundled_presets()} | _own("*.yaml")


def renditions() -> dict[str, str]:
    """Return what ``load_rendition`` takes by the name that is shown. Bundled ones that are no pictures are left out."""
    return {name: name for name in _bundled_renditions()} | _own("renditions/*.yaml")


def detectors() -> dict[str, str]:
    """Return the ``preset`` of a detector's settings by the name that is shown."""
    return {name: name for name in detector_names()} | _own("detectors/*.yaml")


def choose(kind: str, name: str, offered: dict[str, str]) -> str:
    """Return what a name stands for.

    Raises:
        ConfigError: It is not offered.
    """
    if name not in offered:
        raise ConfigError(f"there is no {kind} {str(name)[:60]!r}; choose from {', '.join(offered)}")
    return offered[name]


@lru_cache(maxsize=1)
def segmenter_of(preset: str) -> Segmenter:
    """Load a preset on the device that ComfyUI uses."""
    return Segmenter(preset, device=_device())


@lru_cache(maxsize=1)
def finder_of(detector: str, threshold: float, max_boxes: int) -> Finder:
    """Load a detector on the device that ComfyUI uses.

    Args:
        detector: Name of a bundled detector, or path of a YAML file.
        threshold: Lowest score of a box; 0: the detector's own.
        max_boxes: Boxes per picture.
    """
    changes = {"preset": detector, "max_boxes": max_boxes} | ({"threshold": threshold} if threshold else {})
    recipe = load_preset(DEFAULT_PRESET).recipe.model_copy(update={"detector": detector_with(changes)})
    files, device = Files(), _device()
    return Finder(resolve_finder(recipe, files, gpu=device == "cuda"), files, device=device, threads=None)


def _device() -> str:
    return "cuda" if model_management.get_torch_device().type == "cuda" else "cpu"


@cache
def _bundled_presets() -> list[str]:
    return [name for name in preset_names() if load_preset(name).commercial]


@cache
def _bundled_renditions() -> list[str]:
    return [name for name in rendition_names() if load_rendition(name).suffix != "json"]


def _own(pattern: str) -> dict[str, str]:
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(OWN)]
    return {path.name: str(path) for folder in folders for path in sorted(folder.glob(pattern))}
