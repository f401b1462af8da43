"""Check a recipe's files before any work, importing PyTorch only for files that no prebuilt graph was made from."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.recipe import CGM_SHA256, Recipe
from pipeline.models.engines.openvino import check_engine
from pipeline.models.graphs.bundled import network_graph


def check_files(recipe: Recipe, weights: Path | None, refiner_weights: Path | None, engine: str) -> None:
    """Refuse unusable weights without loading them.

    Args:
        recipe: Its hashes are known, and the files have them.
        weights: The file of ``recipe.weights`` on this machine; None for the fake.
        refiner_weights: The file of ``recipe.refiner_weights``; None for a refiner without weights.
        engine: As ``compute.engine``.

    Raises:
        ConfigError: Recipe and engine do not fit together.
        WeightsError: A file is not of the layout that the recipe names.
    """
    if network_graph(recipe) is None:
        _check_model(recipe, weights, engine)
    else:  # these are the bundled weights, as their hash says
        check_engine(engine, "torch", *(["onnxruntime"] if recipe.precision == "fp32" else []))
    if recipe.refiner == "cgm" and recipe.refiner_weights_sha256 != CGM_SHA256:
        from pipeline.models.refiners.load import check_refiner  # imports PyTorch

        check_refiner(recipe, refiner_weights)


def _check_model(recipe: Recipe, weights: Path | None, engine: str) -> None:
    if recipe.model == "onnx" and weights is not None:
        from pipeline.models.engines.onnx import OnnxNetwork

        check_engine(engine, "onnxruntime")
        OnnxNetwork(weights, recipe, device="cpu", threads=1, check=True)
    elif recipe.model != "fake":
        from pipeline.models.load import check_weights  # imports PyTorch

        check_weights(recipe, weights, engine)


def can_use_gpu(recipe: Recipe) -> bool:
    """Return whether this installation can run the recipe's models on a GPU, whether or not there is one."""
    if recipe.second is not None and not can_use_gpu(recipe.second.recipe):
        return False
    if recipe.model != "onnx":
        return True
    from pipeline.models.engines.ort import has_cuda_provider

    return has_cuda_provider()
