"""Our numbers against the published code's, through recognition, loading and forward pass."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F  # noqa: N812

from pipeline.config.recipe import Recipe
from pipeline.models.engines.openvino import has_bf16, has_openvino
from pipeline.models.export import MAX_DIFFERENCE, export_onnx
from pipeline.models.layouts import FP16_LAYOUTS
from pipeline.models.load import MvanetModel, load_model
from pipeline.models.mvanet.checkpoint import load_mvanet, recognise

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"


@pytest.fixture(scope="session")
def loaded(golden: Any) -> dict[tuple[int, str, str], MvanetModel]:
    """Keep models of the current layout by frame, precision and engine, so that each is loaded once."""
    return {}


def model_of(
    golden: Any,
    recipe: Any,
    loaded: dict[tuple[int, str, str], MvanetModel],
    side: int,
    precision: str,
    engine: str = "torch",
    cache: Path | None = None,
) -> MvanetModel:
    if (side, precision, engine) not in loaded:
        loaded.clear()
        settings = recipe("mvanet", frame_px=side, precision=precision, weights_sha256=sha256(golden.path))
        loaded[side, precision, engine] = load_model(settings, golden.path, device="cpu", engine=engine, cache=cache)
    return loaded[side, precision, engine]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


def full_frame(golden: Any) -> np.ndarray:
    """Return the golden photo as its publisher's frame, (1, 1024, 1024, 3)."""
    photo = Image.open(GOLDENS / "photo1.png").convert("RGB").resize((1024, 1024), golden.resize)
    return np.asarray(photo)[None]


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


@pytest.mark.study  # test_mvanet.py has it with small networks
def test_a_batch_equals_its_images(golden: Any, recipe: Any, loaded: Any, photo_frames: Any, bars: Any) -> None:
    model = model_of(golden, recipe, loaded, 256, "fp32")
    frames = photo_frames(3, 256)
    alone = torch.cat([model(frame[None]) for frame in frames])
    assert alone.shape == (3, 256, 256) and alone.dtype == torch.float32
    assert (alone[0] - alone[1]).abs().mean() > 0.01
    bars.at_most(
        f"{golden.layout}: batch of 3 against single runs, 256 px, max logit", (model(frames) - alone).abs().max(), 1e-4
    )


@pytest.mark.parametrize("golden", ["ben2"], indirect=True)
def test_the_features_of_the_overview_are_the_published_ones(golden: Any, recipe: Any, loaded: Any) -> None:
    """Compute one of the five views at full size, and no decoder: what a part of the suite can afford.

    ``test_upsample.py`` compares the decoder, with few parameters, to its published form.
    """
    assert recognise(golden.path) == golden.layout
    model = model_of(golden, recipe, loaded, 1024, "fp32")
    with torch.inference_mode():
        overview = F.interpolate(model.normalise(full_frame(golden)), scale_factor=0.5, mode="bilinear", align_corners=False)
        features = model.network.backbone(overview)
    with np.load(GOLDENS / golden.numbers) as published:
        for level, feature in enumerate(features):
            for name, found in {"mean": feature.mean((2, 3)), "std": feature.std((2, 3))}.items():
                np.testing.assert_allclose(found[0], published[f"feature{level}_{name}"][-1], atol=1e-5, rtol=0)


@pytest.mark.study
def test_full_size(golden: Any, recipe: Any, loaded: Any, bars: Any) -> None:
    """Compare alpha (BEN2) or logits (the others) with the published code's, and BEN2's features of every view."""
    assert recognise(golden.path) == golden.layout
    model = model_of(golden, recipe, loaded, 1024, "fp32")
    features: list[torch.Tensor] = []
    hook = model.network.backbone.register_forward_hook(lambda _module, _inputs, outputs: features.extend(outputs))
    logits = model(full_frame(golden))[0, ::4, ::4].numpy()
    hook.remove()

    with np.load(GOLDENS / golden.numbers) as published:
        if "alpha" in published:
            difference = np.abs(sigmoid(logits) - published["alpha"])
            bars.at_most(f"{golden.layout}: alpha at 1024 px, fp32, max", difference.max(), 1e-3)
            bars.at_most(f"{golden.layout}: alpha at 1024 px, fp32, mean", difference.mean(), 1e-5)
            for level, feature in enumerate(features):
                np.testing.assert_allclose(feature.mean((2, 3)), published[f"feature{level}_mean"], atol=1e-5, rtol=0)
                np.testing.assert_allclose(feature.std((2, 3)), published[f"feature{level}_std"], atol=1e-5, rtol=0)
        else:
            difference = np.abs(logits - published["logits"])
            bars.at_most(f"{golden.layout}: logits at 1024 px, fp32, max", difference.max(), 5e-3)
            bars.at_most(f"{golden.layout}: logits at 1024 px, fp32, mean", difference.mean(), 1e-4)


