"""The prebuilt graphs are what the modules in PyTorch compute, from the weights beside them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.presets import load_preset
from pipeline.config.recipe import Recipe
from pipeline.models.engines import openvino
from pipeline.models.engines.graph_cache import HASHES
from pipeline.models.engines.onnx import Normalise, OnnxNetwork, to_logits
from pipeline.models.engines.openvino import has_openvino
from pipeline.models.forward import Normalise as TorchNormalise
from pipeline.models.forward import to_logits as torch_to_logits
from pipeline.models.graphs import make
from pipeline.models.graphs.bundled import engine_for, index, network_graph, runs_in_graphs
from pipeline.models.graphs.graph import Graph
from pipeline.models.load import load_model
from pipeline.models.refiners.refine_tiles import axis
from pipeline.models.resolve import resolve
from pipeline.paths import WEIGHTS, example_path
from pipeline.segmenter import Cutout, Segmenter
from pipeline.storage.files import Files
from pipeline.storage.weights_cache import file_sha256

SOURCES = dict(make.sources())
CPU = torch.device("cpu")


def resolved(preset: str, **settings: Any) -> Recipe:
    return resolve(load_preset(preset, settings).recipe, Files(), gpu=False).recipe


def maps(side: int, seed: int = 0) -> torch.Tensor:
    """Return logits (1, S, S) of a soft disc, with noise and a wide area of doubt."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    noise = np.random.default_rng(seed).normal(0, 1, (side, side))
    return torch.from_numpy(((0.3 - np.hypot(x, y)) * 60 + noise - 8 * (x > 0.3)).astype(np.float32))[None]


def tile_of(rows: int, columns: int) -> dict[str, torch.Tensor]:
    """Return the input of a refiner for some rows and columns of an image 4.3 times as large as its frame."""
    rng = np.random.default_rng(0)
    down, across = (axis(slice(100, 100 + count), 0, 1376, 320, 7) for count in (rows, columns))
    h, w = (one.cells.stop - one.cells.start for one in (down, across))
    p = maps(320)[0].sigmoid()[down.cells, across.cells]
    tile = {
        "image": torch.from_numpy(rng.integers(0, 256, (rows, columns, 3), np.uint8)),
        "frame": torch.from_numpy(rng.integers(0, 256, (h, w, 3), np.uint8)),
        "p": p,
        "unknown": ((p > 0.04) & (p < 0.96)).float(),
        "down": torch.from_numpy(down.positions),
        "across": torch.from_numpy(across.positions),
        "scale": torch.tensor([4.3], dtype=torch.float64),
    }
    return tile


def inputs_of(name: str, photo_frames: Any) -> list[dict[str, torch.Tensor]]:
    """Return realistic inputs of a graph."""
    if name == "estimator.onnx":
        x = torch.from_numpy(photo_frames(1, 160)).permute(0, 3, 1, 2) / 127.5 - 1
        return [{"x": torch.cat([x, maps(160)[None].sigmoid()], 1)}]
    if name == "flip.onnx":
        return [{"logits": maps(side), "mirrored": maps(side, 1).flip(2)} for side in (320, 512)]
    if name in ("guided.onnx", "cgm.onnx"):
        return [tile_of(*size) for size in ((96, 384), (8, 16))]
    side = index()[name]["frame_px"]
    if name.startswith("sharpen"):
        return [{"logits": maps(side), "sharpen": torch.tensor([2.0])}]
    if name.startswith("unknown"):
        return [{"alpha": maps(side, seed).sigmoid()} for seed in (0, 1)]
    frames = torch.from_numpy(photo_frames(1, side))
    boxes = [torch.tensor([[side / 4, side / 4, side / 2, side * 0.9]]), torch.full((1, 4), torch.nan)]
    return [{"logits": maps(side), "frames": frames, "boxes": box} for box in boxes]


