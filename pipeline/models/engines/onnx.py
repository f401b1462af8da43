"""Any salient-object network in an ONNX file: U²-Net, ISNet, BiRefNet, BEN2 and their like, by the recipe's settings.

The file may use ONNX Runtime's own operators only, and must hold its weights itself.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as runtime
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its usual name)

from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError, SegmentError, WeightsError
from pipeline.models.engines.openvino import OpenVinoFile, choose_engine
from pipeline.models.forward import Frames, Normalise, choose_device, one_thread, to_logits
from pipeline.models.tensors import read_head

CUDA = "CUDAExecutionProvider"

Images = npt.NDArray[np.floating[Any]]
"""(N, channels, height, width)."""

KINDS: dict[str, type[np.floating[Any]]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
"""What a graph may take and give."""

RUN_ERRORS = (
    runtime.Fail,
    runtime.RuntimeException,
    runtime.InvalidArgument,
    runtime.NotImplemented,
    runtime.EPFail,
    MemoryError,
    RuntimeError,
)
"""What ONNX Runtime raises when a frame can't be computed, and OpenVINO, which has one kind only."""


class OnnxModel:
    """A graph in OpenVINO on a CPU, if it can run it, else in ONNX Runtime, which is also the judge of what the file is.

    Args:
        path: the ONNX file.
        device: ``auto`` is CUDA where PyTorch finds a GPU and this ONNX Runtime can use it.
        threads: of one forward pass on a CPU; absent, the engine's own choice.
        engine: as ``compute.engine``.
        check: only whether it can be used; opens a large file faster.

    Raises:
        WeightsError: not an ONNX file, or a graph that isn't an image-to-alpha network.
        ConfigError: the recipe doesn't fit the graph, the device isn't there, or the engine can't be had for it.
    """

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        *,
        device: str = "auto",
        threads: int | None = None,
        engine: str = "auto",
        check: bool = False,
    ) -> None:
        self.frame_px = recipe.frame_px
        self.activation = recipe.activation
        self.device = _choose_device(device)
        self.normalise = Normalise(recipe, torch.device("cpu"))
        tries_openvino = choose_engine(engine, "onnxruntime", self.device) == "openvino" and not check
        session = _open(path, self.device, threads, optimise=not (tries_openvino or check))
        given = _choose(session.get_inputs(), recipe.input_name, "input", path)
        output = _choose(session.get_outputs(), recipe.output_name, "output", path)
        self.kind, self.one_by_one = _check_input(given, recipe.frame_px, path)
        others = [one.name for one in session.get_inputs() if one.name != given.name]
        if others:
            raise WeightsError(f"{path} also wants the input {others[0]!r}; only networks of one image can be run")
        _check_output(output, path)
        compiled = self._compiled_model(path, given.name, output.name, threads, engine) if tries_openvino else None
        if tries_openvino and compiled is None:
            session = _open(path, self.device, threads, optimise=True)
        self.engine = "onnxruntime" if compiled is None else "openvino"
        self.one_by_one = self.one_by_one or compiled is not None
        self.run: Callable[[Images], Images] = compiled or (lambda x: session.run([output.name], {given.name: x})[0])

    @one_thread()
    def __call__(self, frames: Frames) -> Tensor:
        """(N, S, S, 3) uint8 to logits (N, S, S) float32 on the model's device.

        Raises:
            SegmentError: the graph failed, or gave something that is not one map an image.
        """
        with torch.inference_mode():
            x = self.normalise(frames).numpy().astype(self.kind)  # (N, 3, S, S)
            parts = np.split(x, len(x)) if self.one_by_one else [x]
            try:
                outputs = [self.run(part) for part in parts]
            except RUN_ERRORS as error:
                raise SegmentError(f"the ONNX graph failed on a batch of {len(frames)}: {_first_line(error)}") from error
            output = torch.from_numpy(np.concatenate(outputs)).to(self.device)
            return to_logits(_one_map(output, len(frames), self.frame_px), self.activation)

    def _compiled_model(self, path: Path, given: str, output: str, threads: int | None, engine: str) -> OpenVinoFile | None:
        """The graph in OpenVINO; None if that can't run it.

        Raises:
            ConfigError: it can't, and it was asked for by name.
        """
        try:
            compiled = OpenVinoFile(path, given, output, self.frame_px, threads)
            compiled(np.zeros((1, 3, self.frame_px, self.frame_px), self.kind))
        except RuntimeError as error:
            if engine == "openvino":
                raise ConfigError(
                    f"OpenVINO can't run {path.name} ({_first_line(error)}); use compute.engine=onnxruntime"
                ) from error
            return None
        return compiled