def at_full_size(model: Any, golden: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return every 4th pixel of alpha: ours and the published code's."""
    with np.load(GOLDENS / golden.numbers) as published:
        wanted = published["alpha"] if "alpha" in published else sigmoid(published["logits"])
    return sigmoid(model(full_frame(golden))[0, ::4, ::4].numpy()), wanted


@pytest.mark.study
def test_full_size_in_bf16(golden: Any, recipe: Any, loaded: Any, bars: Any) -> None:
    alpha, wanted = at_full_size(model_of(golden, recipe, loaded, 1024, "bf16"), golden)
    bars.at_most(f"{golden.layout}: alpha at 1024 px, bf16, mean", np.abs(alpha - wanted).mean(), 0.015)


@pytest.mark.study
@pytest.mark.skipif(not has_openvino(), reason="OpenVINO is not installed")
def test_full_size_in_openvino(golden: Any, recipe: Any, loaded: Any, bars: Any, graphs: Path) -> None:
    """The limits are those of PyTorch, in fp32 and in bf16."""
    alpha, wanted = at_full_size(model_of(golden, recipe, loaded, 1024, "fp32", "openvino", graphs), golden)
    bars.at_most(f"{golden.layout}: alpha at 1024 px, OpenVINO fp32, max", np.abs(alpha - wanted).max(), 1e-3)
    bars.at_most(f"{golden.layout}: alpha at 1024 px, OpenVINO fp32, mean", np.abs(alpha - wanted).mean(), 1e-5)
    if has_bf16():
        alpha, wanted = at_full_size(model_of(golden, recipe, loaded, 1024, "bf16", "openvino", graphs), golden)
        bars.at_most(f"{golden.layout}: alpha at 1024 px, OpenVINO bf16, mean", np.abs(alpha - wanted).mean(), 0.015)


@pytest.mark.study
def test_half_precision_is_chosen_where_it_keeps_alpha(golden: Any, bars: Any) -> None:
    """Compute fp16, which ``recipe.precision=auto`` chooses on GPUs for ``FP16_LAYOUTS``, on the CPU."""
    if golden.layout not in FP16_LAYOUTS:
        pytest.skip("auto chooses fp32 for this layout")
    if not torch.cpu.get_capabilities().get("avx512_fp16"):
        pytest.skip("this CPU has no fp16 instructions; without them it takes hours")
    network = load_mvanet(golden.path, device=torch.device("cpu"), dtype=torch.float16)
    settings = Recipe(name="half", model="mvanet", weights="file", precision="fp16")
    alpha, wanted = at_full_size(MvanetModel(network, settings, torch.device("cpu"), torch.float16), golden)
    bars.at_most(f"{golden.layout}: alpha at 1024 px, fp16, mean", np.abs(alpha - wanted).mean(), 2e-3)
    bars.at_most(
        f"{golden.layout}: alpha at 1024 px, fp16, 99.9th percentile", np.quantile(np.abs(alpha - wanted), 0.999), 0.02
    )


@pytest.mark.study
def test_a_larger_batch_equals_its_images(golden: Any, recipe: Any, loaded: Any, photo_frames: Any, bars: Any) -> None:
    model = model_of(golden, recipe, loaded, 512, "fp32")
    frames = photo_frames(3, 512)
    alone = torch.cat([model(frame[None]) for frame in frames])
    bars.at_most(
        f"{golden.layout}: batch of 3 against single runs, 512 px, max logit", (model(frames) - alone).abs().max(), 1e-4
    )


@pytest.mark.study
@pytest.mark.timeout(900)
def test_the_exported_onnx_file_has_the_networks_alpha(
    golden: Any, recipe: Any, photo_frames: Any, tmp_path: Path, bars: Any
) -> None:
    """Export at the publisher's size, as ``matteline export`` does."""
    settings = recipe("mvanet", frame_px=1024)
    difference = export_onnx(golden.path, settings, photo_frames(3, 1024), tmp_path / "full.onnx")
    bars.at_most(f"{golden.layout}: alpha of its ONNX file, three photos at 1024 px, max", difference, MAX_DIFFERENCE)
