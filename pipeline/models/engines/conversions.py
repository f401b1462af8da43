"""Tell whether a network must be converted to OpenVINO, and how long that takes. Imports neither PyTorch nor OpenVINO."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.config.recipe import Recipe
from pipeline.models.engines.openvino import has_openvino
from pipeline.models.graphs.bundled import network_graph
from pipeline.storage.weights_cache import cache_folder

GRAPH_VERSION = 1
"""Part of every cached graph's name. Raise it when a change of the network code changes what the graph computes."""

LARGE_BYTES = 100_000_000
"""Size of a weights file from which a conversion takes long. BEN2's has 380 MB."""


def graph_name(weights_sha256: str, frame_px: int) -> str:
    """Hash everything that a graph depends on: weights, frame size, graph version and the versions of the libraries."""
    versions = " ".join(f"{library} {version(library)}" for library in ("openvino", "torch", "timm"))
    return hashlib.sha256(f"{weights_sha256} {frame_px} {GRAPH_VERSION} {versions}".encode()).hexdigest()[:24]


def making(weights_bytes: int) -> str:
    """Say that a graph is being made, and how long that takes on two cores."""
    seconds = "about 20 s" if weights_bytes >= LARGE_BYTES else "some seconds"
    return f"making the network's graph for this CPU: {seconds}, once per weights and machine"


def needs_conversion(recipe: Recipe, engine: str) -> bool:
    """Return whether a process on a CPU of this machine would convert the recipe's network before its first pass.

    Args:
        recipe: Its hashes are known.
        engine: As ``compute.engine``.
    """
    if recipe.model != "mvanet" or engine == "torch" or not has_openvino() or network_graph(recipe) is not None:
        return False
    try:
        return not (cache_folder("graphs") / graph_name(recipe.weights_sha256 or "", recipe.frame_px)).is_dir()
    except PackageNotFoundError:
        return False


def weights_bytes(weights: Path | None) -> int:
    """Return the size of a weights file; 0 without one."""
    return 0 if weights is None else weights.stat().st_size
