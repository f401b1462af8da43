"""Exported ONNX files of MVANet against the network itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import WeightsError
from pipeline.models.export import INPUT, MAX_DIFFERENCE, OUTPUT, compare, export_onnx, onnx_recipe, write_onnx
from pipeline.models.load import load_model
from pipeline.models.mvanet.checkpoint import load_mvanet
from pipeline.models.mvanet.fuse import fuse_conv_bn
from pipeline.models.mvanet.network import BEN2, LITE, MVANET, MVANet, Variant

pytestmark = pytest.mark.study

CPU = torch.device("cpu")
FRAME_PX = 128


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Provide a narrow mvanet-lite's weights and its ONNX file."""
    folder = tmp_path_factory.mktemp("export")
    torch.manual_seed(0)
    network = MVANet(dataclasses.replace(LITE, dim=8))
    save_file(network.state_dict(), folder / "lite.safetensors")
    write_onnx(
        load_mvanet(folder / "lite.safetensors", device=CPU, dtype=torch.float32),
        FRAME_PX,
        folder / "lite.onnx",
    )
    return folder / "lite.safetensors", folder / "lite.onnx"


def test_the_file_has_the_networks_alpha_on_three_photos(exported: tuple[Path, Path], recipe: Any, photo_frames: Any) -> None:
    weights, path = exported
    network = load_mvanet(weights, device=CPU, dtype=torch.float32)
    settings, frames = recipe("mvanet", frame_px=FRAME_PX), photo_frames(3, FRAME_PX)
    assert compare(network, settings, path, frames) <= MAX_DIFFERENCE
    for engine in ("onnxruntime", "openvino"):
        model = load_model(onnx_recipe(settings, path, "0" * 64), path, device="cpu", threads=1, engine=engine)
        assert model.engine == engine
        assert (model(frames) - network_logits(network, settings, frames)).abs().max() < 0.01


def network_logits(network: MVANet, settings: Any, frames: Any) -> torch.Tensor:
    from pipeline.models.load import MvanetModel

    return MvanetModel(network, settings, CPU, torch.float32)(frames)


def test_the_file_is_valid_and_declares_its_input(exported: tuple[Path, Path]) -> None:
    graph = onnx.load(exported[1], load_external_data=False)
    onnx.checker.check_model(graph)
    assert [one.name for one in graph.graph.input] == [INPUT]
    assert [one.name for one in graph.graph.output] == [OUTPUT]
    assert [side.dim_value for side in graph.graph.input[0].type.tensor_type.shape.dim] == [1, 3, FRAME_PX, FRAME_PX]
    assert not list(exported[1].parent.glob("*.partial"))


def test_a_file_with_another_alpha_is_deleted(
    exported: tuple[Path, Path], recipe: Any, photo_frames: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(network: MVANet, frame_px: int, path: Path) -> None:
        path.write_bytes(exported[1].read_bytes())

    torch.manual_seed(1)
    save_file(MVANet(dataclasses.replace(LITE, dim=8)).state_dict(), tmp_path / "other.safetensors")
    monkeypatch.setattr("pipeline.models.export.write_onnx", other)
    with pytest.raises(WeightsError, match="differs from PyTorch's"):
        export_onnx(
            tmp_path / "other.safetensors", recipe("mvanet", frame_px=FRAME_PX), photo_frames(1, FRAME_PX), tmp_path / "x.onnx"
        )
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize("variant", [BEN2, MVANET], ids=["ben2", "mvanet"])
def test_every_variant_can_be_exported(
    variant: Variant, small_network: Any, recipe: Any, photo_frames: Any, tmp_path: Path
) -> None:
    network = small_network(variant)
    fuse_conv_bn(network)
    write_onnx(network, 256, tmp_path / "small.onnx")
    frames = np.asarray(photo_frames(3, 256))
    assert compare(network, recipe("mvanet", frame_px=256), tmp_path / "small.onnx", frames) <= MAX_DIFFERENCE
