"""Between upload and download, the host never waits for the device.

A CUDA graph can capture calls that neither wait for the device nor copy from the host. PyTorch dispatches such calls on any
device, so they can be recorded on a CPU; on ``meta``, where tensors have shapes but no numbers, reading a number fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.errors import ConfigError
from pipeline.imaging.frame import place
from pipeline.models import devices, load
from pipeline.models.engines import forks, onnx
from pipeline.models.engines.ort import CUDA
from pipeline.models.forward import Normalise, to_host, to_logits
from pipeline.models.mvanet.network import BEN2, MVANET, Variant
from pipeline.models.resample import DeviceFrames
from pipeline.models.signals import measure_signals

WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "bincount", "repeat_interleave"}
"""Calls whose result or its size depends on the device's numbers. Indexing with a boolean mask is another one."""

INDEXING = {"index", "index_put", "index_put_"}

COPIES = {"lift_fresh", "scalar_tensor", "_to_copy", "_pin_memory", "set_"}
"""Calls that copy from the host. ``_to_copy`` does unless it only changes the type."""


class Calls(TorchDispatchMode):
    """Record these calls, and ``arange``, which copies too."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[str] = []
        self.blocking: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        self.all.append(name)
        moved = name != "_to_copy" or "device" in (kwargs or {}) or "pin_memory" in (kwargs or {})
        masked = name in INDEXING and any(isinstance(one, torch.Tensor) and one.dtype == torch.bool for one in args[1])
        if name in WAITS or masked or (name in COPIES and moved) or name == "arange":
            self.blocking.append(str(function))
        return function(*args, **(kwargs or {}))


def test_the_recorder_finds_blocking_calls() -> None:
    x = torch.ones(3)
    with Calls() as calls:
        float(x[0])
        x[x > 0]
        torch.tensor([1.0])
        torch.arange(3)
        x.to("meta")
        x.double()  # does not block
    assert calls.blocking == [
        "aten._local_scalar_dense.default",
        "aten.index.Tensor",
        "aten.lift_fresh.default",
        "aten.arange.default",
        "aten._to_copy.default",
    ]


@pytest.mark.parametrize("variant", [BEN2, MVANET])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_forward_pass_waits_for_nothing_and_copies_nothing(
    small_network: Any, recipe: Any, variant: Variant, dtype: torch.dtype
) -> None:
    network, normalise = small_network(variant).to(dtype), Normalise(recipe("mvanet", frame_px=256), torch.device("cpu"))
    frames = torch.randint(0, 256, (2, 256, 256, 3), dtype=torch.uint8)

    @torch.no_grad()  # in inference mode composite operations would be recorded as one call
    def forward() -> torch.Tensor:
        return to_logits(network(normalise(frames).to(dtype))[:, 0], "sigmoid")

    forward()  # fills the caches by shape
    with Calls() as calls:
        forward()
    assert len(calls.all) > 500
    assert calls.blocking == []


@pytest.mark.parametrize("variant", [BEN2, MVANET])
def test_a_forward_pass_reads_no_number(small_network: Any, variant: Variant) -> None:
    network = small_network(variant).to("meta")
    with torch.inference_mode():
        assert network(torch.empty(3, 3, 256, 256, device="meta")).shape == (3, 1, 256, 256)


@pytest.mark.parametrize("variant", [BEN2, MVANET])
def test_half_precision_keeps_alpha(small_network: Any, variant: Variant) -> None:
    """Norms, softmax and products accumulate in float32, as on GPUs."""
    network = small_network(variant)
    x = torch.randn(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        spread = 4 / network(x).std()  # from certain background to certain object
        network.output.weight *= spread
        network.output.bias *= spread
        alpha = network(x).sigmoid()
        difference = (network.half()(x.half()).float().sigmoid() - alpha).abs()
    assert difference.mean() <= 2e-3
    assert difference.max() <= 0.03


@pytest.mark.parametrize("scale", ["255", "max"])
def test_frames_on_the_device_are_normalised_there(recipe: Any, scale: str) -> None:
    settings = recipe("mvanet", frame_px=128, scale=scale)
    frames = np.random.default_rng(0).integers(0, 200, (2, 128, 128, 3), np.uint8)
    normalise = Normalise(settings, torch.device("cpu"))
    uploaded = torch.from_numpy(frames)
    with Calls() as calls:
        x = normalise(uploaded)
    assert torch.equal(x, normalise(frames))
    assert calls.blocking == []


@pytest.mark.parametrize("frames", [torch.zeros(1, 128, 128, 3), torch.zeros(1, 3, 128, 128, dtype=torch.uint8)])
def test_tensors_of_another_shape_or_type_raise_value_error(recipe: Any, frames: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"frames must be \(N, 128, 128, 3\) uint8"):
        Normalise(recipe("mvanet", frame_px=128), torch.device("cpu"))(frames)


def test_signals_stay_on_the_device() -> None:
    logits, boxes = torch.empty(2, 512, 512, device="meta"), torch.empty(2, 4, device="meta")
    frames = torch.empty(2, 512, 512, 3, dtype=torch.uint8, device="meta")
    table, coarse = measure_signals(
        logits, logits, boxes, frames, torch.empty(2, device="meta"), [torch.empty((), device="meta"), None]
    )
    assert (table.device.type, coarse.device.type) == ("meta", "meta")
    with Calls() as calls:
        frames = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
        logits, boxes = torch.randn(2, 64, 64), torch.full((2, 4), float("nan"))
        measure_signals(logits, logits, boxes, frames, torch.zeros(2), [torch.zeros(()), None])
    assert calls.blocking == []


@pytest.mark.parametrize("rules", [{}, {"stretch": True, "alpha_resize": "plain", "frame_resize": "lanczos"}])
def test_frames_and_masks_are_made_without_waiting(recipe: Any, rules: dict[str, Any]) -> None:
    settings = recipe("fake", frame_px=64, weights="", **rules)
    image = np.random.default_rng(0).integers(0, 256, (150, 90, 3), np.uint8)
    placed, device = place((150, 90), None, settings), DeviceFrames(settings, torch.device("cpu"))
    with Calls() as calls:  # including the tables of a new size
        device.frames([image], [placed])
        device.masks(torch.rand(1, 64, 64), [placed], [None])
    assert calls.blocking == []


def test_to_host_copies_tensors_and_keeps_arrays() -> None:
    original = np.zeros(3, np.uint8)
    tensor, array, other = to_host(torch.arange(4), original, torch.ones(2, 2))
    assert tensor.tolist() == [0, 1, 2, 3] and other.shape == (2, 2)
    assert array is original


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU, and whose copy is page-locked memory: ``arrived``."""

    arrived: torch.Tensor

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda", 0)

    def to(self, *_: Any, **__: Any) -> torch.Tensor:  # type: ignore[override]
        return self.arrived


