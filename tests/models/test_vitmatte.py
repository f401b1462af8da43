"""ViTMatte with small random weights: the file is understood, the input is as transformers makes it, tiles are one picture."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import VitDetConfig, VitMatteConfig, VitMatteForImageMatting, VitMatteImageProcessor

import pipeline.models.refiners.vitmatte as module
from pipeline import Segmenter
from pipeline.config.job import load_job
from pipeline.errors import WeightsError
from pipeline.models.refiners.guided import Guided
from pipeline.models.refiners.vitmatte import NORMALISE, VitMatte, network_input, tiles_at_once
from pipeline.models.refiners.vitmatte_weights import check_vitmatte, load_vitmatte
from pipeline.run.driver import describe_recipe
from pipeline.run.preflight import make_plan
from pipeline.storage.files import Files

CPU = torch.device("cpu")
SIZES = {"small": (384, 6, 25.8), "base": (768, 12, 96.7)}
"""Width, heads and millions of parameters of the published networks."""


def settings(
    hidden: int = 32, heads: int = 2, layers: int = 2, whole: tuple[int, ...] = (1,), window: int = 3
) -> VitMatteConfig:
    """A configuration of the published form."""
    small = hidden == 32
    backbone = VitDetConfig(
        num_channels=4,
        image_size=128 if small else 512,
        pretrain_image_size=64 if small else 224,
        patch_size=16,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        use_absolute_position_embeddings=True,
        use_relative_position_embeddings=True,
        window_size=window,
        window_block_indices=[number for number in range(layers) if number not in whole],
        residual_block_indices=list(whole),
        out_features=[f"stage{layers}"],
    )
    detail, fused = ([8, 12, 16], [24, 16, 12, 8]) if small else ([48, 96, 192], [256, 128, 64, 32])
    return VitMatteConfig(
        backbone_config=backbone, hidden_size=hidden, convstream_hidden_sizes=detail, fusion_hidden_sizes=fused
    )


def published(size: str) -> VitMatteConfig:
    """As hustvl/vitmatte-<size>-composition-1k has it."""
    hidden, heads, _ = SIZES[size]
    return settings(hidden, heads, 12, (2, 5, 8, 11), 14)


def with_numbers(config: VitMatteConfig, local: bool = False) -> nn.Module:
    """A network that says different things in different places; a local one sees only so far, and not where it is."""
    torch.manual_seed(0)
    network: nn.Module = VitMatteForImageMatting(config).eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif name.endswith(("running_mean", "norm3.weight")):
                tensor.normal_(std=0.3)
            elif "rel_pos" in name or "position_embeddings" in name:
                tensor.normal_(std=0.5)
            elif name.endswith("weight") and tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5)
            elif tensor.ndim > 1:
                tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5)
            if local and ("position_embeddings" in name or "attention.proj" in name):
                tensor.zero_()
    return network


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vitmatte") / "model.safetensors"
    save_file(with_numbers(settings()).state_dict(), path)
    return path


@pytest.fixture
def refiner(weights: Path, monkeypatch: pytest.MonkeyPatch) -> VitMatte:
    monkeypatch.setitem(module.TILE_PX, "cpu", 128)
    return VitMatte(load_vitmatte(weights, device=CPU, dtype=torch.float32), "imagenet", CPU, torch.float32)


def test_a_file_is_understood_from_its_shapes(weights: Path) -> None:
    x = torch.randn(2, 4, 96, 160)
    loaded = load_vitmatte(weights, device=CPU, dtype=torch.float32)
    with torch.inference_mode():
        expected, found = (network(x).alphas for network in (with_numbers(settings()), loaded))
    torch.testing.assert_close(found, expected)
    assert expected.std() > 0.01
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("size", SIZES)
def test_the_published_layouts_are_understood(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but their numbers, which nobody needs for it."""
    with torch.device("meta"):
        network = VitMatteForImageMatting(published(size))
    state = network.state_dict()
    assert state["backbone.embeddings.position_embeddings"].shape == (1, 197, SIZES[size][0])
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(SIZES[size][2], abs=0.1)
    monkeypatch.setattr("pipeline.models.refiners.vitmatte_weights.open_tensors", lambda _: state)
    check_vitmatte(Path("model.safetensors"))


