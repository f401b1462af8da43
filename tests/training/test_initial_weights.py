"""Weights to begin with: everything is accounted for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from pipeline.errors import WeightsError
from pipeline.models.mvanet.network import LITE, MVANet
from pipeline.models.mvanet.swin import Swin
from pipeline.training.initial_weights import start_from
from pipeline.training.lora import learn_changes
from pipeline.training.network import Trained, parameter_groups
from pipeline.training.recipe import TrainRecipe

TINY = dataclasses.replace(LITE, dim=8)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The backbone as timm has it for classification."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("backbone") / "lite0.safetensors"
    save_file(timm.create_model(LITE.backbone, pretrained=False).state_dict(), path)
    return path


def test_a_backbones_weights_are_taken_over_and_the_rest_is_named(published: Path) -> None:
    network = MVANet(TINY)
    started = start_from(network, published, TINY)
    assert started.loaded == len(network.backbone.body.state_dict()) == 288
    assert {"lateral", "mclm", "mcrm", "output"} <= set(started.fresh)
    assert {key.partition(".")[0] for key in started.unused} == {"conv_head", "bn2", "classifier"}
    assert "288 tensors taken over; new are lateral" in str(started)
    wanted = timm.create_model(LITE.backbone, pretrained=False)
    torch.manual_seed(3)
    wanted = timm.create_model(LITE.backbone, pretrained=False).state_dict()
    assert torch.equal(network.backbone.body.state_dict()["conv_stem.weight"], wanted["conv_stem.weight"])


def test_weights_of_our_own_are_taken_over_whole(tmp_path: Path) -> None:
    torch.manual_seed(4)
    trained = MVANet(TINY)
    state = {key: value for key, value in trained.state_dict().items() if not key.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "own.safetensors")
    network = MVANet(TINY)
    started = start_from(network, tmp_path / "own.safetensors", TINY)
    assert not started.fresh
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())
    with pytest.raises(WeightsError, match="another network"):
        start_from(MVANet(LITE), tmp_path / "own.safetensors", LITE)


ODD = [("lacks", "conv_stem.weight"), ("more", "strange"), ("shape", "conv_stem.weight")]


@pytest.mark.parametrize(("change", "named"), ODD)
def test_a_key_that_does_not_fit_is_named(published: Path, tmp_path: Path, change: str, named: str) -> None:
    state = timm.create_model(LITE.backbone, pretrained=False).state_dict()
    if change == "lacks":
        del state["conv_stem.weight"]
    elif change == "more":
        state["strange"] = torch.zeros(3)
    else:
        state["conv_stem.weight"] = torch.zeros(32, 3, 5, 5)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=named):
        start_from(MVANet(TINY), tmp_path / "other.safetensors", TINY)


def recipe_with(**changes: object) -> TrainRecipe:
    facts = {"name": "x", "variant": "mvanet-lite", "dim": 8, "warm_steps": 0}
    return TrainRecipe.model_validate(facts | {"stages": [{"frame_px": 128, "batch": 1, "steps": 1}]} | changes)


def small_swin() -> MVANet:
    torch.manual_seed(0)
    return MVANet(TINY, Swin(dim=16, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=4))


def test_a_frozen_backbone_learns_nothing() -> None:
    trained = Trained(MVANet(TINY), recipe_with(backbone_rate=0))
    groups = parameter_groups(trained)
    assert not groups["backbone"]
    assert len(groups["decoder"]) > 50


def test_a_change_of_low_rank_begins_with_nothing_and_is_merged() -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4))
    x = torch.randn(3, 6)
    before = layers(x)
    learn_changes(layers, 2)
    assert torch.equal(layers(x), before)
    learning = {name: one for name, one in layers.named_parameters() if one.requires_grad}
    assert sum(one.numel() for one in learning.values()) == 2 * (6 + 5) + 2 * (5 + 4)
    layers(x).square().sum().backward()
    with torch.no_grad():
        for one in learning.values():
            if one.grad is not None:
                one.sub_(0.1 * one.grad)
    assert not torch.allclose(layers(x), before)
    merged = torch.nn.functional.linear(x, layers[0].weight, layers[0].bias).relu()
    torch.testing.assert_close(torch.nn.functional.linear(merged, layers[2].weight, layers[2].bias), layers(x))


def test_weights_with_changes_are_written_as_inference_has_them() -> None:
    network = small_swin()
    plain = {key: value.clone() for key, value in network.state_dict().items()}
    trained = Trained(network, recipe_with(lora_rank=2, start="file"))
    assert trained.weights().keys() == plain.keys()
    assert all(torch.equal(value, plain[key]) for key, value in trained.weights().items())
    assert all(2 in one.shape for one in parameter_groups(trained)["backbone"])
    for name, one in trained.network.backbone.named_parameters():
        if name.endswith("up"):
            torch.nn.init.normal_(one)
    fresh = small_swin()
    fresh.load_state_dict(trained.weights())
    x = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(fresh.eval()(x), trained.network.eval()(x))
