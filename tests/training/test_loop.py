"""A tiny variant trained for seconds: the loss falls, an interruption changes nothing, the weights run."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from safetensors import safe_open

from pipeline.errors import ConfigError, WeightsError
from pipeline.models.mvanet.checkpoint import load_mvanet, recognise
from pipeline.models.mvanet.network import LITE, MVANet
from pipeline.storage.files import Files
from pipeline.training import checkpoint as keep
from pipeline.training.distributed import Processes
from pipeline.training.loop import CHECKPOINT, STEADY, WEIGHTS, Course, Training, leads_to, pace
from pipeline.training.network import PARTS, Trained
from pipeline.training.photos import read_photos
from pipeline.training.recipe import TrainRecipe, load_training
from pipeline.training.samples import Samples

ALONE = Processes(0, 1, torch.device("cpu"))

PHOTOS = 12


@pytest.fixture(scope="module")
def manifest(disc_manifest: Callable[[int], Path]) -> Path:
    return disc_manifest(PHOTOS)


@pytest.fixture
def recipe() -> Callable[..., TrainRecipe]:
    """A factory of recipes of a network with few numbers, on the smallest frames."""

    def make(**changes: Any) -> TrainRecipe:
        facts = {
            "name": "tiny",
            "variant": "mvanet-lite",
            "dim": 8,
            "stages": [{"frame_px": 128, "batch": 2, "steps": 6}],
            "warm_steps": 2,
            "decay_steps": 2,
            "held_out_of": 4,
            "rate": 3e-3,
        }
        return TrainRecipe.model_validate(facts | changes)

    return make


@pytest.fixture
def training(manifest: Path) -> Callable[..., Training]:
    """A factory: one process, samples made in it."""

    def make(recipe: TrainRecipe, out: Path, start: Path | None = None, **course: Any) -> Training:
        out.mkdir(exist_ok=True)
        learned, held = read_photos(str(manifest), "truth_uri", Files(), recipe.held_out_of)
        asked = Course(out, course.pop("hours", 1), workers=course.pop("workers", 0), **course)
        return Training(recipe, asked, learned, held, None, start, ALONE)

    return make


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def test_the_loss_falls_and_the_object_is_found(training: Any, recipe: Any, tmp_path: Path) -> None:
    stages = [{"frame_px": 128, "batch": 4, "steps": 40}]
    one = training(recipe(stages=stages, decay_steps=10, average=0.8), tmp_path / "out", validate_every=10)
    one.run()
    with (tmp_path / "out" / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["10", "20", "30", "40"]
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
    assert float(rows[-1]["iou"]) > 0.5 > float(rows[0]["mae"])
    assert {*PARTS, "mae", "iou", "dice", "rate", "seconds"} < set(rows[0])
    assert cv2.imread(str(tmp_path / "out" / "sheet.jpg")).shape[1] == 3 * 128
    assert (tmp_path / "out" / "curve.png").exists()
    with safe_open(tmp_path / "out" / WEIGHTS, framework="pt") as file:
        assert TrainRecipe.model_validate_json(file.metadata()["recipe"]) == one.recipe
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118


def test_an_interruption_changes_no_number(training: Any, recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = training(recipe(), tmp_path / "whole")
    whole.run()
    torch.manual_seed(5)  # nothing may depend on what came before
    step, steps = Training._step, []

    def breaks_off(self: Training, batch: Any) -> torch.Tensor:
        if len(steps) == 4:
            raise KeyboardInterrupt
        steps.append(step(self, batch))
        return steps[-1]

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Training, "_step", breaks_off)
        training(recipe(), tmp_path / "broken", keep_every_s=0).run()
    resumed = training(recipe(), tmp_path / "broken")
    assert resumed.progress.step == 4
    assert resumed.run().step == 6
    ours, theirs = (weights_of(tmp_path / name / WEIGHTS) for name in ("broken", "whole"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    kept, wanted = (weights_of(tmp_path / name / CHECKPOINT) for name in ("broken", "whole"))
    assert kept.keys() == wanted.keys()
    assert all(torch.equal(kept[key], wanted[key]) for key in wanted)
    assert resumed.run().step == 6  # done is done


def test_a_training_is_prolonged_from_before_its_rate_fell(training: Any, recipe: Any, tmp_path: Path) -> None:
    short = recipe()
    training(short, tmp_path).run()
    assert keep.peek(tmp_path / STEADY)[1] == short.steady_steps == 4
    longer = recipe(stages=[{"frame_px": 128, "batch": 2, "steps": 9}])
    assert training(longer, tmp_path).progress.step == 4
    with pytest.raises(ConfigError, match="by another recipe"):
        training(recipe(rate=1e-2), tmp_path)


def test_recipes_that_begin_alike(recipe: Any) -> None:
    stages = [{"frame_px": 128, "batch": 2, "steps": 6}, {"frame_px": 256, "batch": 2, "steps": 4}]
    base = recipe()
    assert [round(pace(step, base), 3) for step in range(6)] == [0.5, 1, 1, 1, 1, 0.293]
    assert leads_to(base, 6, base)
    assert leads_to(base, 4, recipe(stages=stages))
    assert not leads_to(base, 6, recipe(stages=stages))  # its rate has begun to fall
    assert not leads_to(base, 4, recipe(seed=2))
    assert not leads_to(recipe(stages=stages), 8, recipe(stages=[{"frame_px": 128, "batch": 2, "steps": 12}]))


def test_a_file_to_start_from_may_lie_elsewhere_if_its_hash_is_known(recipe: Any) -> None:
    assert leads_to(recipe(start="a", start_sha256="0" * 64), 6, recipe(start="b", start_sha256="0" * 64))
    assert not leads_to(recipe(start="a", start_sha256="0" * 64), 6, recipe(start="a", start_sha256="1" * 64))
    assert not leads_to(recipe(start="a"), 6, recipe(start="b"))


def test_a_damaged_checkpoint_is_named(training: Any, recipe: Any, tmp_path: Path) -> None:
    training(recipe(stages=[{"frame_px": 128, "batch": 2, "steps": 5}]), tmp_path).run()
    whole = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="delete it"):
        training(recipe(), tmp_path)


def test_samples_are_the_same_alone_in_batches_and_in_other_processes(training: Any, recipe: Any, tmp_path: Path) -> None:
    one = training(recipe(), tmp_path)
    stage = one.recipe.stages[0]
    here = list(one._stage(stage, 3, 2))
    one.course = dataclasses.replace(one.course, workers=1)
    there = list(one._stage(stage, 3, 2))
    samples = Samples(one.photos, None, one.recipe, stage.frame_px)
    for batch, (ours, theirs) in enumerate(zip(here, there, strict=True)):
        for plane, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            assert torch.equal(mine, other)
            for place in range(stage.batch):
                assert torch.equal(mine[place], samples[3 + batch * stage.batch + place][plane])


def test_a_batch_equals_its_items_and_the_weights_run_as_a_model(training: Any, recipe: Any, tmp_path: Path) -> None:
    one = recipe(stages=[{"frame_px": 128, "batch": 2, "steps": 1}], warm_steps=0, decay_steps=0)
    training(one, tmp_path).run()
    network = load_mvanet(tmp_path / WEIGHTS, device=torch.device("cpu"), dtype=torch.float32)
    x = torch.randn(3, 3, 256, 256)
    with torch.inference_mode():
        together, one_by_one = network(x), torch.cat([network(one[None]) for one in x])
    assert recognise(tmp_path / WEIGHTS) == "trained-mvanet-lite"
    assert (together - one_by_one).abs().max() < 1e-4 * together.abs().max()


def test_side_outputs_are_of_training_alone(recipe: Any) -> None:
    trained = Trained(MVANet(dataclasses.replace(LITE, dim=8)), recipe())
    trained.train()
    x, alpha, edge = torch.randn(2, 3, 128, 128), torch.rand(2, 1, 128, 128), torch.rand(2, 1, 128, 128)
    losses = trained(x, alpha, edge)
    losses[0].backward()
    assert losses.shape == (len(PARTS),)
    assert torch.isfinite(losses).all()
    assert all(one.grad is not None for one in trained.parameters())
    assert not any(key.startswith("sides") for key in trained.weights())


def test_the_bundled_recipes_are_read() -> None:
    lite = load_training("mvanet-lite")
    assert lite.variant == "mvanet-lite"
    assert lite.mean == lite.std == (0.5, 0.5, 0.5)
    assert load_training("finetune-mvanet").lora_rank == 8
