"""A tiny network trained for seconds: the loss falls, an interruption changes nothing, the weights run."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.errors import ConfigError, WeightsError
from pipeline.log import log
from pipeline.models.mvanet.checkpoint import load_mvanet, recognise
from pipeline.models.mvanet.network import LITE, MVANet
from pipeline.storage.files import Files
from pipeline.training import checkpoint, samples
from pipeline.training.checkpoint import Progress, peek
from pipeline.training.distributed import Processes
from pipeline.training.loop import CHECKPOINT, STEADY, WEIGHTS, Trainer, TrainOptions
from pipeline.training.material import Material
from pipeline.training.network import LOSSES, SupervisedMVANet
from pipeline.training.photos import read_photos
from pipeline.training.recipe import TrainRecipe, load_training
from pipeline.training.reporting import Validation, append_row, report
from pipeline.training.samples import ProductSamples, Samples
from pipeline.training.schedule import difference, rate_factor

ALONE = Processes(0, 1, torch.device("cpu"))


def stage(steps: int, batch: int = 2, frame_px: int = 128) -> dict[str, int]:
    return {"frame_px": frame_px, "batch": batch, "steps": steps}


def recipe(**changes: Any) -> TrainRecipe:
    """Return the recipe of a network with few parameters on the smallest frames."""
    facts = {
        "name": "tiny",
        "variant": "mvanet-lite",
        "dim": 8,
        "stages": [stage(6)],
        "warm_steps": 2,
        "decay_steps": 2,
        "held_out_of": 4,
        "rate": 3e-3,
    }
    return TrainRecipe.model_validate(facts | changes)


@pytest.fixture(scope="module")
def trainer(disc_manifest: Callable[[int], Path]) -> Callable[..., Trainer]:
    """A factory of trainers on twelve photos, in one process."""
    manifest = disc_manifest(12)

    def make(recipe: TrainRecipe, out: Path, **options: Any) -> Trainer:
        out.mkdir(exist_ok=True)
        photos, held_out = read_photos(str(manifest), "truth_uri", Files(), recipe.held_out_of)
        options = {"validate_every": 100} | options
        return Trainer(recipe, TrainOptions(out, 1, workers=0, **options), photos, held_out, None, None, ALONE)

    return make


@pytest.fixture(scope="module")
def finished(trainer: Callable[..., Trainer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a complete training by ``recipe()``. Tests that write into it take a copy."""
    folder = tmp_path_factory.mktemp("finished")
    trainer(recipe(), folder).run()
    return folder


