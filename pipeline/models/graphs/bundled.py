"""Find the prebuilt graph of a recipe's network, and tell whether a recipe runs in graphs alone."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from pipeline.config.recipe import CGM_SHA256, Recipe
from pipeline.paths import WEIGHTS

FEW_PICTURES = 6
"""Pictures up to which opening a graph quickly matters more than running it quickly."""

INDEX = "graphs.json"
"""File beside the graphs that says what each was made from: ``graph_version``, ``frame_px``, ``weights_sha256``."""


@functools.cache
def index() -> dict[str, dict[str, Any]]:
    """Return the content of ``INDEX`` by file name."""
    entries: dict[str, dict[str, Any]] = json.loads((WEIGHTS / INDEX).read_text(encoding="utf-8"))
    return entries


def of_frame(name: str, frame_px: int) -> str:
    """Return the file name of a graph for frames of this side: ``measure``, ``sharpen`` or ``unknown``."""
    return f"{name}-{frame_px}.onnx"


def network_graph(recipe: Recipe) -> Path | None:
    """Return the graph of a recipe's MVANet; None if none was made from its weights for its frame size."""
    if recipe.model != "mvanet" or recipe.weights_sha256 is None:
        return None
    made_from = recipe.weights_sha256, recipe.frame_px
    for name, entry in index().items():
        if (entry.get("weights_sha256"), entry.get("frame_px")) == made_from:
            return WEIGHTS / name
    return None


def engine_for(pictures: int, recipe: Recipe, device: str) -> str:
    """Return the engine with which a new process has so many masks soonest, as ``compute.engine``.

    ONNX Runtime opens mvanet-lite's graph in 0.3 s of CPU time and needs 0.3 s per pass; OpenVINO 1.0 s and 0.2 s.
    """
    on_a_cpu = recipe.model_copy(update={"precision": "fp32"}) if recipe.precision == "auto" else recipe
    few = pictures <= FEW_PICTURES and runs_in_graphs(on_a_cpu, device, "onnxruntime")
    if recipe.second is not None and few:
        return engine_for(pictures, recipe.second.recipe, device)
    return "onnxruntime" if few else "auto"


def runs_in_graphs(recipe: Recipe, device: str, engine: str) -> bool:
    """Return whether a recipe runs in graphs, without PyTorch: on a CPU, in fp32, if every part has a graph.

    Args:
        recipe: With known hashes and a fixed precision.
        device: ``cpu`` or ``cuda``.
        engine: As ``compute.engine``.
    """
    if (
        device != "cpu"
        or recipe.precision != "fp32"
        or engine == "torch"
        or of_frame("measure", recipe.frame_px) not in index()
    ):
        return False
    refiner_has_graph = recipe.refiner != "cgm" or recipe.refiner_weights_sha256 == CGM_SHA256
    return refiner_has_graph and (recipe.model != "mvanet" or network_graph(recipe) is not None)