def test_what_comes_from_a_gpu_is_ordinary_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[str] = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(synchronize=lambda: waits.append("once")))
    arrived = torch.arange(6, dtype=torch.uint8)
    one = torch.zeros(6, dtype=torch.uint8).as_subclass(OnGpu)
    one.arrived = arrived
    mask, same = to_host(one, kept := np.ones(3))
    np.testing.assert_array_equal(mask, arrived)
    assert not np.shares_memory(mask, arrived.numpy()) and same is kept and waits == ["once"]


@pytest.mark.parametrize("model", ["fake", "onnx"])
def test_no_network_on_a_gpu_computes_in_tf32(model: str, recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refiner and estimator convolve beside every model."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(load, "choose_device", lambda _: torch.device("cuda", 0))
    monkeypatch.setattr(load, "OnnxModel", lambda *_, **__: None)
    load.load_model(recipe(model), None if model == "fake" else Path("file"))
    assert not torch.backends.cudnn.allow_tf32


def test_onnx_runtime_does_not_compute_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    class Session:
        def __init__(self, *_: Any, providers: Any) -> None:
            given.extend(providers)

        def get_providers(self) -> list[str]:
            return [CUDA]

    monkeypatch.setattr(onnx.onnxruntime, "InferenceSession", Session)
    onnx.open_session(Path("file"), "cuda", 1, None, optimise=True)
    assert given == [(CUDA, {"device_id": 1, "use_tf32": 0}), "CPUExecutionProvider"]


class Driver:
    """NVIDIA's driver with one GPU."""

    def cuInit(self, _: int) -> int:  # noqa: N802  its name
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802  its name
        count._obj.value = 1
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda _: Driver())
    monkeypatch.setattr(forks, "_process", forks._Process())
    devices.driver_finds_gpu.cache_clear()
    yield
    devices.driver_finds_gpu.cache_clear()


def test_a_process_forked_after_a_look_for_gpus_may_not_use_them(driver: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child would find none, and ``auto`` would be the CPU without a word."""
    assert devices.driver_finds_gpu()
    forks._process.fork()  # what a child does first
    for name in ("auto", "cuda"):
        with pytest.raises(ConfigError, match="forked from one that had looked for GPUs, .* spawn"):
            devices.choose_device_type(name)
    assert devices.choose_device_type("cpu") == "cpu"
    forks.check_fork()  # a CPU runs models there


def test_a_process_forked_before_may(driver: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    forks._process.fork()
    assert devices.choose_device_type("auto") == "cuda"
    forks._process.fork()
    with pytest.raises(ConfigError, match="spawn"):
        devices.choose_device_type("auto")
