"""Check a recipe's files before any work, importing PyTorch only for files that ``layouts`` does not know."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.recipe import CGM_SHA256, Recipe
from pipeline.errors import WeightsError
from pipeline.models.devices import can_run_on_gpu
from pipeline.models.engines.openvino import NATIVE_ENGINE, check_engine
from pipeline.models.graphs.bundled import network_graph
from pipeline.models.heads import read_head
from pipeline.models.layouts import CGM, check_frame, layout_of


def check_files(
    recipe: Recipe, weights: Path | None, refiner_weights: Path | None, engine: str, *, headers_only: bool = False
) -> None:
    """Refuse unusable weights without loading them.

    Args:
        recipe: Its hashes are known, and the files have them.
        weights: The file of ``recipe.weights`` on this machine; None for the fake.
        refiner_weights: The file of ``recipe.refiner_weights``; None for a refiner without weights.
        engine: As ``compute.engine``.
        headers_only: True for what takes no time, because the model is loaded next: ONNX files are not opened, and layouts that
            only PyTorch can tell are not refused.

    Raises:
        ConfigError: Recipe and engine do not fit together.
        WeightsError: A file is not of the layout that the recipe names.
    """
    if network_graph(recipe) is None:
        check_weights(recipe, weights, engine, headers_only=headers_only)
    else:  # these are the bundled weights, as their hash says
        check_engine(engine, "torch", *(["onnxruntime"] if recipe.precision == "fp32" else []))
    if recipe.refiner == "cgm" and recipe.refiner_weights_sha256 != CGM_SHA256 and _layout(refiner_weights) != CGM:
        if headers_only:
            return
        from pipeline.models.refiners.load import check_refiner  # imports PyTorch

        check_refiner(recipe, refiner_weights)


def check_weights(recipe: Recipe, weights: Path | None, engine: str = "auto", *, headers_only: bool = False) -> None:
    """Check the layout or the graph of ``recipe.weights``, and that recipe and engine fit it. Arguments: see ``check_files``.

    Raises:
        ConfigError: Recipe and engine do not fit together.
        WeightsError: The file is missing, or not of the layout that the recipe names.
    """
    if recipe.model == "fake":
        return
    check_engine(engine, NATIVE_ENGINE[recipe.model])
    if recipe.model == "mvanet":
        check_frame(recipe.frame_px)
    path = needed_file(recipe, weights)
    if recipe.model == "mvanet":
        if layout_of(path) in (None, CGM) and not headers_only:
            from pipeline.models.mvanet.checkpoint import recognise  # imports PyTorch

            recognise(path)
    elif headers_only:
        read_head(path)
    else:
        from pipeline.models.engines.onnx import OnnxNetwork

        OnnxNetwork(path, recipe, device="cpu", threads=1, check=True)


def needed_file(recipe: Recipe, weights: Path | None) -> Path:
    """Return the file of ``recipe.weights``.

    Raises:
        WeightsError: The recipe names none.
    """
    if weights is None:
        raise WeightsError(f"the model {recipe.model} needs a weights file; set recipe.weights")
    return weights


def _layout(weights: Path | None) -> str | None:
    return None if weights is None else layout_of(weights)


def can_use_gpu(recipe: Recipe) -> bool:
    """Return whether this installation can run the recipe's models on a GPU, whether or not there is one."""
    recipes = [recipe] if recipe.second is None else [recipe, recipe.second.recipe]
    return all(can_run_on_gpu(one.model) for one in recipes)
