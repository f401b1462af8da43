"""Run any salient-object network from an ONNX file, such as U²-Net, ISNet, BiRefNet or BEN2, by the recipe's settings.

The file may use only ONNX Runtime's own operators, and must contain its weights.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError, SegmentError, WeightsError
from pipeline.imaging.frame import look_up, resize_map
from pipeline.models.devices import DeviceType, effective_device
from pipeline.models.engines.openvino import OpenVinoFile, choose_engine
from pipeline.models.engines.ort import CUDA, RUN_ERRORS, has_cuda_provider, session_options
from pipeline.models.failures import first_line
from pipeline.models.heads import read_head
from pipeline.models.host_frames import check_frames
from pipeline.storage.weights_cache import file_sha256

Images = npt.NDArray[np.floating[Any]]
"""(N, channels, height, width)."""

Maps = npt.NDArray[np.float32]

DTYPES: dict[str, type[np.floating[Any]]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
"""Types of a graph's input and output that can be used, by ONNX Runtime's names."""


class OnnxNetwork:
    """An ONNX graph: in OpenVINO on a CPU if it can run it, else in ONNX Runtime. ONNX Runtime checks the file in any case.

    Args:
        path: The ONNX file.
        recipe: Its frame size, normalisation, activation and tensor names are used.
        device: ``auto`` is CUDA if there is a GPU and this ONNX Runtime can use it.
        device_id: Number of the GPU.
        threads: Threads per forward pass on a CPU; default: the engine's choice.
        engine: As ``compute.engine``.
        check: Only check that the file can be used, which opens a large file faster.
        bundled: The file belongs to the package: it is not checked, and may keep its weights in another file of the package.
        cache: Folder of compiled graphs; None: no cache.

    Raises:
        WeightsError: Not an ONNX file, or its graph does not map images to alpha.
        ConfigError: The recipe does not fit the graph, or the device or engine is not available.
    """

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        *,
        device: str = "auto",
        device_id: int = 0,
        threads: int | None = None,
        engine: str = "auto",
        check: bool = False,
        bundled: bool = False,
        cache: Path | None = None,
    ) -> None:
        self.frame_px = recipe.frame_px
        self.weights_sha256, self.cache = recipe.weights_sha256, cache
        self.activation = recipe.activation
        self.device = _choose_device(device)
        self.normalise = Normalise(recipe)
        try_openvino = choose_engine(engine, "onnxruntime", self.device) == "openvino" and not check
        if bundled and try_openvino:
            self.run: Callable[[Images], Images] = self._open_in_openvino(path, "frame", "logits", threads)
            self.engine, self.dtype, self.one_by_one = "openvino", np.float32, True
            return
        if not bundled:
            refuse_external_weights(path)
        session = open_session(path, self.device, device_id, threads, optimise=not (try_openvino or check))
        image = _find(session.get_inputs(), recipe.input_name, "input", path)
        output = _find(session.get_outputs(), recipe.output_name, "output", path)
        self.dtype, self.one_by_one = _check_input(image, recipe.frame_px, path)
        others = [one.name for one in session.get_inputs() if one.name != image.name]
        if others:
            raise WeightsError(f"{path} also wants the input {others[0]!r}; only networks of one image can be run")
        _check_output(output, path)
        compiled = self._try_openvino(path, image.name, output.name, threads, engine) if try_openvino else None
        if try_openvino and compiled is None:
            session = open_session(path, self.device, device_id, threads, optimise=True)
        self.engine = "onnxruntime" if compiled is None else "openvino"
        self.one_by_one = self.one_by_one or compiled is not None
        self.run = compiled or (lambda x: session.run([output.name], {image.name: x})[0])

    def __call__(self, frames: npt.NDArray[np.uint8]) -> Maps:
        """Map (N, S, S, 3) uint8 to logits (N, S, S) float32. They may be not finite; callers must check.

        Raises:
            SegmentError: The graph failed, or did not return one map per image.
        """
        x = self.normalise(frames).astype(self.dtype, copy=False)  # (N, 3, S, S)
        parts = np.split(x, len(x)) if self.one_by_one else [x]
        try:
            outputs = [self.run(part) for part in parts]
        except RUN_ERRORS as error:
            raise SegmentError(f"the ONNX graph failed on a batch of {len(frames)}: {first_line(error)}") from error
        return to_logits(_to_maps(np.concatenate(outputs), len(frames), self.frame_px), self.activation)

    def _open_in_openvino(self, path: Path, image: str, output: str, threads: int | None) -> OpenVinoFile:
        # A graph of the package has its weights in another file.
        content = None if self.cache is None else f"{file_sha256(path)} {self.weights_sha256}"
        return OpenVinoFile(path, image, output, self.frame_px, threads, content=content, cache=self.cache)

    def _try_openvino(self, path: Path, image: str, output: str, threads: int | None, engine: str) -> OpenVinoFile | None:
        """Compile the graph in OpenVINO; None if OpenVINO cannot run it.

        Raises:
            ConfigError: It cannot, and ``engine`` is ``openvino``.
        """
        try:
            compiled = self._open_in_openvino(path, image, output, threads)
            compiled(np.zeros((1, 3, self.frame_px, self.frame_px), self.dtype))
        except RuntimeError as error:
            if engine == "openvino":
                raise ConfigError(
                    f"OpenVINO can't run {path.name} ({first_line(error)}); use compute.engine=onnxruntime"
                ) from error
            return None
        return compiled


class Normalise:
    """Convert frames to the network's input. ``models.forward`` has the same for tensors."""

    def __init__(self, recipe: Recipe) -> None:
        self.frame_px, self.scale = recipe.frame_px, recipe.scale
        self.mean, self.std = (np.array(one, np.float32).reshape(3, 1) for one in (recipe.mean, recipe.std))
        self.tables = self._tables_up_to(255)

    def __call__(self, frames: npt.NDArray[np.uint8]) -> Maps:
        """Return (x - mean) / std as (N, 3, S, S) float32, where x is divided by 255 or by each frame's maximum.

        Raises:
            ValueError: As ``check_frames``.
        """
        check_frames(frames, self.frame_px)
        x = np.empty((len(frames), 3, self.frame_px, self.frame_px), np.float32)
        for frame, planes in zip(frames, x, strict=True):
            # A black frame has the maximum 0, and stays black.
            look_up(frame, self._tables_up_to(max(int(frame.max()), 1)) if self.scale == "max" else self.tables, planes)
        return x

    def _tables_up_to(self, highest: int) -> Maps:
        """Return the input for each level of each channel, (3, 256), where ``highest`` counts as 1."""
        levels = np.arange(256, dtype=np.float32) / np.float32(highest)
        return (levels - self.mean) / self.std


