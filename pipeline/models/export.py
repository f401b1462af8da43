"""Export MVANet as an ONNX file, and compare it with PyTorch before it is kept.

The graph comes from ``torch.export`` and takes one frame at a time. Weights, with norms fused, are inside the file.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError, WeightsError
from pipeline.models.engines.convert import mute_warnings
from pipeline.models.engines.onnx_model import OnnxModel
from pipeline.models.forward import Frames
from pipeline.models.load import MvanetModel
from pipeline.models.mvanet.checkpoint import load_mvanet
from pipeline.models.mvanet.network import MVANet

INPUT, OUTPUT = "frame", "logits"
"""Names of the input (1, 3, S, S) float32, normalised, and of the output (1, 1, S, S) float32."""

OPSET = 20

MAX_DIFFERENCE = 1e-3
"""Largest allowed difference between the file's alpha and PyTorch's."""


def check_can_export() -> None:
    """Check that the packages for an export are installed.

    Raises:
        ConfigError: Packages are missing.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"an export needs {' and '.join(missing)}: pip install 'matteline[export]'")


def export_onnx(weights: Path, recipe: Recipe, frames: Frames, target: Path) -> float:
    """Export a checkpoint, and return the largest difference of its alpha from PyTorch's on some frames.

    Args:
        weights: Of any layout that ``load_mvanet`` reads.
        recipe: The recipe of the weights.
        frames: (N, S, S, 3) uint8.
        target: The ONNX file; it is deleted if the difference is too large.

    Raises:
        ConfigError: As ``check_can_export``.
        WeightsError: The weights cannot be used, or the difference exceeds ``MAX_DIFFERENCE``.
    """
    check_can_export()
    network = load_mvanet(weights, device=torch.device("cpu"), dtype=torch.float32)
    write_onnx(network, recipe.frame_px, target)
    try:
        return compare(network, recipe, target, frames)
    except WeightsError:
        target.unlink()
        raise


def write_onnx(network: MVANet, frame_px: int, path: Path) -> None:
    """Write the network's graph for one frame size as a single file, by atomic rename."""
    partial = path.with_suffix(".partial")
    try:
        # Other attention kernels have another memory layout, which the trace would keep.
        with mute_warnings(), warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (torch.zeros(1, 3, frame_px, frame_px),),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                verbose=False,
            )
            assert program is not None
            program.save(str(partial), external_data=False)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def onnx_recipe(recipe: Recipe, path: Path, sha256: str) -> Recipe:
    """Return the recipe that runs the exported file as ``recipe`` ran the network."""
    return recipe.model_copy(
        update={
            "model": "onnx",
            "weights": str(path),
            "weights_sha256": sha256,
            "calibration": "",  # it is valid for the original weights only
            "calibration_sha256": None,
            "precision": "fp32",
            "activation": "sigmoid",
            "input_name": INPUT,
            "output_name": OUTPUT,
        }
    )


def compare(network: MVANet, recipe: Recipe, path: Path, frames: Frames) -> float:
    """Return the largest difference of alpha between the file, in ONNX Runtime, and the network, in PyTorch.

    Args:
        network: The network that was exported.
        recipe: Its recipe.
        path: The ONNX file.
        frames: (N, S, S, 3) uint8.

    Raises:
        WeightsError: The difference exceeds ``MAX_DIFFERENCE``.
    """
    exported = OnnxModel(path, onnx_recipe(recipe, path, ""), device="cpu", engine="onnxruntime")
    original = MvanetModel(network, recipe, torch.device("cpu"), torch.float32)
    difference = float(np.abs(original(frames).sigmoid().numpy() - exported(frames).sigmoid().numpy()).max())
    if not difference <= MAX_DIFFERENCE:
        raise WeightsError(
            f"{path}: its alpha differs from PyTorch's by up to {difference:.2g}; the limit is {MAX_DIFFERENCE:g}"
        )
    return difference
