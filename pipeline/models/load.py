"""The one door to every model: ``load_model`` to run one, ``check_weights`` to refuse one in seconds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import onnxruntime
import torch
from torch import Tensor

from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError, WeightsError
from pipeline.models.engines.onnx import CUDA, OnnxModel
from pipeline.models.engines.openvino import OpenVinoModel, check_engine, choose_engine
from pipeline.models.fake import FakeModel
from pipeline.models.forward import Frames, Normalise, choose_device, segment_errors, to_logits
from pipeline.models.mvanet.checkpoint import load_mvanet, recognise
from pipeline.models.mvanet.network import FRAME_STEP_PX

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""``recipe.precision`` as the type of parameters and activations."""


OWN_ENGINE = {"mvanet": "torch", "onnx": "onnxruntime"}
"""What runs a ``recipe.model`` where OpenVINO doesn't."""


class Model(Protocol):
    """A model in memory."""

    frame_px: int
    device: torch.device
    engine: str
    """``torch``, ``openvino``, ``onnxruntime`` or ``none``."""

    def __call__(self, frames: Frames) -> Tensor:
        """Logits of a batch.

        Args:
            frames: (N, S, S, 3) uint8 RGB, S = ``frame_px``.

        Returns:
            (N, S, S) float32 on ``device``. They may be not finite; that is the caller's to judge.

        Raises:
            SegmentError: the forward pass failed.
        """
        ...


HALF_HOLDS = frozenset({"ben2", "mvanet", "finegrain"})
"""Layouts whose alpha in fp16 stays within 0.002 of fp32's on average, and 999 of 1000 pixels within 0.02, as the parity tests
show on the golden weights. In bf16 none does (0.0034 and more), nor does any ONNX file that was tried."""


class MvanetModel:
    """MVANet with its recipe's normalisation and precision. Norms and softmax accumulate in float32 in any precision.

    Args:
        network: (N, 3, S, S) of ``dtype`` on ``device`` to logits (N, 1, S, S): an ``MVANet``, or one frozen in OpenVINO.
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


def resolve_precision(recipe: Recipe, weights: Path | None, *, gpu: bool) -> Recipe:
    """The recipe with a precision in place of ``auto``: half on GPUs where that keeps alpha, else fp32.

    The same for every CPU, so that a run may go on elsewhere.

    Raises:
        WeightsError: as ``check_weights``.
    """
    if recipe.precision != "auto":
        return recipe
    half = gpu and recipe.model == "mvanet" and recognise(_path(recipe, weights)) in HALF_HOLDS
    return recipe.model_copy(update={"precision": "fp16" if half else "fp32"})


def load_model(
    recipe: Recipe,
    weights: Path | None,
    *,
    device: str = "auto",
    threads: int | None = None,
    engine: str = "auto",
    cache: Path | None = None,
) -> Model:
    """A recipe's model, ready to run.

    Args:
        weights: the file that ``recipe.weights`` names, on this machine; None for the fake.
        device: ``auto`` (CUDA where there is some), ``cpu`` or ``cuda``.
        threads: CPU threads; PyTorch's are set for the whole process.
        engine: see ``compute.engine``.
        cache: folder for what an engine makes of weights once, on this machine.

    Raises:
        ConfigError: the device isn't there, or can't compute in the recipe's precision.
        WeightsError: the file can't be used.
    """
    chosen = choose_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    if recipe.model == "fake":
        return FakeModel(recipe.frame_px, chosen)
    path = _path(recipe, weights)
    if recipe.model == "onnx":
        return OnnxModel(path, recipe, device=device, threads=threads, engine=engine)
    _check_frame(recipe)
    dtype = DTYPES[recipe.precision]
    check_precision(recipe.precision, chosen)
    if choose_engine(engine, OWN_ENGINE[recipe.model], chosen) == "openvino":
        network = functools.partial(load_mvanet, path, device=chosen, dtype=torch.float32)
        kept = cache if recipe.weights_sha256 else None  # nothing else would tell two files' graphs apart
        compiled = OpenVinoModel(
            network, recipe.weights_sha256 or "", recipe.frame_px, recipe.precision, threads=threads, cache=kept
        )
        return MvanetModel(compiled, recipe, chosen, torch.float32)
    if chosen.type == "cuda" and dtype == torch.float32:
        torch.backends.cudnn.allow_tf32 = False  # else convolutions keep 10 bits of the mantissa, and fp32 isn't
    return MvanetModel(load_mvanet(path, device=chosen, dtype=dtype), recipe, chosen, dtype)


def check_weights(recipe: Recipe, weights: Path | None, engine: str = "auto") -> None:
    """Refuse a weights file without loading it, on any machine: its layout or graph, and whether recipe and engine fit it.

    Raises:
        ConfigError, WeightsError: as ``load_model``, except for the device.
    """
    if recipe.model in OWN_ENGINE:
        check_engine(engine, OWN_ENGINE[recipe.model])
    if recipe.model == "mvanet":
        _check_frame(recipe)
        recognise(_path(recipe, weights))
    elif recipe.model == "onnx":
        OnnxModel(_path(recipe, weights), recipe, device="cpu", threads=1, check=True)


def can_use_gpu(recipe: Recipe) -> bool:
    """Whether this installation can run the recipe's model on a GPU at all; whether there is one is another question."""
    return recipe.model != "onnx" or CUDA in onnxruntime.get_available_providers()


def _path(recipe: Recipe, weights: Path | None) -> Path:
    if weights is None:
        raise WeightsError(f"the model {recipe.model} needs a weights file; set recipe.weights")
    return weights


def _check_frame(recipe: Recipe) -> None:
    if recipe.frame_px % FRAME_STEP_PX:
        raise ConfigError(f"recipe.frame_px must be a multiple of {FRAME_STEP_PX} for mvanet, not {recipe.frame_px}")


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse a precision that a device hasn't.

    Raises:
        ConfigError: naming one that it has.
    """
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("recipe.precision=fp16 is for GPUs; use bf16 or fp32 on a CPU")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise ConfigError(f"{name} can't compute in bf16; use recipe.precision=fp16 or fp32")
