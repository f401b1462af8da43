"""MVANet as an ONNX file, for whatever runs one; checked against PyTorch before it is called done.

The graph is what ``torch.export`` sees of the network, for one frame at a time. Weights, norms folded, are inside the file.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError, WeightsError
from pipeline.models.engines.onnx import OnnxModel
from pipeline.models.forward import Frames
from pipeline.models.load import MvanetModel
from pipeline.models.mvanet.checkpoint import load_mvanet
from pipeline.models.mvanet.network import MVANet

INPUT, OUTPUT = "frame", "logits"
"""(1, 3, S, S) float32, normalised, and (1, 1, S, S) float32."""

OPSET = 20

CLOSE = 1e-3
"""So far the file's alpha may be from PyTorch's, anywhere."""


def check_can_export() -> None:
    """Refuse before work.

    Raises:
        ConfigError: packages are missing.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"an export needs {' and '.join(missing)}: pip install 'matteline[export]'")


def export_onnx(weights: Path, recipe: Recipe, frames: Frames, target: Path) -> float:
    """A checkpoint as an ONNX file, and the largest difference of its alpha from PyTorch's on some frames.

    Args:
        weights: of any layout that ``load_mvanet`` reads.
        frames: (N, S, S, 3) uint8.

    Raises:
        ConfigError: as ``check_can_export``.
        WeightsError: the weights can't be used, or the difference is more than ``CLOSE``; there is no file then.
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
    """The network's graph for frames of one size, as one file, whole or not at all."""
    partial = path.with_suffix(".partial")
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # of versions and operators that it does without
    try:
        # Without it the trace has the memory layout of another attention than the one that the graph is made of.
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
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
        logging.disable(before)
        partial.unlink(missing_ok=True)


def onnx_recipe(recipe: Recipe, path: Path, sha256: str) -> Recipe:
    """The recipe that runs the file as the network ran before."""
    return recipe.model_copy(
        update={
            "model": "onnx",
            "weights": str(path),
            "weights_sha256": sha256,
            "calibration": "",  # it names the file that it was fitted with
            "calibration_sha256": None,
            "precision": "fp32",
            "activation": "sigmoid",
            "input_name": INPUT,
            "output_name": OUTPUT,
        }
    )


def compare(network: MVANet, recipe: Recipe, path: Path, frames: Frames) -> float:
    """The largest difference of alpha between the file, run by ONNX Runtime, and the network in PyTorch.

    Args:
        frames: (N, S, S, 3) uint8.

    Raises:
        WeightsError: it is more than ``CLOSE``.
    """
    exported = OnnxModel(path, onnx_recipe(recipe, path, ""), device="cpu", engine="onnxruntime")
    original = MvanetModel(network, recipe, torch.device("cpu"), torch.float32)
    off = float(np.abs(original(frames).sigmoid().numpy() - exported(frames).sigmoid().numpy()).max())
    if not off <= CLOSE:
        raise WeightsError(f"{path}: its alpha is up to {off:.2g} from PyTorch's; the limit is {CLOSE:g}")
    return off