def to_logits(output: Images, activation: str) -> Maps:
    """Convert a graph's raw output to float32 logits; with the activation ``none`` the output is a probability."""
    output = output.astype(np.float32, copy=False)
    if activation == "sigmoid":
        return output
    p = output.clip(1e-6, 1 - 1e-6)
    logits: Maps = np.log(p / (1 - p))
    return logits


def _to_maps(output: Images, batch: int, frame_px: int) -> Maps:
    """Convert (N, 1, s, s) or (N, s, s) to (N, S, S) float32."""
    if output.ndim == 4 and output.shape[1] == 1:
        output = output[:, 0]
    if output.ndim != 3 or len(output) != batch:
        raise SegmentError(
            f"the ONNX graph returned an output of shape {list(output.shape)} for {batch} images; it must be one map per image"
        )
    output = output.astype(np.float32, copy=False)
    if output.shape[1:] != (frame_px, frame_px):
        output = np.stack([resize_map(one, frame_px) for one in output])
    return output


def _choose_device(name: str) -> DeviceType:
    device = effective_device(name, "onnx")
    if device == "cuda" and not has_cuda_provider():
        raise ConfigError(
            "compute.device is cuda, but this ONNX Runtime was built without it; "
            "install onnxruntime-gpu in place of onnxruntime, or use compute.device=cpu"
        )
    return device


def refuse_external_weights(path: Path) -> None:
    """Refuse a file whose weights are in another one.

    Raises:
        WeightsError: They are, or the file cannot be read.
    """
    read_head(path)
    if _has_external_weights(path):
        raise WeightsError(
            f"{path} keeps its weights in a second file, which the hash of this file does not cover; save the model as one file"
        )


