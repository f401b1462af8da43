"""Loading models: devices, precisions, engines, normalisation, and errors of the forward pass."""

from __future__ import annotations

import gzip
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, SegmentError, WeightsError
from pipeline.models import resolve
from pipeline.models.check import check_weights
from pipeline.models.engines import openvino
from pipeline.models.engines.openvino import choose_engine
from pipeline.models.failures import BrokenDevice
from pipeline.models.fake import SOFTNESS, THRESHOLD, FakeNetwork
from pipeline.models.fake_model import FakeModel
from pipeline.models.forward import Normalise, choose_device, to_logits
from pipeline.models.load import MvanetModel, load_model
from pipeline.models.mvanet import checkpoint
from pipeline.models.mvanet.network import BEN2, MVANET

CPU = torch.device("cpu")


class RunsCode:
    """Unpickled, it creates a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def _zipped(content: Any, path: Path) -> None:
    torch.save({"state_dict": {"output.0.bias": content}}, path)


def _old_torch(content: Any, path: Path) -> None:
    torch.save({"state_dict": {"output.0.bias": content}}, path, _use_new_zipfile_serialization=False)


def _behind_a_header(content: Any, path: Path) -> None:
    path.write_bytes((2).to_bytes(8, "little") + b"{}" + pickle.dumps(content))


PICKLES: dict[str, Callable[[Any, Path], Any]] = {
    "bare": lambda content, path: path.write_bytes(pickle.dumps(content)),
    "of the first protocol": lambda content, path: path.write_bytes(pickle.dumps(content, 0)),
    "zipped by torch": _zipped,
    "of an old torch": _old_torch,
    "behind the header of safetensors": _behind_a_header,
    "compressed": lambda content, path: path.write_bytes(gzip.compress(pickle.dumps(content))),
}


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "weights.pt", "weights.bin", "weights.onnx"])
@pytest.mark.parametrize("model", ["mvanet", "onnx"])
def test_code_in_a_weights_file_of_any_name_never_runs(recipe: Any, kind: str, name: str, model: str, tmp_path: Path) -> None:
    path, trap = tmp_path / name, tmp_path / "trap"
    PICKLES[kind](RunsCode(trap), path)
    for open_weights in (check_weights, load_model):
        with pytest.raises(WeightsError, match=str(path)):
            open_weights(recipe(model, frame_px=128), path)
    assert not trap.exists()
    if kind == "bare":
        pickle.loads(path.read_bytes())
        assert trap.exists(), "the trap must work"


no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def random_frames(count: int = 2, side: int = 128) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def test_normalise_uses_torchvisions_formula(recipe: Any) -> None:
    frames = random_frames()
    settings = recipe("mvanet", frame_px=128)
    x = Normalise(settings, CPU)(frames)
    wanted = ((frames / 255 - settings.mean) / settings.std).transpose(0, 3, 1, 2)
    assert x.shape == (2, 3, 128, 128) and x.dtype == torch.float32
    np.testing.assert_allclose(x, wanted, atol=1e-5)


def test_read_only_frames_cause_no_warning_and_are_not_changed(recipe: Any) -> None:
    frames = random_frames()
    before = frames.copy()
    frames.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Normalise(recipe("fake", frame_px=128), CPU)(frames)
    assert np.array_equal(frames, before)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((1, 64, 128, 3), np.uint8),
        np.zeros((128, 128, 3), np.uint8),
        np.zeros((1, 128, 128, 3), np.float32),
        np.zeros((0, 128, 128, 3), np.uint8),
    ],
)
def test_frames_of_another_shape_or_type_raise_value_error(frames: Any) -> None:
    for model in (FakeModel(128, CPU), FakeNetwork(128)):
        with pytest.raises(ValueError, match=r"frames must be \(N, 128, 128, 3\) uint8"):
            model(frames)


def test_to_logits_inverts_probabilities() -> None:
    p = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float16)
    assert to_logits(p, "sigmoid").tolist() == [0.0, 0.25, 1.0]
    logits = to_logits(p, "none")
    assert logits.dtype == torch.float32 and torch.isfinite(logits).all()
    torch.testing.assert_close(logits.sigmoid(), p.float(), atol=2e-6, rtol=0)


def test_the_fake_finds_pixels_that_differ_from_the_border(recipe: Any) -> None:
    frames = np.full((2, 64, 64, 3), 230, np.uint8)
    frames[0, 10:30, 20:50] = (200, 30, 40)
    frames[1] = 20
    frames[1, 40:60, 5:15] = 255
    model = load_model(recipe("fake", frame_px=64, weights=""), None, device="cpu")
    logits = model(frames)
    assert model.frame_px == 64 and model.device == CPU
    assert logits.shape == (2, 64, 64) and logits.dtype == torch.float32
    wanted = np.zeros((2, 64, 64), bool)
    wanted[0, 10:30, 20:50] = wanted[1, 40:60, 5:15] = True
    assert np.array_equal(logits.numpy() > 0, wanted)
    luminance = (0.299 * 200 + 0.587 * 30 + 0.114 * 40) / 255
    assert logits[0, 20, 30].item() == pytest.approx((230 / 255 - luminance - THRESHOLD) / SOFTNESS, abs=1e-3)
    torch.testing.assert_close(torch.cat([model(frame[None]) for frame in frames]), logits)
    torch.testing.assert_close(torch.from_numpy(FakeNetwork(64)(frames)), logits, atol=1e-4, rtol=0)


@no_gpu
@pytest.mark.parametrize("model", ["fake", "mvanet", "onnx"])
def test_cuda_without_a_gpu_is_refused(model: str, recipe: Any) -> None:
    with pytest.raises(ConfigError, match="finds no CUDA GPU"):
        load_model(recipe(model), Path("nothing"), device="cuda")


@no_gpu
def test_auto_is_the_cpu_without_a_gpu() -> None:
    assert choose_device("auto") == CPU


def test_fp16_on_a_cpu_is_refused_before_the_file_is_read(recipe: Any) -> None:
    with pytest.raises(ConfigError, match=r"recipe\.precision=fp16 is for GPUs"):
        load_model(recipe("mvanet", precision="fp16"), Path("nothing"), device="cpu")


@pytest.mark.parametrize(
    ("layout", "gpu", "expected"), [("ben2", False, "fp32"), ("ben2", True, "fp16"), ("mvanet", True, "fp32")]
)
def test_auto_precision_depends_on_layout_and_device(
    layout: str, gpu: bool, expected: str, recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "recognise", lambda _path: layout)
    for known in (layout, None):  # PyTorch recognises what ``layouts`` does not know
        monkeypatch.setattr(resolve, "layout_of", lambda _path, known=known: known)
        monkeypatch.setattr(resolve, "FP16_LAYOUTS", frozenset({"ben2"}))
        assert resolve._precision(recipe("mvanet"), Path("file"), gpu) == expected
        assert resolve._precision(recipe("onnx"), Path("file"), gpu) == "fp32"
        assert resolve._precision(recipe("fake"), None, gpu) == "fp32"


@pytest.mark.parametrize("model", ["mvanet", "onnx"])
def test_openvino_is_refused_if_it_is_not_installed(model: str, recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "has_openvino", lambda: False)
    with pytest.raises(ConfigError, match="pip install openvino"):
        load_model(recipe(model), Path("nothing"), device="cpu", engine="openvino")
    with pytest.raises(WeightsError):  # auto continues without it, to the missing file
        load_model(recipe(model), Path("nothing"), device="cpu")


@pytest.mark.parametrize("native", ["torch", "onnxruntime"])
def test_openvino_is_refused_for_a_gpu(native: str) -> None:
    with pytest.raises(ConfigError, match=f"is for CPUs; use compute.engine={native}"):
        choose_engine("openvino", native, "cuda")
    assert choose_engine("auto", native, "cuda") == native


@pytest.mark.parametrize(("model", "engine", "native"), [("mvanet", "onnxruntime", "torch"), ("onnx", "torch", "onnxruntime")])
def test_the_engine_of_another_file_format_is_refused(model: str, engine: str, native: str, recipe: Any) -> None:
    for refuse in (check_weights, lambda *given: load_model(*given[:2], device="cpu", engine=given[2])):
        with pytest.raises(ConfigError, match=f"compute.engine={engine} can't run weights of this kind; use auto, {native} or"):
            refuse(recipe(model), Path("nothing"), engine)


def test_a_model_without_its_file_is_refused(recipe: Any) -> None:
    for model in ("mvanet", "onnx"):
        with pytest.raises(WeightsError, match=f"the model {model} needs a weights file"):
            load_model(recipe(model), None, device="cpu")
        with pytest.raises(WeightsError, match=f"the model {model} needs a weights file"):
            check_weights(recipe(model), None)


def test_a_frame_size_that_is_no_multiple_of_128_is_refused(recipe: Any) -> None:
    odd = recipe("mvanet").model_copy(update={"frame_px": 1000})
    for refuse in (check_weights, lambda *given: load_model(*given, device="cpu")):
        with pytest.raises(ConfigError, match="multiple of 128 for mvanet, not 1000"):
            refuse(odd, Path("nothing"))


def test_check_weights_reads_the_keys(recipe: Any, golden_weights: ModuleType, tmp_path: Path) -> None:
    state = {
        key: torch.zeros((), dtype=getattr(torch, dtype)).expand(shape)
        for key, (shape, dtype) in golden_weights.keys("ben2").items()
    }
    path = tmp_path / "weights.pth"
    torch.save({"model_state_dict": state}, path)
    check_weights(recipe("mvanet"), path)
    check_weights(recipe("fake", weights=""), None)
    del state["output.0.bias"]
    torch.save({"model_state_dict": state}, path)
    with pytest.raises(WeightsError, match=r"output\.0\.bias"):
        check_weights(recipe("mvanet"), path)
    with pytest.raises(WeightsError, match="ONNX Runtime"):
        check_weights(recipe("onnx"), path)


@pytest.mark.parametrize("variant", [BEN2, MVANET], ids=["ben2", "mvanet"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_mvanet_returns_float32_logits(variant: Any, precision: torch.dtype, small_network: Any, recipe: Any) -> None:
    network = small_network(variant)
    frames = random_frames()
    settings = recipe("mvanet", frame_px=128)
    with torch.inference_mode():
        wanted = network(Normalise(settings, CPU)(frames))[:, 0]
    logits = MvanetModel(network.to(precision), settings, CPU, precision)(frames)
    assert logits.shape == (2, 128, 128) and logits.dtype == torch.float32
    assert (logits.sigmoid() - wanted.sigmoid()).abs().mean() < (1e-6 if precision == torch.float32 else 0.02)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "out of GPU memory with 2 frames at once"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "failed on a batch of 2: DefaultCPUAllocator"),
        (MemoryError("no more"), "failed on a batch of 2: no more"),
    ],
)
def test_a_failed_forward_pass_raises_segment_error(error: Exception, message: str, small_network: Any, recipe: Any) -> None:
    network = small_network(BEN2)

    def fail(*_: Any) -> None:
        raise error

    network.mclm.register_forward_pre_hook(fail)
    model = MvanetModel(network, recipe("mvanet", frame_px=128), CPU, torch.float32)
    with pytest.raises(SegmentError, match=message) as caught:
        model(random_frames())
    assert caught.value.__cause__ is error


def test_a_broken_device_is_not_an_items_error(small_network: Any, recipe: Any) -> None:
    network = small_network(BEN2)

    def fail(*_: Any) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700)

    network.mclm.register_forward_pre_hook(fail)
    with pytest.raises(BrokenDevice):
        MvanetModel(network, recipe("mvanet", frame_px=128), CPU, torch.float32)(random_frames())


def test_numbers_that_are_not_finite_are_returned(small_network: Any, recipe: Any) -> None:
    network = small_network(BEN2)
    with torch.no_grad():
        network.output.bias.fill_(torch.nan)
    logits = MvanetModel(network, recipe("mvanet", frame_px=128), CPU, torch.float32)(random_frames())
    assert logits.isnan().all()