@pytest.mark.study
def test_the_published_small_network_runs(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(VitMatteForImageMatting(published("small")).state_dict(), path)
    assert 100e6 < path.stat().st_size < 106e6
    refiner = VitMatte(load_vitmatte(path, device=CPU, dtype=torch.float32), "imagenet", CPU, torch.float32)
    (alpha,) = refiner(np.random.default_rng(0).integers(0, 256, (1, 512, 512, 4), np.uint8))
    assert alpha.shape == (512, 512) and torch.isfinite(alpha).all() and alpha.min() >= 0 and alpha.max() <= 1


def test_counts_of_training_steps_may_be_absent(weights: Path, tmp_path: Path) -> None:
    tensors = {key: tensor for key, tensor in load_file(weights).items() if not key.endswith("num_batches_tracked")}
    save_file(tensors, tmp_path / "model.safetensors")
    check_vitmatte(tmp_path / "model.safetensors")
    load_vitmatte(tmp_path / "model.safetensors", device=CPU, dtype=torch.float32)


ATTENTION = "backbone.encoder.layer.0.attention.qkv.bias"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda some: some.pop(ATTENTION), rf"{ATTENTION} is absent, but should be \[96\]"),
        (lambda some: some.update(extra=torch.zeros(3)), r"extra is \[3\], but should be absent"),
        (lambda some: some.update({ATTENTION: torch.zeros(95)}), rf"{ATTENTION} is \[95\], but should be \[96\]"),
        (lambda some: some.update({ATTENTION: torch.zeros(96, dtype=torch.int32)}), "is stored as torch.int32"),
        (lambda some: some.pop("backbone.embeddings.position_embeddings"), "nothing in it tells 'backbone.embeddings.position"),
        (lambda some: (some.clear(), some.update(weight=torch.zeros(3))), "isn't ViTMatte's.*vitmatte-small-distinctions-646"),
    ],
)
def test_every_key_is_accounted_for(change: Any, said: str, weights: Path, tmp_path: Path) -> None:
    tensors = load_file(weights)
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    for door in (check_vitmatte, lambda path: load_vitmatte(path, device=CPU, dtype=torch.float32)):
        with pytest.raises(WeightsError, match=said):
            door(tmp_path / "model.safetensors")


