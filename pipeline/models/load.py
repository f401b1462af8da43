"""Load the models of the PyTorch pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError
from pipeline.models.check import needed_file
from pipeline.models.engines.convert import OpenVinoModel
from pipeline.models.engines.forks import note_load
from pipeline.models.engines.onnx_model import OnnxModel
from pipeline.models.engines.openvino import NATIVE_ENGINE, choose_engine
from pipeline.models.failures import segment_errors
from pipeline.models.fake_model import FakeModel
from pipeline.models.forward import Frames, Normalise, choose_device, compute_in_full, to_logits
from pipeline.models.layouts import check_frame
from pipeline.models.mvanet.checkpoint import load_mvanet

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Type of parameters and activations for each ``recipe.precision``."""


class Model(Protocol):
    """A loaded model."""

    frame_px: int
    device: torch.device
    engine: str
    """``torch``, ``openvino``, ``onnxruntime`` or ``none``."""

    def __call__(self, frames: Frames) -> Tensor:
        """Predict the logits of a batch.

        Args:
            frames: (N, S, S, 3) uint8 RGB, S = ``frame_px``.

        Returns:
            (N, S, S) float32 on ``device``. They may be not finite; callers must check.

        Raises:
            SegmentError: The forward pass failed.
        """
        ...


class MvanetModel:
    """MVANet with its recipe's normalisation and precision. Norms and softmax accumulate in float32 in any precision.

    Args:
        network: Maps (N, 3, S, S) of ``dtype`` on ``device`` to logits (N, 1, S, S): an ``MVANet`` or an ``OpenVinoModel``.
        recipe: Its frame size, normalisation and activation are used.
        device: The network's device.
        dtype: Type of the network's input.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], recipe: Recipe, device: torch.device, dtype: torch.dtype) -> None:
        self.frame_px, self.device = recipe.frame_px, device
        self.engine = "openvino" if isinstance(network, OpenVinoModel) else "torch"
        self.network, self.dtype, self.activation = network, dtype, recipe.activation
        self.normalise = Normalise(recipe, device)

    def __call__(self, frames: Frames) -> Tensor:
        """See ``Model``."""
        with torch.inference_mode(), segment_errors(len(frames)):
            x = self.normalise(frames).to(self.dtype)  # (N, 3, S, S)
            return to_logits(self.network(x)[:, 0], self.activation)  # (N, S, S)


def load_model(
    recipe: Recipe,
    weights: Path | None,
    *,
    device: str = "auto",
    threads: int | None = None,
    engine: str = "auto",
    cache: Path | None = None,
) -> Model:
    """Load a recipe's model.

    Args:
        recipe: With a fixed precision.
        weights: The file of ``recipe.weights`` on this machine; None for the fake.
        device: ``auto`` (CUDA if available), ``cpu`` or ``cuda``.
        threads: CPU threads; PyTorch's are set for the whole process.
        engine: As ``compute.engine``.
        cache: Folder of converted graphs on this machine.

    Raises:
        ConfigError: The device is missing, or cannot compute in the recipe's precision; or this process is a fork of one that
            had loaded a model.
        WeightsError: The file cannot be used.
    """
    note_load()
    chosen = choose_device(device)
    compute_in_full(chosen.type)
    if threads is not None:
        torch.set_num_threads(threads)
    if recipe.model == "fake":
        return FakeModel(recipe.frame_px, chosen)
    path = needed_file(recipe, weights)
    if recipe.model == "onnx":
        return OnnxModel(path, recipe, device=device, threads=threads, engine=engine, cache=cache)
    check_frame(recipe.frame_px)
    dtype = DTYPES[recipe.precision]
    check_precision(recipe.precision, chosen)
    if choose_engine(engine, NATIVE_ENGINE[recipe.model], chosen.type) == "openvino":
        build = functools.partial(load_mvanet, path, device=chosen, dtype=torch.float32)
        sha256 = recipe.weights_sha256
        cache = cache if sha256 else None  # without a hash, the graphs of two files would share a name
        compiled = OpenVinoModel(
            build,
            sha256 or "",
            recipe.frame_px,
            recipe.precision,
            threads=threads,
            cache=cache,
            weights_bytes=path.stat().st_size,
        )
        return MvanetModel(compiled, recipe, chosen, torch.float32)
    return MvanetModel(load_mvanet(path, device=chosen, dtype=dtype), recipe, chosen, dtype)


def check_precision(precision: str, device: torch.device) -> None:
    """Check that a device can compute in a precision.

    Raises:
        ConfigError: It cannot; the message names one that it can.
    """
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("recipe.precision=fp16 is for GPUs; use bf16 or fp32 on a CPU")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise ConfigError(f"{name} can't compute in bf16; use recipe.precision=fp16 or fp32")