def test_every_graph_was_made_from_this_code_and_these_weights() -> None:
    assert set(index()) == set(SOURCES)
    for name, entry in index().items():
        assert (WEIGHTS / name).stat().st_size < 500_000, "weights are not copied into a graph"
        assert entry["graph_version"] == make.GRAPH_VERSION, "run make graphs"
        if "weights_sha256" in entry:
            weights = WEIGHTS / name.replace(".onnx", ".safetensors")
            assert entry["weights_sha256"] == file_sha256(weights), f"{weights} has changed: run make graphs"


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "mvanet-lite.onnx"])
def test_a_graph_computes_what_its_module_does(name: str, photo_frames: Any) -> None:
    source, graph = SOURCES[name](), Graph(name, 1)
    for key in ("halo_cells", "halo_px", "step_px"):
        assert index()[name].get(key) == source.facts.get(key)
    assert graph.inputs == list(source.inputs)
    for inputs in inputs_of(name, photo_frames):
        with torch.inference_mode():
            expected = source.module.eval()(*inputs.values())
        outputs = graph(*(value.numpy() for value in inputs.values()))
        for output, wanted in zip(outputs, expected if isinstance(expected, tuple) else [expected], strict=True):
            tolerance = 1e-5 if name == "cgm.onnx" else 1e-6
            np.testing.assert_allclose(output, wanted.numpy(), rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"] if has_openvino() else ["onnxruntime"])
def test_mvanet_lites_alpha_is_pytorchs(engine: str, photo_frames: Any) -> None:
    recipe, frames = resolved("mvanet-lite"), photo_frames(2, 512)
    graph = network_graph(recipe)
    assert graph is not None
    model = OnnxNetwork(graph, recipe, device="cpu", engine=engine, bundled=True)
    assert model.engine == engine
    wanted = load_model(recipe, WEIGHTS / "mvanet-lite.safetensors", device="cpu", engine="torch")(frames).sigmoid()
    torch.testing.assert_close(torch.from_numpy(model(frames)).sigmoid(), wanted, atol=1e-5, rtol=0)


@pytest.mark.skipif(not has_openvino(), reason="needs OpenVINO")
def test_openvino_compiles_a_file_once(photo_frames: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, frames = resolved("u2netp"), photo_frames(1, 320)
    path = WEIGHTS / "u2netp.onnx"

    def load(threads: int = 1) -> Any:
        return OnnxNetwork(path, recipe, device="cpu", threads=threads, cache=tmp_path)(frames)

    wanted = OnnxNetwork(path, recipe, device="cpu", threads=1)(frames)
    assert np.array_equal(load(), wanted)
    (blob,) = tmp_path.glob(f"*/{openvino.BLOB}")
    with monkeypatch.context() as patched:
        patched.setattr(openvino, "compile_graph", lambda *_: pytest.fail("compiled again"))
        assert np.array_equal(load(), wanted)
        np.testing.assert_allclose(load(threads=2), wanted, atol=1e-4)
    content = b"another version of OpenVINO wrote this"
    blob.write_bytes(content)
    (blob.parent / HASHES).write_text(json.dumps({blob.name: hashlib.sha256(content).hexdigest()}))
    assert np.array_equal(load(), wanted), "a compiled graph that cannot be read is compiled again"
    monkeypatch.setattr(openvino, "compile_graph", lambda *_: pytest.fail("each process compiles it again"))
    assert np.array_equal(load(), wanted)


@pytest.mark.parametrize("scale", ["255", "max"])
def test_arrays_are_normalised_as_tensors_are(scale: str, photo_frames: Any) -> None:
    recipe, frames = resolved("u2netp", scale=scale), photo_frames(2, 320)
    assert np.array_equal(Normalise(recipe)(frames), TorchNormalise(recipe, CPU)(frames).numpy())
    output = np.linspace(0, 1, 1001, dtype=np.float32)
    for activation in ("none", "sigmoid"):
        expected = torch_to_logits(torch.from_numpy(output), activation)
        np.testing.assert_allclose(to_logits(output, activation), expected, atol=1e-6, rtol=1e-6)


def test_a_recipe_runs_in_graphs_if_all_its_parts_have_one() -> None:
    for preset in ("mvanet-lite", "u2netp"):
        recipe = resolved(preset)
        assert all(runs_in_graphs(recipe, "cpu", engine) for engine in ("auto", "openvino", "onnxruntime"))
        assert not runs_in_graphs(recipe, "cuda", "auto") and not runs_in_graphs(recipe, "cpu", "torch")
        assert [engine_for(count, recipe, "cpu") for count in (1, 100)] == ["onnxruntime", "auto"]
        assert engine_for(1, recipe, "cuda") == "auto"
        for changes in ({"precision": "bf16"}, {"refiner_weights_sha256": "0" * 64}, {"frame_px": 640}):
            assert not runs_in_graphs(recipe.model_copy(update=changes), "cpu", "auto")
    own = resolved("mvanet-lite").model_copy(update={"weights_sha256": "0" * 64})
    assert not runs_in_graphs(own, "cpu", "auto") and engine_for(1, own, "cpu") == "auto"


def test_the_whole_way_in_graphs_is_pytorchs() -> None:
    """Photo to mask and score, with all of mvanet-lite's parts. Masks may differ by a rounding to 8 bits."""
    photos = [example_path(f"examples/{name}.jpg") for name in ("cat", "teapot")]
    ours, torchs = (
        Segmenter.from_recipe(load_preset("mvanet-lite").recipe, Files(), device="cpu", engine=engine)(photos)
        for engine in ("onnxruntime", "torch")
    )
    for photo, one, other in zip(photos, ours, torchs, strict=True):
        assert isinstance(one, Cutout) and isinstance(other, Cutout)
        difference = np.abs(one.mask.astype(int) - other.mask)
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-4
        assert abs(one.quality - other.quality) < 1e-5
        assert one.score.signals == pytest.approx(other.score.signals, abs=1e-5), photo