def test_damaged_files_are_refused(weights: Path, tmp_path: Path) -> None:
    cut = tmp_path / "model.safetensors"
    cut.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cut off or damaged"):
        check_vitmatte(cut)
    tensors = load_file(weights)
    tensors[ATTENTION][5] = float("nan")
    save_file(tensors, cut)
    with pytest.raises(WeightsError, match=rf"{ATTENTION} has numbers that are not finite as float32"):
        load_vitmatte(cut, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("normalise", NORMALISE)
def test_the_input_is_what_transformers_makes(normalise: str) -> None:
    """Its own default is 0.5 and 0.5, as published in preprocessor_config.json; the weights were trained with ImageNet's."""
    planes = np.random.default_rng(0).integers(0, 256, (3, 50, 75, 4), np.uint8)
    planes[..., 3] = np.random.default_rng(1).choice([0, 128, 255], planes.shape[:3])
    mean, std = NORMALISE[normalise]
    if normalise == "half":
        processor = VitMatteImageProcessor()
        assert tuple(processor.image_mean) == mean and tuple(processor.image_std) == std
        assert processor.rescale_factor == 1 / 255 and processor.size_divisor == module.SIDE_STEP
    else:
        processor = VitMatteImageProcessor(image_mean=list(mean), image_std=list(std))
    theirs = processor(
        images=[plane[..., :3] for plane in planes], trimaps=[plane[..., 3] for plane in planes], return_tensors="pt"
    )
    three = (torch.tensor(numbers).reshape(1, 3, 1, 1) for numbers in (mean, std))
    ours = network_input(torch.from_numpy(planes), *three)
    assert ours.shape == (3, 4, 64, 96)
    torch.testing.assert_close(ours, theirs["pixel_values"].float(), atol=1e-5, rtol=1e-5)


def test_a_batch_equals_its_tiles(refiner: VitMatte) -> None:
    planes = np.random.default_rng(0).integers(0, 256, (3, 100, 128, 4), np.uint8)
    alone = [refiner(plane[None])[0] for plane in planes]
    assert all(alpha.shape == (100, 128) for alpha in alone)
    torch.testing.assert_close(torch.stack(list(refiner(planes))), torch.stack(alone), atol=1e-5, rtol=0)
    assert (alone[0] - alone[1]).abs().max() > 0.01


@pytest.mark.parametrize("region", [None, (-40, 30, 500, 430), (100, 60, 433, 391)])
def test_odd_sizes_and_nothing_outside_the_band(star: Any, refiner: VitMatte, region: Any) -> None:
    scene = star(333, 451, 64, region)
    drawn, note = scene.redrawn(refiner)
    outside = scene.weight() == 0
    np.testing.assert_array_equal(drawn[outside], scene.base[outside])
    assert note is None and np.isfinite(drawn).all() and np.abs(drawn - scene.base)[~outside].max() > 0.1


def test_how_many_tiles_go_at_once_changes_nothing(star: Any, refiner: VitMatte) -> None:
    scene = star(333, 451, 64)
    one, _ = scene.redrawn(refiner)
    assert refiner.at_once == 1
    refiner.at_once = 3
    three, _ = scene.redrawn(refiner)
    np.testing.assert_allclose(one, three, atol=1e-5)


def test_tiles_are_one_picture(star: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network that sees a little way only, with tiles in step with its patches: far from seams all is as in one tile."""
    scene = star(640, 640, 128)
    network, found = with_numbers(settings(), local=True), {}
    for side in (256, 640):
        monkeypatch.setitem(module.TILE_PX, "cpu", side)
        found[side], _ = scene.redrawn(VitMatte(network, "imagenet", CPU, torch.float32))
    off = np.where(scene.weight() > 0, np.abs(found[256] - found[640]), 0)
    far = np.ones(640, bool)
    for seam in (224, 416):
        far[seam - 90 : seam + 90] = False
    assert off[np.ix_(far, far)].max() < 1e-4 < off.max()
    jumps = np.abs(np.diff(found[256] - found[640], axis=1))
    assert np.where(scene.weight() > 0, 1, 0).any() and jumps.max() < 0.1


def test_where_nothing_is_sure_guided_draws(star: Any, refiner: VitMatte) -> None:
    scene = star(333, 451, 64)
    guided, _ = scene.redrawn(Guided())
    lost = scene.view._replace(band=torch.ones(64, 64))
    drawn, note = scene._replace(view=lost).redrawn(refiner)
    assert note == "vitmatte left 20 of 20 tiles to guided: the model was sure of nothing in them"
    sure = scene.weight() == 1
    np.testing.assert_allclose(drawn[sure], guided[sure], atol=1e-6)


@pytest.mark.parametrize(("dtype", "least"), [(torch.float16, 0.99), (torch.bfloat16, 0.8)])
def test_half_precision_is_near(star: Any, refiner: VitMatte, weights: Path, dtype: torch.dtype, least: float) -> None:
    """As near as random weights, which are badly conditioned, let it be."""
    scene = star(200, 200, 64)
    full, _ = scene.redrawn(refiner)
    half = VitMatte(load_vitmatte(weights, device=CPU, dtype=dtype), "imagenet", CPU, dtype)
    drawn, _ = scene.redrawn(half)
    inside = scene.weight() == 1
    assert np.abs(drawn - full).max() > 0
    assert np.corrcoef(drawn[inside], full[inside])[0, 1] > least


def test_tiles_at_once_have_room(refiner: VitMatte) -> None:
    with torch.device("meta"):
        networks = {size: VitMatteForImageMatting(published(size)) for size in SIZES}
    assert [tiles_at_once(networks["small"], 1024, room * 10**9) for room in (0, 1, 3, 6, 40)] == [1, 1, 2, 4, 8]
    assert [tiles_at_once(networks["base"], 1024, room * 10**9) for room in (1, 3, 6)] == [1, 1, 2]


def test_from_a_recipe_to_a_cutout_and_into_recipe_json(
    weights: Path, fake_preset: str, tmp_path: Path, make_photos: Any
) -> None:
    (photo,) = make_photos(tmp_path / "photos", 1)
    changes = {"refiner": "vitmatte", "refiner_weights": str(weights), "refiner_licence": "our own weights"}
    segmenter = Segmenter(fake_preset, device="cpu", **changes)
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert segmenter.recipe.refiner_weights_sha256 == sha256
    picture = np.asarray(Image.open(photo))
    drawn, plain = segmenter(picture), Segmenter(fake_preset, device="cpu", refiner="none")(picture)
    assert drawn.note is None and np.abs(drawn.alpha.astype(int) - plain.alpha).max() > 10
    pairs = [f"recipe.{key}={value}" for key, value in changes.items()]
    job = load_job(manifest=f"{tmp_path}/photos", output=f"{tmp_path}/out", preset=fake_preset, overrides=pairs)
    plan = make_plan(job, Files())
    describe_recipe(plan, Files())
    told = json.loads(Path(plan.layout.recipe).read_text())
    assert told["refiner_licence"] == "our own weights" and told["refiner_weights_sha256"] == sha256
    assert "refiner_weights" not in told, "an address may hold a secret"
