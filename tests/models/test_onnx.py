"""Networks in ONNX files: their logits, and files that are refused before anything runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from pipeline.errors import ConfigError, SegmentError, WeightsError
from pipeline.models.engines import forks, onnx
from pipeline.models.engines.onnx import _has_external_weights
from pipeline.models.engines.onnx_model import OnnxModel
from pipeline.models.engines.openvino import has_openvino

spec = importlib.util.spec_from_file_location("onnx_files", Path(__file__).with_name("onnx_files.py"))
assert spec and spec.loader
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1), "frame_px": 32}
U2NETP = Path(__file__).resolve().parents[2] / "pipeline" / "weights" / "u2netp.onnx"
Build = Callable[..., OnnxModel]


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


@pytest.fixture(params=["onnxruntime", "openvino"])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "openvino" and not has_openvino():
        pytest.skip("OpenVINO is not installed")
    return str(request.param)


@pytest.fixture
def build(tmp_path: Path, recipe: Any, engine: str) -> Build:
    def make(content: bytes, **settings: Any) -> OnnxModel:
        path = tmp_path / "network.onnx"
        path.write_bytes(content)
        return OnnxModel(path, recipe("onnx", **(PLAIN | settings)), device="cpu", threads=1, engine=engine)

    return make


def image_input(*dims: int | str, kind: int = files.FLOAT) -> bytes:
    return files.value_info("image", dims or ("n", 3, 32, 32), kind)


def graph(op: str, out: tuple[int | str, ...], **attributes: Any) -> bytes:
    """Encode a network of one operation."""
    return files.model([files.node(op, ["image"], "out", **attributes)], [image_input()], [files.value_info("out", out, 1)])


@pytest.mark.parametrize(
    ("size", "batch"), [(32, "n"), ("side", "n"), (32, 1), ("side", 1)], ids=["batch", "dynamic", "one by one", "dynamic one"]
)
def test_logits_are_the_graph_on_normalised_frames(
    size: int | str, batch: int | str, build: Build, frames: Any, engine: str
) -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    model = build(files.mean_model(size, batch), mean=mean, std=std)
    logits = model(frames)
    assert logits.shape == (3, 32, 32) and logits.dtype == torch.float32
    assert model.engine == engine
    assert model.network.one_by_one == (batch == 1 or engine == "openvino")
    np.testing.assert_allclose(logits, ((frames / 255 - mean) / std).mean(-1), atol=1e-5)


def test_float16_graphs_are_fed_float16(build: Build, frames: Any) -> None:
    logits = build(files.mean_model(kind=files.FLOAT16))(frames)
    assert logits.dtype == torch.float32
    np.testing.assert_allclose(logits, (frames / 255).mean(-1), atol=2e-3)


def test_a_probability_becomes_a_logit(build: Build, frames: Any) -> None:
    frames = np.concatenate([frames, np.zeros_like(frames[:1]), np.full_like(frames[:1], 255)])
    logits = build(files.mean_model(), activation="none")(frames)
    assert torch.isfinite(logits).all()
    np.testing.assert_allclose(logits.sigmoid(), (frames / 255).mean(-1), atol=2e-6)


def test_scaling_by_the_maximum_is_by_frame(build: Build) -> None:
    frames = np.stack([np.full((32, 32, 3), value, np.uint8) for value in (0, 10, 200)])
    frames[1, 0, 0] = 20
    logits = build(files.mean_model(), scale="max")(frames)
    assert logits[:, 16, 16].tolist() == [0.0, 0.5, 1.0]


def test_a_map_of_another_size_is_resized(build: Build, frames: Any) -> None:
    content = files.model(
        [
            files.node("ReduceMean", ["image"], "mean", axes=[1], keepdims=1),
            files.node("AveragePool", ["mean"], "out", kernel_shape=[2, 2], strides=[2, 2]),
        ],
        [image_input()],
        [files.value_info("out", ("n", 1, 16, 16), 1)],
    )
    small = F.avg_pool2d(torch.from_numpy((frames / 255).mean(-1, dtype=np.float32))[:, None], 2)
    wanted = F.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(build(content)(frames), wanted, atol=1e-5, rtol=0)


def test_maps_without_a_channel_axis_are_accepted(build: Build, frames: Any) -> None:
    logits = build(graph("ReduceMean", ("n", 32, 32), axes=[1], keepdims=0))(frames)
    np.testing.assert_allclose(logits, (frames / 255).mean(-1), atol=1e-5)


def test_the_output_is_the_first_or_the_named_one(build: Build, frames: Any) -> None:
    content = files.model(
        [
            files.node("ReduceMin", ["image"], "low", axes=[1], keepdims=1),
            files.node("ReduceMax", ["image"], "high", axes=[1], keepdims=1),
        ],
        [image_input()],
        [files.value_info(name, ("n", 1, 32, 32), 1) for name in ("low", "high")],
    )
    np.testing.assert_allclose(build(content)(frames), frames.min(-1) / 255, atol=1e-6)
    np.testing.assert_allclose(build(content, input_name="image", output_name="high")(frames), frames.max(-1) / 255, atol=1e-6)
    with pytest.raises(ConfigError, match=r"recipe\.output_name is 'top', but network\.onnx has low, high"):
        build(content, output_name="top")
    with pytest.raises(ConfigError, match=r"recipe\.input_name is 'x', but network\.onnx has image"):
        build(content, input_name="x")


def test_a_fixed_size_must_be_the_frame(build: Build) -> None:
    with pytest.raises(ConfigError, match=r"recipe\.frame_px is 32, but network\.onnx takes 320 only"):
        build(files.mean_model(size=320))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([image_input("n", 4, 32, 32)], "must be .batch, 3, height, width."),
        ([image_input(3, 32, 32)], "must be .batch, 3, height, width."),
        ([image_input("n", 3, 32, 48)], "frames are square"),
        ([image_input(4, 3, 32, 32)], "the batch is fixed at 4"),
        ([image_input("n", 3, 32, 32, kind=files.INT64)], r"tensor\(int64\); it must be float or float16"),
        ([image_input(), files.value_info("box", ("n", 4), 1)], "also wants the input 'box'"),
    ],
)
def test_a_graph_without_an_image_input_is_refused(inputs: list[bytes], message: str, build: Build) -> None:
    nodes = [files.node("Identity", ["image"], "out")]
    if len(inputs) == 2:
        nodes.append(files.node("Identity", ["box"], "unused"))
    kind = files.INT64 if "int64" in message else files.FLOAT
    content = files.model(nodes, inputs, [files.value_info("out", ("n", 1, "h", "w") if len(inputs) == 1 else (), kind)])
    with pytest.raises(WeightsError, match=message):
        build(content)


def test_an_output_of_another_shape_is_refused(build: Build) -> None:
    with pytest.raises(ConfigError, match=r"the output 'out' of network\.onnx is .*set recipe\.output_name"):
        build(graph("Identity", ("n", 3, 32, 32)))


def test_an_output_of_undeclared_shape_is_checked_in_the_forward_pass(build: Build, frames: Any) -> None:
    content = files.model(
        [files.node("Transpose", ["image"], "out", perm=[0, 3, 2, 1])],
        [image_input("n", 3, "h", "w")],
        [files.value_info("out", ("a", "b", "c", "d"), 1)],
    )
    model = build(content)
    with pytest.raises(SegmentError, match=r"of shape \[3, 32, 32, 3\] for 3 images"):
        model(frames)


def test_a_failed_graph_raises_segment_error(build: Build, frames: Any) -> None:
    content = files.model(
        [
            files.node("Reshape", ["image", "shape"], "flat"),
            files.node("ReduceMean", ["flat"], "out", axes=[1], keepdims=1),
        ],
        [image_input()],
        [files.value_info("out", ("n", 1, 32, 32), 1)],
        [files.tensor("shape", np.array([1, 3, 32, 32]))],
    )
    model = build(content)
    np.testing.assert_allclose(model(frames[:1])[0], (frames[0] / 255).mean(-1), atol=1e-5)
    if model.engine == "openvino":  # image by image this graph works
        np.testing.assert_allclose(model(frames), (frames / 255).mean(-1), atol=1e-5)
        return
    with pytest.raises(SegmentError, match="the ONNX graph failed on a batch of 3"):
        model(frames)


def test_a_graph_that_openvino_cannot_run_uses_onnx_runtime(tmp_path: Path, recipe: Any, frames: Any) -> None:
    content = files.model(
        [
            files.node("Det", ["image"], "determinants"),
            files.node("ReduceMean", ["determinants"], "offset", axes=[0, 1], keepdims=0),
            files.node("ReduceMean", ["image"], "mean", axes=[1], keepdims=1),
            files.node("Add", ["mean", "offset"], "out"),
        ],
        [image_input()],
        [files.value_info("out", ("n", 1, 32, 32), 1)],
    )
    path = tmp_path / "network.onnx"
    path.write_bytes(content)
    model = OnnxModel(path, recipe("onnx", **PLAIN), device="cpu")
    assert model.engine == "onnxruntime"
    one = frames[:1] / 255
    offset = np.linalg.det(one.transpose(0, 3, 1, 2)).mean()
    np.testing.assert_allclose(model(frames[:1]), one.mean(-1) + offset, atol=1e-4)
    with pytest.raises(ConfigError, match="OpenVINO can't run network.onnx"):
        OnnxModel(path, recipe("onnx", **PLAIN), device="cpu", engine="openvino")


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "/etc/passwd", "missing.bin"])
def test_weights_in_a_second_file_are_refused(location: str, build: Build, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(np.ones(1, np.float32).tobytes())
    content = files.model(
        [files.node("Mul", ["image", "w"], "product"), files.node("ReduceMean", ["product"], "out", axes=[1], keepdims=1)],
        [image_input()],
        [files.value_info("out", ("n", 1, 32, 32), 1)],
        [files.external_tensor("w", [1], location)],
    )
    with pytest.raises(WeightsError, match="keeps its weights in a second file"):
        build(content)


WHERE = files.field(1, "location"), files.field(2, "weights.bin")
SHAPE = files.field(1, 1) + files.field(2, files.FLOAT) + files.field(8, "w")


@pytest.mark.parametrize(
    "tensor",
    [
        SHAPE + files.field(13, WHERE[1] + WHERE[0]) + files.field(14, 1),
        files.field(14, 1) + files.field(13, WHERE[0] + WHERE[1]) + SHAPE,
        files.field(13, WHERE[1] + files.field(9, 7) + WHERE[0]) + SHAPE,
        SHAPE + files.field(14, 1),
    ],
)
@pytest.mark.parametrize("place", ["initializer", "attribute"])
def test_a_second_file_is_found_in_any_order_of_fields(tensor: bytes, place: str, tmp_path: Path) -> None:
    """Protobuf messages may have their fields in any order."""
    constant = (
        files.field(2, "w") + files.field(4, "Constant") + files.field(5, files.field(1, "value") + files.field(5, tensor))
    )
    nodes = [files.node("Mul", ["image", "w"], "out"), *([constant] if place == "attribute" else [])]
    content = files.model(nodes, [image_input()], [], [tensor] if place == "initializer" else [])
    (tmp_path / "network.onnx").write_bytes(content)
    assert _has_external_weights(tmp_path / "network.onnx")
    (tmp_path / "sound.onnx").write_bytes(files.mean_model())
    assert not _has_external_weights(tmp_path / "sound.onnx")


@pytest.mark.parametrize("content", [b"\xff" * 50, b"\x3a\xff\xff\xff\xff\x7f", bytes(range(256)), b"\x3a\x02\x2a\x7f"])
def test_damaged_messages_end_the_search(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "network.onnx").write_bytes(content)
    assert not _has_external_weights(tmp_path / "network.onnx")


def test_a_tensor_may_be_called_location(build: Build, frames: Any) -> None:
    content = files.model(
        [
            files.node("Identity", ["image"], "location"),
            files.node("ReduceMean", ["location"], "out", axes=[1], keepdims=1),
        ],
        [image_input()],
        [files.value_info("out", ("n", 1, 32, 32), 1)],
    )
    assert build(content)(frames).shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<html>not found</html>", "is a web page"),
        (bytes(100), "can't be run by ONNX Runtime"),
        (b"\x08\x08not an onnx file", "can't be run by ONNX Runtime"),
        (files.mean_model()[:-30], "can't be run by ONNX Runtime"),
        (graph("Exec", ("n", 1, 32, 32), domain="evil"), "can't be run by ONNX Runtime"),
    ],
    ids=["empty", "web page", "zeros", "noise", "cut off", "custom operator"],
)
def test_other_files_are_refused(content: bytes, message: str, build: Build) -> None:
    with pytest.raises(WeightsError, match=message):
        build(content)


def test_a_missing_file_is_refused(recipe: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="can't be read: No such file"):
        OnnxModel(tmp_path / "nothing.onnx", recipe("onnx", **PLAIN))


def test_cuda_without_onnxruntime_gpu_is_refused(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "_process", forks._Process())  # which remembers that CUDA was found
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ConfigError, match="onnxruntime-gpu"):
        onnx._choose_device("cuda")
    assert onnx._choose_device("auto") == "cpu"


@pytest.mark.skipif(not U2NETP.exists(), reason="the bundled u2netp.onnx is missing")
def test_u2netp_has_its_authors_preprocessing(recipe: Any, photo_frames: Any) -> None:
    """U-2-Net divides by the image's maximum, then applies ImageNet's mean and std; its output is a probability."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    model = OnnxModel(U2NETP, recipe("onnx", frame_px=320, scale="max", activation="none"), device="cpu", threads=1)
    frames = photo_frames(2, 320)
    x = np.stack([((frame / frame.max() - mean) / std).transpose(2, 0, 1) for frame in frames]).astype(np.float32)
    session = onnxruntime.InferenceSession(str(U2NETP), providers=["CPUExecutionProvider"])
    wanted = np.concatenate([session.run(None, {"input.1": one[None]})[0][:, 0] for one in x])
    assert wanted.std() > 0.01
    np.testing.assert_allclose(model(frames).sigmoid(), wanted.clip(1e-6, 1 - 1e-6), atol=1e-4)