def open_session(path: Path, device: DeviceType, device_id: int, threads: int | None, *, optimise: bool) -> Any:
    """Open an ONNX Runtime session.

    Raises:
        WeightsError: As ``OnnxNetwork``.
        ConfigError: As ``OnnxNetwork``.
    """
    options = session_options(threads, optimise=optimise)
    providers: list[Any] = ["CPUExecutionProvider"]
    if device == "cuda":
        providers.insert(0, (CUDA, {"device_id": device_id, "use_tf32": 0}))
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise WeightsError(
            f"{path} can't be run by ONNX Runtime {onnxruntime.__version__}; download it again, or export it for this version "
            f"({first_line(error)})"
        ) from error
    if device == "cuda" and CUDA not in session.get_providers():
        raise ConfigError(
            "ONNX Runtime could not start on the GPU: its CUDA or cuDNN libraries are missing or of another version; "
            "install those that it asks for, or use compute.device=cpu"
        )
    return session


_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 11: "attribute"},
}
"""Fields of ONNX messages that lead to tensors (onnx.proto)."""

_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
"""Fields of a tensor: where its numbers are in another file, and whether they are."""


def _has_external_weights(path: Path) -> bool:
    """Return whether a tensor of the graph keeps its numbers in another file, in whatever order its fields are."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        messages = [("model", 0, len(content))]
        while messages:
            kind, start, end = messages.pop()
            for field, value in _fields(content, start, end):
                is_external = field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0)
                if kind == "tensor" and is_external:
                    return True
                if isinstance(value, tuple) and field in _MESSAGES.get(kind, {}):
                    messages.append((_MESSAGES[kind][field], *value))
    return False


def _fields(content: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
    """Yield number and value of the fields of a protobuf message: an integer, or start and end. Stops at invalid bytes."""
    while at < end:
        key, at = _varint(content, at, end)
        wire = key & 7
        if wire == 0:
            value, at = _varint(content, at, end)
            yield key >> 3, value
        elif wire == 2:
            length, at = _varint(content, at, end)
            if at + length > end:
                return
            yield key >> 3, (at, at + length)
            at += length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            return


def _varint(content: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """Return a base-128 number and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
    return value, at


def _find(candidates: list[Any], name: str | None, kind: str, path: Path) -> Any:
    """Return the graph's input or output of this name, or its first."""
    if name is None:
        if not candidates:
            raise WeightsError(f"{path} has no {kind}")
        return candidates[0]
    for candidate in candidates:
        if candidate.name == name:
            return candidate
    known = ", ".join(candidate.name for candidate in candidates)
    raise ConfigError(f"recipe.{kind}_name is {name!r}, but {path.name} has {known}")


def _check_input(image: Any, frame_px: int, path: Path) -> tuple[type[np.floating[Any]], bool]:
    """Return the input's number type, and whether the graph takes only one image at a time."""
    if image.type not in DTYPES:
        raise WeightsError(f"{path}: the input {image.name!r} is {image.type}; it must be float or float16")
    shape = image.shape
    if len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
        raise WeightsError(f"{path}: the input {image.name!r} is {shape}; it must be [batch, 3, height, width]")
    fixed = {side for side in shape[2:] if isinstance(side, int)}
    if len(fixed) > 1:
        raise WeightsError(f"{path}: the input {image.name!r} is {shape}; frames are square")
    if fixed and fixed != {frame_px}:
        raise ConfigError(
            f"recipe.frame_px is {frame_px}, but {path.name} takes {fixed.pop()} only; set recipe.frame_px to that"
        )
    if isinstance(shape[0], int) and shape[0] != 1:
        raise WeightsError(f"{path}: the batch is fixed at {shape[0]}; export it with 1 or with a dynamic batch")
    return DTYPES[image.type], bool(shape[0] == 1)


def _check_output(output: Any, path: Path) -> None:
    if output.type not in DTYPES:
        raise WeightsError(f"{path}: the output {output.name!r} is {output.type}; it must be float or float16")
    shape = output.shape
    if shape and (len(shape) not in {3, 4} or (len(shape) == 4 and isinstance(shape[1], int) and shape[1] != 1)):
        raise ConfigError(
            f"the output {output.name!r} of {path.name} is {shape}, not one map per image; set recipe.output_name to another"
        )