def test_the_loss_falls_and_the_object_is_found(trainer: Any, tmp_path: Path) -> None:
    one = trainer(recipe(stages=[stage(16)], decay_steps=4, average=0.8, rate=6e-3), tmp_path, validate_every=4)
    one.run()
    with (tmp_path / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["4", "8", "12", "16"]
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
    assert float(rows[-1]["iou"]) > 0.5 > float(rows[0]["mae"])
    assert {*LOSSES, "mae", "iou", "dice", "rate", "seconds"} < set(rows[0])
    assert cv2.imread(str(tmp_path / "sheet.jpg")).shape[1] == 3 * 128
    assert (tmp_path / "curve.png").exists()
    with safe_open(tmp_path / WEIGHTS, framework="pt") as file:
        assert TrainRecipe.model_validate_json(file.metadata()["recipe"]) == one.recipe
    assert {tensor.dtype for tensor in load_file(tmp_path / WEIGHTS).values()} == {torch.float16}


def steps_of(folder: Path) -> list[str]:
    """The steps in a training's learning curve."""
    with (folder / "curve.csv").open() as file:
        return [row["step"] for row in csv.DictReader(file)]


def test_an_interruption_changes_no_number(
    trainer: Any, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(5)  # nothing may depend on the state of the random generator
    step, steps = Trainer._step, []

    def interrupted(self: Trainer, batch: Any) -> torch.Tensor:
        if len(steps) == 4:
            raise KeyboardInterrupt
        steps.append(step(self, batch))
        return steps[-1]

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "_step", interrupted)
        trainer(recipe(), tmp_path / "interrupted", checkpoint_every_s=0, validate_every=2).run()
    with (tmp_path / "interrupted" / "curve.csv").open("a") as file:
        file.write("5,1\n6,")  # two rows that were written after the checkpoint, one of them cut off
    resumed = trainer(recipe(), tmp_path / "interrupted", validate_every=2)
    assert resumed.progress.step == 4
    assert steps_of(tmp_path / "interrupted") == ["2", "4"]
    assert resumed.run().step == 6
    assert steps_of(tmp_path / "interrupted") == ["2", "4", "6"]
    for name in (WEIGHTS, CHECKPOINT):
        ours, expected = (load_file(folder / name) for folder in (tmp_path / "interrupted", finished))
        assert ours.keys() == expected.keys()
        assert all(torch.equal(ours[key], expected[key]) for key in expected)
    assert resumed.run().step == 6  # nothing is left to do


def test_the_initial_weights_are_measured_before_the_first_step(trainer: Any, finished: Path, tmp_path: Path) -> None:
    start = str(finished / WEIGHTS)
    few = recipe(start=start, stages=[stage(3)], warm_steps=1, decay_steps=1)
    one = trainer(few, tmp_path, validate_every=None)
    one.run()
    with (tmp_path / "curve.csv").open() as file:
        first, *rows = list(csv.DictReader(file))
    assert (first["step"], first["rate"], first["loss"]) == ("0", "0", "")
    assert [row["step"] for row in rows] == ["1", "2", "3"], "ten times in a training, or after every step"
    assert 0 < float(first["dice"]) < 1 and float(rows[-1]["loss"]) > 0
    assert trainer(few, tmp_path).run().step == 3
    assert steps_of(tmp_path) == ["0", "1", "2", "3"]


def test_initial_weights_are_measured_without_a_warm_up(trainer: Any, finished: Path, tmp_path: Path) -> None:
    short = recipe(start=str(finished / WEIGHTS), stages=[stage(1)], warm_steps=0, decay_steps=0)
    trainer(short, tmp_path).run()
    with (tmp_path / "curve.csv").open() as file:
        assert [(row["step"], row["rate"]) for row in csv.DictReader(file)] == [("0", "0"), ("1", "0.003")]


def test_a_process_whose_photos_cannot_be_read_writes_no_sheet(tmp_path: Path) -> None:
    """The others have measured theirs."""
    report(tmp_path, Progress(step=1, spent_s=2), 0.1, {}, Validation(0.1, 0.8, 0.9), torch.empty(0, dtype=torch.uint8))
    assert {path.name for path in tmp_path.iterdir()} == {"curve.csv", "curve.png"}


def test_photos_held_out_that_cannot_be_read_are_left_out(
    trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, said = trainer(recipe(), tmp_path), list[str]()
    good = one.held_out
    lost = [dataclasses.replace(item, truth_uri=good.items[-1].image_uri + ".gone") for item in good.items[1:]]
    one.held_out = dataclasses.replace(good, items=[*lost, good.items[0]])
    monkeypatch.setattr(log, "warning", said.append)
    alone = dataclasses.replace(good, items=good.items[:1])
    (validation, _), one.held_out = one.validate(), alone
    assert len(lost) == sum("left out of the validation" in text for text in said) > 0
    assert validation == one.validate()[0]
    one.held_out = dataclasses.replace(good, items=lost)
    with pytest.raises(ConfigError, match="none of the photos held out for validation can be read"):
        one.validate()


def test_weights_are_written_after_an_interruption_in_the_last_report(
    trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = recipe(stages=[stage(1)], warm_steps=0, decay_steps=0)
    with monkeypatch.context() as patched, pytest.raises(ConfigError):
        patched.setattr(Trainer, "validate", lambda self: (_ for _ in ()).throw(ConfigError("interrupted")))
        trainer(short, tmp_path).run()
    assert not (tmp_path / WEIGHTS).exists()
    assert trainer(short, tmp_path).run().step == 1
    assert (tmp_path / WEIGHTS).exists() and steps_of(tmp_path) == ["1"]


def test_an_error_of_a_worker_process_is_told_as_it_is(trainer: Any, tmp_path: Path) -> None:
    one = trainer(recipe(), tmp_path)
    one.photos = dataclasses.replace(one.photos, items=[dataclasses.replace(one.photos.items[0], truth_uri="/nowhere.png")])
    one.options = dataclasses.replace(one.options, workers=1)
    with pytest.raises(ConfigError) as refused:
        one.run()
    assert str(refused.value) == "8 photos in a row cannot be read; check the manifest's images and ground truth"


def test_a_training_is_extended_from_before_its_rate_decays(trainer: Any, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    assert checkpoint.peek(tmp_path / STEADY)[1] == recipe().steady_steps == 4
    assert trainer(recipe(stages=[stage(9)]), tmp_path).progress.step == 4
    assert steps_of(tmp_path) == [], "the row of step 6 is beyond the checkpoint"
    with pytest.raises(ConfigError, match=r"with another recipe: rate is 0.003 there and 0.01 here; .* or delete it"):
        trainer(recipe(rate=1e-2), tmp_path)


def test_a_training_on_other_items_or_without_its_composites_is_not_resumed(
    disc_manifest: Callable[[int], Path], material: Material, tmp_path: Path
) -> None:
    def train(count: int, material: Material | None = None, out: Path = tmp_path / "out") -> Trainer:
        out.mkdir(exist_ok=True)
        photos, held_out = read_photos(str(disc_manifest(count)), "truth_uri", Files(), 4)
        short = recipe(stages=[stage(1)], warm_steps=0, decay_steps=0)
        return Trainer(short, TrainOptions(out, 1, workers=0), photos, held_out, material, None, ALONE)

    train(12).run()
    assert train(12).progress.step == 1, "the same ids in another folder"
    with pytest.raises(ConfigError, match="on 12 other items, but the manifest has 11; give the manifest of that training"):
        train(11)
    with pytest.raises(ConfigError, match="without composites; leave out --composites, or train into another folder"):
        train(12, material)
    train(12, material, tmp_path / "with").run()
    with pytest.raises(ConfigError, match="with composites; give --composites"):
        train(12, None, tmp_path / "with")


def test_products_have_a_column_of_their_own(
    disc_manifest: Callable[[int], Path], material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "HELD_OUT_PRODUCTS", 2)
    photos, held_out = read_photos(str(disc_manifest(4)), "truth_uri", Files(), 4)
    for out, views in ((tmp_path / "with", {"products": 0.2}), (tmp_path / "without", {})):
        out.mkdir()
        one = recipe(stages=[stage(2)], warm_steps=1, decay_steps=1, views=views)
        Trainer(one, TrainOptions(out, 1, workers=0, validate_every=1), photos, held_out, material, None, ALONE).run()
    with (tmp_path / "with" / "curve.csv").open() as file:
        values = [float(row["products_dice"]) for row in csv.DictReader(file)]
    assert len(values) == 2 and all(0 <= value <= 1 for value in values)
    assert "products_dice" not in (tmp_path / "without" / "curve.csv").read_text()


def test_products_to_validate_on_are_always_the_same(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    one, again = (ProductSamples(material.held_out(), 64)[3] for _ in range(2))
    assert one.frame.shape == (64, 64, 3) and one.alpha.max() == 255
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one.frame, ProductSamples(material.held_out(), 64)[4].frame)


def test_a_curve_of_an_earlier_version_gets_the_new_column(tmp_path: Path) -> None:
    curve = tmp_path / "curve.csv"
    append_row(curve, {"step": 1, "dice": 0.5})
    append_row(curve, {"step": 2, "dice": 0.6, "products_dice": 0.25})
    assert curve.read_text().split() == ["step,dice,products_dice", "1,0.5,", "2,0.6,0.25"]


def test_a_checkpoint_of_an_earlier_version_is_resumed(trainer: Any, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    with safe_open(tmp_path / CHECKPOINT, framework="pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != "data"}
    save_file(load_file(tmp_path / CHECKPOINT), tmp_path / CHECKPOINT, metadata)
    assert trainer(recipe(), tmp_path).progress.step == 6


def test_only_recipes_with_the_same_first_steps_can_resume() -> None:
    base, longer = recipe(), recipe(stages=[stage(6), stage(4, frame_px=256)])
    assert [round(rate_factor(step, base), 3) for step in range(6)] == [0.5, 1, 1, 1, 1, 0.293]
    assert difference(base, 6, base) is None
    assert difference(base, 4, longer) is None
    said = [
        difference(base, 6, longer),  # its rate has begun to decay
        difference(base, 4, recipe(seed=2)),
        difference(longer, 8, recipe(stages=[stage(12)])),
        difference(longer, 8, recipe(stages=[stage(7), stage(3, frame_px=256)])),  # more steps in a stage that is over
        difference(base, 6, recipe(stages=[stage(5)])),
        difference(base, 4, recipe(views={"products": 0.2})),
    ]
    assert difference(base, 4, recipe(name="longer", stages=[stage(9)])) is None
    assert said == [
        "stages and decay_steps: step 5 has 0.293 of the full learning rate there and 1 here",
        "seed is 1 there and 2 here",
        "stages: step 6 has 2 frames of 256 pixels there and 2 frames of 128 pixels here",
        "stages: step 6 has 2 frames of 256 pixels there and 2 frames of 128 pixels here",
        "stages have 5 steps here, and 6 are done",
        "views.products is 0 there and 0.2 here",
    ]


def test_a_start_file_may_move_if_its_hash_is_known() -> None:
    zeros, ones = {"start_sha256": "0" * 64}, {"start_sha256": "1" * 64}
    assert difference(recipe(start="a", **zeros), 6, recipe(start="b", **zeros)) is None
    assert (difference(recipe(start="a", **zeros), 6, recipe(start="a", **ones)) or "").startswith("start_sha256 is 000")
    assert difference(recipe(start="a"), 6, recipe(start="b")) == "start is a there and b here"


def test_a_damaged_checkpoint_is_named(trainer: Any, finished: Path, tmp_path: Path) -> None:
    data = (finished / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match="delete it"):
        trainer(recipe(), tmp_path)


def test_samples_are_the_same_alone_in_batches_and_in_worker_processes(trainer: Any, tmp_path: Path) -> None:
    one = trainer(recipe(), tmp_path)
    first = one.recipe.stages[0]
    here = list(one._stage(first, 3, 2))
    one.options = dataclasses.replace(one.options, workers=1)
    there = list(one._stage(first, 3, 2))
    samples = Samples(one.photos, None, one.recipe, first.frame_px)
    for batch, (ours, theirs) in enumerate(zip(here, there, strict=True)):
        for plane, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            assert torch.equal(mine, other)
            for place in range(first.batch):
                assert torch.equal(mine[place], samples[3 + batch * first.batch + place][plane])


def test_the_weights_run_as_a_model_and_a_batch_equals_its_items(finished: Path) -> None:
    network = load_mvanet(finished / WEIGHTS, device=torch.device("cpu"), dtype=torch.float32)
    x = torch.randn(3, 3, 256, 256)
    with torch.inference_mode():
        together, one_by_one = network(x), torch.cat([network(one[None]) for one in x])
    assert recognise(finished / WEIGHTS) == "trained-mvanet-lite"
    assert (together - one_by_one).abs().max() < 1e-4 * together.abs().max()


def test_losses_without_weight_cost_nothing() -> None:
    network = SupervisedMVANet(MVANet(dataclasses.replace(LITE, dim=8)), recipe(losses={"local": 0, "overview": 0})).train()
    losses = network(torch.randn(2, 3, 128, 128), torch.rand(2, 1, 128, 128), torch.rand(2, 1, 128, 128))
    losses[0].backward()
    assert dict(zip(LOSSES, losses.tolist(), strict=True))["local"] == 0
    assert all(one.grad is not None for one in network.parameters()), "several processes wait for every gradient"


def test_side_outputs_are_not_written() -> None:
    network = SupervisedMVANet(MVANet(dataclasses.replace(LITE, dim=8)), recipe()).train()
    x, alpha, edge = torch.randn(2, 3, 128, 128), torch.rand(2, 1, 128, 128), torch.rand(2, 1, 128, 128)
    losses = network(x, alpha, edge)
    losses[0].backward()
    assert losses.shape == (len(LOSSES),)
    assert torch.isfinite(losses).all()
    assert all(one.grad is not None for one in network.parameters())
    assert not any(key.startswith("sides") for key in network.weights())


def test_the_bundled_recipes_are_valid() -> None:
    lite = load_training("mvanet-lite")
    assert lite.variant == "mvanet-lite"
    assert lite.mean == lite.std == (0.5, 0.5, 0.5)
    assert load_training("finetune-mvanet").lora_rank == 8


@pytest.mark.parametrize(
    "progress", ["[" * 5000, "[]", '{"step": -1, "spent_s": 1}', '{"step": "3", "spent_s": 1}', '{"step": 3, "spent_s": NaN}']
)
def test_a_checkpoint_with_impossible_progress_is_named(tmp_path: Path, progress: str) -> None:
    path = tmp_path / CHECKPOINT
    save_file({"network.x": torch.zeros(1)}, path, {"recipe": recipe().model_dump_json(), "progress": progress})
    with pytest.raises(WeightsError, match="is not a checkpoint, or is damaged .*; delete it"):
        peek(path)