def _one_map(output: Tensor, batch: int, frame_px: int) -> Tensor:
    """(N, 1, s, s) or (N, s, s) as (N, S, S), float32."""
    if output.ndim == 4 and output.shape[1] == 1:
        output = output[:, 0]
    if output.ndim != 3 or len(output) != batch:
        raise SegmentError(f"the ONNX graph gave {list(output.shape)} for {batch} images; it must be one map an image")
    output = output.float()
    if output.shape[1:] != (frame_px, frame_px):
        output = F.interpolate(output[:, None], size=(frame_px, frame_px), mode="bilinear", align_corners=False)[:, 0]
    return output


def _choose_device(name: str) -> torch.device:
    device = choose_device(name)
    if device.type == "cpu" or CUDA in onnxruntime.get_available_providers():
        return device
    if name == "cuda":
        raise ConfigError(
            "compute.device is cuda, but this ONNX Runtime was built without it; "
            "install onnxruntime-gpu in place of onnxruntime, or use compute.device=cpu"
        )
    return torch.device("cpu")


def _open(path: Path, device: torch.device, threads: int | None, *, optimise: bool) -> Any:
    """A session over the file.

    Raises:
        WeightsError, ConfigError: as ``OnnxModel``.
    """
    read_head(path)
    if _keeps_weights_elsewhere(path):
        raise WeightsError(
            f"{path} keeps weights in a second file, which no hash of this one covers; save it again as a single file"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised; it needn't be printed as well
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        providers.insert(0, (CUDA, {"device_id": device.index or 0}))
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise WeightsError(
            f"{path} can't be run by ONNX Runtime {onnxruntime.__version__}; get the file anew, or export it for this version "
            f"({_first_line(error)})"
        ) from error
    if device.type == "cuda" and CUDA not in session.get_providers():
        raise ConfigError(
            "ONNX Runtime could not start on the GPU: its CUDA or cuDNN libraries are missing or of another version; "
            "install those that it asks for, or use compute.device=cpu"
        )
    return session


def _keeps_weights_elsewhere(path: Path) -> bool:
    """Whether a tensor of the graph names a second file for its numbers.

    Looks for the bytes of an entry of ``TensorProto.external_data`` (field 13) with the key ``location`` (onnx.proto).
    """
    key = b"\x0a\x08location\x12"
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(key)
        while at >= 0:
            if re.search(rb"\x6a[\x0b-\xff][\x01-\x7f]?\Z", content[max(0, at - 3) : at], re.DOTALL):
                return True
            at = content.find(key, at + 1)
    return False


def _choose(candidates: list[Any], name: str | None, kind: str, path: Path) -> Any:
    """The graph's input or output by name, or its first."""
    if name is None:
        if not candidates:
            raise WeightsError(f"{path} has no {kind}")
        return candidates[0]
    for candidate in candidates:
        if candidate.name == name:
            return candidate
    known = ", ".join(candidate.name for candidate in candidates)
    raise ConfigError(f"recipe.{kind}_name is {name!r}, but {path.name} has {known}")


def _check_input(given: Any, frame_px: int, path: Path) -> tuple[type[np.floating[Any]], bool]:
    """The number type to feed, and whether only one image fits at a time."""
    if given.type not in KINDS:
        raise WeightsError(f"{path}: the input {given.name!r} is {given.type}; it must be float or float16")
    shape = given.shape
    if len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
        raise WeightsError(f"{path}: the input {given.name!r} is {shape}; it must be [batch, 3, height, width]")
    fixed = {side for side in shape[2:] if isinstance(side, int)}
    if len(fixed) > 1:
        raise WeightsError(f"{path}: the input {given.name!r} is {shape}; frames are square")
    if fixed and fixed != {frame_px}:
        raise ConfigError(
            f"recipe.frame_px is {frame_px}, but {path.name} takes {fixed.pop()} only; set recipe.frame_px to that"
        )
    if isinstance(shape[0], int) and shape[0] != 1:
        raise WeightsError(f"{path}: the batch is fixed at {shape[0]}; export it with 1 or with a dynamic batch")
    return KINDS[given.type], bool(shape[0] == 1)


def _check_output(output: Any, path: Path) -> None:
    if output.type not in KINDS:
        raise WeightsError(f"{path}: the output {output.name!r} is {output.type}; it must be float or float16")
    shape = output.shape
    if shape and (len(shape) not in {3, 4} or (len(shape) == 4 and isinstance(shape[1], int) and shape[1] != 1)):
        raise ConfigError(
            f"the output {output.name!r} of {path.name} is {shape}, not one map an image; set recipe.output_name to another"
        )


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:200]
